//! Custom kinds on a whole cloud, with kubectl: definition, objects, rules, owners, and what goes with them.

use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::wait_for;
use crate::walk_kubernetes::manifest;

const PATIENCE: Duration = Duration::from_secs(60);

const DEFINITION: &str = r#"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: backups.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: backups, kind: Backup, shortNames: [bk], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Keep, type: integer, jsonPath: .spec.keep}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [target]
            x-kubernetes-validations:
            - {rule: "self.keep <= 30 || self.archive", message: "more than 30 need an archive"}
            properties:
              target:
                type: string
                x-kubernetes-validations: [{rule: self == oldSelf, message: target is immutable}]
              keep: {type: integer, default: 7, description: How many are kept.}
              archive: {type: boolean, default: false}
          status:
            type: object
            properties: {done: {type: integer}}
"#;

fn backup(name: &str, spec: &str) -> String {
    format!("apiVersion: shop.example.com/v1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

#[test]
fn custom_kinds_live_in_a_cloud_as_root() {
    let mut cloud = Cloud::up();
    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    let definition = manifest(&cloud, "definition.yaml", DEFINITION);
    let object = manifest(&cloud, "backup.yaml", &backup("shop", "target: db"));
    kubectl(&format!("apply -f {definition}")).ok();
    kubectl(&format!("apply -f {object}")).ok();
    kubectl("wait --for condition=established --timeout=30s crd/backups.shop.example.com").ok();
    let table = kubectl("get bk").ok();
    assert!(table.contains("KEEP") && table.contains("shop"), "{table}");
    assert!(kubectl("explain backup.spec.keep").ok().contains("How many are kept."));
    assert!(kubectl("get all").ok().contains("backup.shop.example.com/shop"));

    let moved = manifest(&cloud, "moved.yaml", &backup("shop", "target: other"));
    assert!(kubectl(&format!("apply -f {moved}")).fails().contains("target is immutable"));
    let many = manifest(&cloud, "many.yaml", &backup("many", "target: db, keep: 31"));
    assert!(kubectl(&format!("apply -f {many}")).fails().contains("more than 30 need an archive"));

    // The collector follows kinds that came after it: what the backup owns goes with it.
    let uid = kubectl("get bk shop -o jsonpath={.metadata.uid}").ok();
    let owned = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences:\n  - {{apiVersion: shop.example.com/v1, kind: Backup, name: shop, uid: {}}}\n",
        uid.trim()
    );
    let owned = manifest(&cloud, "owned.yaml", &owned);
    kubectl(&format!("apply -f {owned}")).ok();
    kubectl("delete bk shop --timeout=30s").ok();
    let gone = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>()).code != 0;
    wait_for("the end of what was owned", PATIENCE, || gone("get configmap owned").then_some(()));

    // A namespace takes its custom objects with it.
    kubectl("create namespace shop").ok();
    kubectl(&format!("-n shop apply -f {object}")).ok();
    kubectl("delete namespace shop --timeout=60s").ok();
    assert_eq!(kubectl("get bk -A -o name").ok().trim(), "");
    kubectl(&format!("delete -f {definition} --timeout=30s")).ok();
    assert!(gone("get bk"));
    cloud.end();
}
