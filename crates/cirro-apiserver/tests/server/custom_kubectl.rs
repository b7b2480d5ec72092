//! kubectl and custom kinds.

use crate::custom::definition;
use crate::kubectl::Cluster;

/// A schema as large as those of big operators: thousands of members with descriptions.
fn large() -> serde_json::Value {
    let mut large = definition();
    large["metadata"]["name"] = "larges.big.example.com".into();
    large["spec"]["group"] = "big.example.com".into();
    large["spec"]["names"] = serde_json::json!({"plural": "larges", "kind": "Large"});
    let mut properties = serde_json::Map::new();
    for outer in 0..60 {
        let mut inner = serde_json::Map::new();
        for index in 0..60 {
            let about = format!(
                "Member {index} of part {outer} of an object that has many of them, as large operators have."
            );
            let leaf = serde_json::json!({"type": "string", "description": about});
            let list = serde_json::json!({"type": "array", "items": {"type": "object", "properties": {"value": leaf}}});
            inner.insert(format!("member{index}"), if index % 2 == 0 { leaf } else { list });
        }
        properties.insert(format!("part{outer}"), serde_json::json!({"type": "object", "properties": inner}));
    }
    large["spec"]["versions"] = serde_json::json!([{"name": "v1", "served": true, "storage": true, "schema":
        {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}}}]);
    large
}

#[tokio::test]
async fn kubectl_defines_kinds_and_uses_them() {
    let Some(cluster) = Cluster::start().await else { return };
    let write = |name: &str, value: &serde_json::Value| {
        std::fs::write(cluster.home.path().join(name), value.to_string()).unwrap();
        cluster.home.path().join(name).display().to_string()
    };
    let definition_file = write("definition.json", &definition());
    let object = serde_json::json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "my"},
        "spec": {"cronSpec": "* * * * */5", "image": "awesome"}});
    let object_file = write("object.json", &object);
    cluster.run(&format!("apply -f {definition_file}")).await;
    cluster.run(&format!("apply -f {object_file}")).await;
    cluster.run("wait --for condition=established --timeout=30s crd/crontabs.stable.example.com").await;
    let table = cluster.run("get ct").await;
    assert!(table.contains("SPEC") && table.contains("* * * * */5"), "{table}");
    let explained = cluster.run("explain ct.spec.cronSpec").await;
    assert!(explained.contains("When it runs."), "{explained}");
    cluster.run("scale --replicas=4 ct/my").await;
    assert_eq!(cluster.run("get ct my -o jsonpath={.spec.replicas}").await, "4");
    let mut changed = object.clone();
    changed["spec"]["cronSpec"] = "1 * * * *".into();
    let changed_file = write("changed.json", &changed);
    assert!(cluster.run(&format!("apply -f {changed_file}")).await.contains("configured"));
    cluster.run("patch ct my --type=merge -p {\"spec\":{\"image\":\"other\"}}").await;
    let applied = cluster.run(&format!("apply --server-side --force-conflicts -f {object_file}")).await;
    assert!(applied.contains("serverside-applied"), "{applied}");
    let large_file = write("large.json", &large());
    cluster.run(&format!("create -f {large_file}")).await;
    assert!(cluster.run("explain large.spec.part3.member3.value").await.contains("Member 3 of part 3"));
    assert!(cluster.run("api-resources --api-group=big.example.com").await.contains("larges"));
    cluster.run(&format!("delete -f {definition_file} --timeout=30s")).await;
    let gone = cluster.command("get ct").output().await.unwrap();
    assert!(!gone.status.success());
}
