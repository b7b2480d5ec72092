//! A cloud whose API objects move to etcd.

use std::process::Command;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{run, wait_for};

#[path = "../../../cirro-store/tests/etcd_server/mod.rs"]
mod etcd_server;

use etcd_server::EtcdServer;

const PATIENCE: Duration = Duration::from_secs(90);

fn get(cloud: &Cloud, kind: &str, name: &str, path: &str) -> String {
    cloud.kubectl(&["get", kind, name, "-o", &format!("jsonpath={{{path}}}")]).ok()
}

fn start_on(cloud: &Cloud, store: &str) -> String {
    run(cloud.up_command().args(["--store", store])).ok()
}

#[test]
fn a_cloud_moves_to_etcd_and_goes_on_as_root() {
    let etcd = EtcdServer::start();
    let store = format!("etcd://{}/lab", etcd.address);
    let mut cloud = Cloud::up();
    cloud.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]).ok();
    cloud.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=a=secret"]).ok();
    let uid = get(&cloud, "configmap", "kept", ".metadata.uid");
    let old: u64 = get(&cloud, "configmap", "kept", ".metadata.resourceVersion").parse().expect("a number");
    let mover = |cloud: &Cloud, to: &str| run(&mut cloud.cirro(&["store", "move", to]));
    let refused = mover(&cloud, &store).fails();
    assert!(refused.contains("cirro down"), "{refused}");
    run(&mut cloud.cirro(&["down"])).ok();
    let refused = run(cloud.up_command().args(["--store", &store])).fails();
    assert!(refused.contains("cirro store move"), "{refused}");
    let said = mover(&cloud, &store).ok();
    assert!(said.starts_with("moved ") && said.contains(&format!("--store {store}")), "{said}");
    let refused = mover(&cloud, &store).fails();
    assert!(refused.contains("moved before"), "{refused}");
    let refused = run(&mut cloud.up_command()).fails();
    assert!(refused.contains("start with --store"), "{refused}");

    let said = start_on(&cloud, &store);
    assert!(said.starts_with("ready"), "{said}");
    assert_eq!(get(&cloud, "configmap", "kept", ".metadata.uid"), uid);
    assert_eq!(get(&cloud, "secret", "hidden", ".data.a"), "c2VjcmV0");
    let new: u64 = get(&cloud, "configmap", "kept", ".metadata.resourceVersion").parse().expect("a number");
    assert!(new > old, "{new} is not above {old}");
    let watch = format!("/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={old}");
    let told = cloud.kubectl(&["get", "--raw", &watch]).ok();
    assert!(told.contains(r#""code":410"#), "{told}");
    let keys = run(Command::new("etcdctl").env("ETCDCTL_API", "3").args([
        "--endpoints",
        &etcd.address.to_string(),
        "get",
        "--prefix",
        "/lab/objects/registry/core/secrets/default/hidden",
    ]));
    assert!(!keys.ok().contains("c2VjcmV0"), "secrets are sealed there too");

    // Controllers and scheduler lead by their leases, and work.
    cloud.load("busybox");
    cloud.kubectl(&["create", "deployment", "web", "--image=busybox", "--", "sleep", "1000"]).ok();
    wait_for("the deployment", PATIENCE, || {
        (get(&cloud, "deployment", "web", ".status.availableReplicas") == "1").then_some(())
    });
    for lease in ["kube-controller-manager", "kube-scheduler"] {
        let holder = cloud.kubectl(&[
            "get",
            "lease",
            "-n",
            "kube-system",
            lease,
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ]);
        let holder = holder.ok();
        assert!(holder.starts_with("node-1_"), "{holder}");
    }
    run(&mut cloud.cirro(&["down"])).ok();
    start_on(&cloud, &store);
    assert_eq!(get(&cloud, "configmap", "kept", ".metadata.uid"), uid);
    cloud.kubectl(&["delete", "deployment", "web"]).ok();
    cloud.end();
}
