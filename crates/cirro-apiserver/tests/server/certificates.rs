//! Signing requests: made, approved, issued, used.

use std::process::Command;

use cirro_apiserver::{ApiServer, Options};
use cirro_store::MemoryObjectStore;
use serde_json::{Value, json};

use crate::fixture::{request, send};
use crate::kubectl::Cluster;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Makes a key and a request with openssl, as people do; returns the request in base64.
fn openssl(directory: &std::path::Path, subject: &str) -> String {
    let made = Command::new("openssl")
        .args([
            "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "csr.pem", "-subj",
            subject,
        ])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(std::fs::read(directory.join("csr.pem")).unwrap())
}

fn signing_request(name: &str, signer: &str, text: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"request": text, "signerName": signer,
        "usages": ["digital signature", "key encipherment", "client auth"], "expirationSeconds": 3600}})
}

#[tokio::test]
async fn requests_are_checked_and_approved_by_who_may() {
    let keys = tempfile::tempdir().unwrap();
    let options = Options { keys: Some(keys.path().join("pki")), ..Options::default() };
    let server = ApiServer::open(std::sync::Arc::new(MemoryObjectStore::new()), options).await.unwrap();
    let client = "kubernetes.io/kube-apiserver-client";
    let text = openssl(keys.path(), "/O=devs/O=ops/CN=jane");
    let made = send(&server, "POST", REQUESTS, &signing_request("jane", client, &text)).await;
    assert_eq!(
        (made.code, &made.body["spec"]["username"]),
        (201, &json!("kubernetes-admin")),
        "{}",
        made.body
    );
    let approval = format!("{REQUESTS}/jane/approval");
    let mut wanted = made.body.clone();
    wanted["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "Mine"}]});
    let approver = cirro_apiserver::User { name: "approver".into(), ..Default::default() };
    let rules = json!({"metadata": {"name": "approver"}, "rules": [{"verbs": ["update"], "apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests/approval"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    assert_eq!(send(&server, "POST", &format!("{rbac}/clusterroles"), &rules).await.code, 201);
    let binding = json!({"metadata": {"name": "approver"}, "roleRef": {"kind": "ClusterRole", "name": "approver"},
        "subjects": [{"kind": "User", "name": "approver"}]});
    assert_eq!(send(&server, "POST", &format!("{rbac}/clusterrolebindings"), &binding).await.code, 201);
    let put = request("PUT", &approval, "application/json", wanted.to_string());
    let refused = crate::fixture::read(server.respond(&approver, put).await).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.body["message"]
            .as_str()
            .unwrap()
            .contains("not permitted to approve requests with signerName")
    );
    let done = send(&server, "PUT", &approval, &wanted).await;
    assert_eq!(done.code, 200, "{}", done.body);
    assert!(done.body["status"]["certificate"].is_string(), "{}", done.body);
    // What was said is not taken back.
    wanted["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    wanted["status"] = json!({"conditions": [{"type": "Denied", "status": "True"}]});
    assert_eq!(send(&server, "PUT", &approval, &wanted).await.code, 422);
    let masters = openssl(keys.path(), "/O=system:masters/CN=jane");
    let refused = send(&server, "POST", REQUESTS, &signing_request("root", client, &masters)).await;
    assert!(refused.body["message"].as_str().unwrap().contains("system:masters group is not allowed"));
    let wrong = send(&server, "POST", REQUESTS, &signing_request("x", client, "bm90aGluZw==")).await;
    assert_eq!(wrong.code, 422);
    // A node's certificate has a node's subject.
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    send(&server, "POST", REQUESTS, &signing_request("node", kubelet, &text)).await;
    let approved = json!({"metadata": {"name": "node"}, "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    let failed = send(&server, "PUT", &format!("{REQUESTS}/node/approval"), &approved).await.body;
    assert_eq!(
        failed["status"]["conditions"][1]["message"], "subject organization is not system:nodes",
        "{failed}"
    );
    assert!(failed["status"].get("certificate").is_none());
}

#[tokio::test]
async fn kubectl_approves_and_the_certificate_opens_the_door() {
    let Some(cluster) = Cluster::start_with_authority().await else { return };
    let home = cluster.home.path();
    let text = openssl(home, "/O=devs/O=ops/CN=jane");
    let manifest = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "jane"}, "spec": {"request": text, "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client"}});
    let made = cluster.feed("create -f -", &manifest.to_string()).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(cluster.run("get csr").await.contains("Pending"));
    assert!(cluster.run("certificate approve jane").await.contains("approved"));
    assert!(cluster.run("get csr").await.contains("Approved,Issued"));
    let certificate = cluster.run("get csr jane -o jsonpath={.status.certificate}").await;
    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.decode(certificate).unwrap();
    std::fs::write(home.join("jane.crt"), pem).unwrap();
    let [certificate, key] = ["jane.crt", "key.pem"].map(|name| home.join(name).display().to_string());
    cluster
        .run(&format!("config set-credentials jane --client-certificate={certificate} --client-key={key}"))
        .await;
    cluster.run("config set-context jane --cluster=cirro --user=jane").await;
    let who = cluster.run("--context jane auth whoami").await;
    assert!(who.contains("jane") && who.contains("[devs ops system:authenticated]"), "{who}");
}
