//! A virtual machine through the node's seam, on a tenant's subnet beside containers.
//!
//! Needs QEMU and the kernel that `scripts/guest-kernel` fetches.

use std::path::Path;
use std::process::{Command, Stdio};

use cirro_build::BuildRequest;
use cirro_seams::container::{ContainerSpec, NetworkMode};
use cirro_seams::node::{InstanceRequest, NodeEngine, NodeError, NodeEvent, TenantNetworks};
use cirro_types::kinds::{SecurityGroupSpec, SubnetSpec, VpcSpec};

use super::builds::context;
use super::lab::{Lab, script, with_engine, within};

const UID: &str = "5a0c4f0e-9a6e-4d3f-8b6f-110b7f2c7e00";

fn networks() -> TenantNetworks {
    let key = |name: &str| ("default".to_owned(), name.to_owned());
    let mut networks = TenantNetworks::default();
    for (vpc, subnet, range) in [("main", "apps", "10.9.0.0/16"), ("other", "away", "10.9.0.0/16")] {
        networks.vpcs.insert(key(vpc), VpcSpec { cidr: range.parse().unwrap() });
        let cidr = "10.9.1.0/24".parse().unwrap();
        networks.subnets.insert(key(subnet), SubnetSpec { vpc: vpc.into(), cidr });
    }
    let group: SecurityGroupSpec =
        serde_json::from_str(r#"{"vpc":"main","ingress":[{"protocol":"tcp","ports":80}]}"#).unwrap();
    networks.groups.insert(key("web"), group);
    networks
}

fn request() -> InstanceRequest {
    InstanceRequest {
        uid: UID.into(),
        namespace: "default".into(),
        name: "vm".into(),
        image: "page".into(),
        cpu: 1,
        memory: 256 << 20,
        subnet: "apps".into(),
        security_groups: vec!["web".into()],
        user_data: None,
    }
}

/// Builds an image that serves a page.
async fn build_page(lab: &Lab) {
    let dockerfile = "FROM busybox\nRUN echo from the machine > /tmp/index.html\n\
        CMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/tmp\"]\n";
    let request = BuildRequest {
        dockerfile: "Dockerfile".into(),
        tags: vec!["page".parse().unwrap()],
        network: "none".into(),
        ..BuildRequest::default()
    };
    let mut events = lab.engine.build_image(context(dockerfile), request).await.unwrap();
    while let Some(event) = within(events.recv()).await {
        event.unwrap();
    }
}

fn on(subnet: &str, text: &str) -> ContainerSpec {
    let network = NetworkMode::Subnet { namespace: "default".into(), name: subnet.into() };
    ContainerSpec { network, ..script(text) }
}

/// Asks for the page by the machine's name until it answers. (Debian's static busybox dies of `wget -T`.)
async fn wait_for_page(lab: &Lab, node: &dyn NodeEngine) {
    let ask =
        "for i in $(seq 90); do timeout 3 wget -q -O - http://vm/index.html && exit 0; sleep 1; done; exit 1";
    let (out, err, code) = lab.output(on("apps", ask)).await;
    let console = node.instance_console(UID, 4000).await.unwrap();
    assert_eq!(
        (out.as_str(), code),
        ("from the machine\n", Some(0)),
        "{err} {}",
        String::from_utf8_lossy(&console)
    );
}

#[test]
fn a_machine_boots_serves_survives_the_engine_and_goes_as_root() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest-kernel");
    assert!(
        Command::new(script).stdout(Stdio::null()).status().unwrap().success(),
        "scripts/guest-kernel failed"
    );
    with_engine(|lab| async move {
        build_page(&lab).await;
        let node = lab.engine.node();
        let lost = node.ensure_instance(request()).await.unwrap_err();
        assert!(matches!(lost, NodeError::NotFound(_)), "without its subnet: {lost}");
        assert!(lab.engine.leaks().await.unwrap().is_empty());
        node.set_tenant_networks(networks()).await.unwrap();
        let state = within(node.ensure_instance(request())).await.unwrap();
        assert!(state.running && state.address.is_some());
        assert_eq!(node.ensure_instance(request()).await.unwrap(), state);
        wait_for_page(&lab, &*node).await;
        let closed = on("apps", "nc -w 3 vm 22 < /dev/null && echo open || echo closed");
        assert_eq!(lab.output(closed).await.0, "closed\n");
        let address = state.address.unwrap();
        let away =
            on("away", &format!("timeout 3 wget -q -O - http://{address}/index.html || echo unreachable"));
        assert_eq!(lab.output(away).await.0, "unreachable\n");
        lab.engine.prune_containers(|_| true).await.unwrap();
        drop(node);

        let lab = lab.restarted().await;
        let node = lab.engine.node();
        node.set_tenant_networks(networks()).await.unwrap();
        assert_eq!(node.list_instances().await.unwrap(), [state]);
        wait_for_page(&lab, &*node).await;
        let mut events = node.events();
        within(node.stop_instance(UID)).await.unwrap();
        assert!(!node.list_instances().await.unwrap()[0].running);
        within(async { while events.recv().await.unwrap() != NodeEvent::Instance(UID.into()) {} }).await;
        within(node.remove_instance(UID)).await.unwrap();
        within(node.remove_instance(UID)).await.unwrap();
        assert!(node.list_instances().await.unwrap().is_empty());
        lab.engine.prune_containers(|_| true).await.unwrap();
        node.set_tenant_networks(TenantNetworks::default()).await.unwrap();
        drop(node);
        lab
    });
}
