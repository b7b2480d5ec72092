//! A pod talks to the API as client libraries do: with its mounted token, at `kubernetes.default`.

use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::wait_for;
use crate::walk_kubernetes::manifest;

const PATIENCE: Duration = Duration::from_secs(90);

const POD: &str = r#"apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: reader}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  serviceAccountName: reader
  restartPolicy: Never
  containers:
  - name: c
    image: python:latest
    imagePullPolicy: IfNotPresent
    command: [python3, -c]
    args:
    - |
      import json, os, ssl, urllib.error, urllib.request
      home = "/var/run/secrets/kubernetes.io/serviceaccount/"
      read = lambda name: open(home + name).read()
      context = ssl.create_default_context(cafile=home + "ca.crt")
      def ask(host, path):
          request = urllib.request.Request(f"https://{host}{path}",
              headers={"Authorization": "Bearer " + read("token")})
          try:
              return json.load(urllib.request.urlopen(request, context=context, timeout=20))
          except urllib.error.HTTPError as error:
              return json.load(error)
      pods = f"/api/v1/namespaces/{read('namespace')}/pods"
      print("pods", [pod["metadata"]["name"] for pod in ask("kubernetes.default", pods)["items"]])
      address = os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
      print("secrets", ask(address, "/api/v1/namespaces/default/secrets")["message"])
"#;

#[test]
fn a_pod_reads_with_its_token_what_its_role_allows_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("python");
    let file = manifest(&cloud, "client.yaml", POD);
    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    kubectl(&format!("apply -f {file}")).ok();
    wait_for("the pod's end", PATIENCE, || {
        let phase = kubectl("get pod client -o jsonpath={.status.phase}").ok();
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(())
    });
    let said = kubectl("logs client").ok();
    assert!(said.contains("pods ['client']"), "{said}\n{}", kubectl("describe pod client").ok());
    assert!(
        said.contains("User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\""),
        "{said}"
    );
    assert!(kubectl("get configmap kube-root-ca.crt -o jsonpath={.data}").ok().contains("BEGIN CERTIFICATE"));
    // What is deleted comes back.
    kubectl("delete serviceaccount default").ok();
    wait_for("the account", PATIENCE, || (kubectl("get serviceaccount default").code == 0).then_some(()));
    cloud.end();
}
