//! The node's seam: sandboxes and pods' containers.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use cirro_engine::EngineError;
use cirro_seams::container::{ContainerSpec, NetworkMode, Owner};
use cirro_seams::network::{PortPublish, Protocol};
use cirro_seams::node::{LogOptions, NodeError, NodeEvent, SandboxSpec};
use cirro_sys::netns::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::lab::{script, with_engine, within};

const UID: &str = "0b7f2c7e-5a0c-4f0e-9a6e-0d3f3b8f6a11";

fn sandbox(uid: &str, host_port: Option<u16>) -> SandboxSpec {
    SandboxSpec {
        uid: uid.into(),
        namespace: "default".into(),
        name: "web-0".into(),
        hostname: "web-0".into(),
        publish: host_port
            .map(|port| PortPublish {
                last_host_port: None,
                host_address: None,
                host_port: Some(port),
                port: 80,
                protocol: Protocol::Tcp,
            })
            .into_iter()
            .collect(),
        ..SandboxSpec::default()
    }
}

fn container(name: &str, text: &str) -> ContainerSpec {
    ContainerSpec {
        network: NetworkMode::Sandbox(UID.into()),
        owner: Owner::Pod {
            uid: UID.into(),
            namespace: "default".into(),
            name: "web-0".into(),
            container: name.into(),
        },
        dns: vec!["10.43.0.10".parse().unwrap()],
        dns_search: vec!["default.svc.cluster.local".into()],
        ..script(text)
    }
}

#[test]
fn a_pods_containers_share_its_network_and_name_as_root() {
    with_engine(|lab| async move {
        let node = lab.engine.node();
        let mut events = node.events();
        let made = node.ensure_sandbox(sandbox(UID, Some(18080))).await.unwrap();
        assert_eq!(node.ensure_sandbox(sandbox(UID, Some(18080))).await.unwrap(), made);
        let taken = node.ensure_sandbox(sandbox("other", Some(18080))).await.unwrap_err();
        assert!(matches!(taken, NodeError::Conflict(_)), "{taken}");
        let text = "hostname; cat /etc/hosts /etc/resolv.conf; ip addr show eth0; exec sleep 1000";
        let id = node.run_container(container("web", text)).await.unwrap();
        assert_eq!(within(events.recv()).await.unwrap(), NodeEvent::Pod(UID.into()));
        let all = node.list_pod_containers().await.unwrap();
        assert_eq!(all[0].name, format!("k8s_web_web-0_default_{UID}_0"));
        assert_eq!(all[0].labels["io.kubernetes.pod.name"], "web-0");
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let mut log = node.logs(&id, options).await.unwrap();
        let mut text = String::new();
        while !text.contains("inet ") {
            let bytes: Bytes = within(log.recv()).await.unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(text.starts_with("web-0\n# Kubernetes-managed hosts file.\n"), "{text}");
        assert!(text.contains(&format!("{}\tweb-0", made.address)), "{text}");
        assert!(text.contains("nameserver 10.43.0.10\nsearch default.svc.cluster.local\n"), "{text}");
        assert!(text.contains(&format!("inet {}", made.address)), "{text}");
        let refused = lab.engine.stop_container(&id, None, None).await.unwrap_err();
        assert!(
            matches!(&refused, EngineError::Conflict(text) if text.contains("default/web-0")),
            "{refused}"
        );
        assert!(lab.engine.remove_container(&id, true, true).await.is_err());
        assert!(node.remove_container(&id).await.is_err(), "it runs");
        within(node.stop_container(&id, 0)).await.unwrap();
        node.remove_container(&id).await.unwrap();
        let again = node.run_container(container("web", "sleep 1000")).await.unwrap();
        let ended = node.run_container(container("task", "echo done")).await.unwrap();
        let mut log = node.logs(&ended, LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
        while within(log.recv()).await.is_some() {}
        node.remove_sandbox(UID).await.unwrap();
        assert!(lab.engine.container(&again).is_err());
        // What ended by itself is still there to be asked, until it is removed.
        let mut log = node.logs(&ended, LogOptions::default()).await.unwrap();
        assert_eq!(within(log.recv()).await.unwrap(), "done\n");
        node.remove_container(&ended).await.unwrap();
        node.remove_sandbox(UID).await.unwrap();
        assert!(node.list_sandboxes().await.unwrap().is_empty());
        lab
    });
}

#[test]
fn a_sandbox_outlives_the_engine_and_is_forgotten_with_its_network_as_root() {
    with_engine(|lab| async move {
        let made = lab.engine.node().ensure_sandbox(sandbox(UID, None)).await.unwrap();
        let id = lab.engine.node().run_container(container("web", "sleep 1000")).await.unwrap();
        let lab = lab.restarted().await;
        let node = lab.engine.node();
        assert_eq!(node.list_sandboxes().await.unwrap(), [made]);
        assert!(lab.engine.container(&id).unwrap().pid.is_some());
        node.remove_sandbox(UID).await.unwrap();
        node.ensure_sandbox(sandbox(UID, None)).await.unwrap();
        drop(node);
        let lab = lab
            .replaced(async |directory, _| {
                // As after a reboot: the file is there and no namespace behind it.
                let file = directory.join("run/netns").join(format!("pod-{UID}"));
                cirro_sys::netns::unpin(&file).unwrap();
                std::fs::write(&file, "").unwrap();
            })
            .await;
        assert!(lab.engine.node().list_sandboxes().await.unwrap().is_empty());
        lab
    });
}

#[test]
fn a_sandboxs_loopback_is_reached_from_outside_as_root() {
    with_engine(|lab| async move {
        let node = lab.engine.node();
        node.ensure_sandbox(sandbox(UID, None)).await.unwrap();
        let netns = Netns::open(&lab.path("run/netns").join(format!("pod-{UID}"))).unwrap();
        let listener = netns.run(|| std::net::TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(format!("{text} from {}", peer.ip()).as_bytes()).unwrap();
        });
        let mut connection = within(node.connect_sandbox(UID, port)).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = String::new();
        within(connection.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "hello from 127.0.0.1");
        server.join().unwrap();
        // The listener is gone, and on the host nothing is asked.
        let refused = within(node.connect_sandbox(UID, port)).await.err().unwrap().to_string();
        let expected = format!("dial tcp 127.0.0.1:{port}: Connection refused");
        assert!(refused.contains(&expected) && refused.contains(&format!("pod-{UID}")), "{refused}");
        let missing = node.connect_sandbox("none", port).await.err().unwrap();
        assert!(matches!(missing, NodeError::NotFound(_)), "{missing}");
        node.remove_sandbox(UID).await.unwrap();
        lab
    });
}
