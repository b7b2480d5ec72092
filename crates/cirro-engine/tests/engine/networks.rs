//! Containers on networks: published ports, names, shared namespaces.

use cirro_engine::EngineError;
use cirro_net::CreateDockerNetwork;
use cirro_seams::container::{ContainerSpec, NetworkMode, Phase};
use cirro_seams::network::{PortPublish, Protocol};

use super::lab::{Lab, script, with_engine, within};

fn server(port: u16) -> ContainerSpec {
    let text = format!("echo hello > /tmp/index.html; exec httpd -f -p {port} -h /tmp");
    ContainerSpec { network: NetworkMode::Default, ..script(&text) }
}

/// Gets a page; retries while the server starts.
async fn page(address: std::net::SocketAddr) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    within(async {
        loop {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
                stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[test]
fn a_published_port_answers_and_is_free_after_the_end_as_root() {
    with_engine(|lab| async move {
        let publish = |port| PortPublish {
            host_address: None,
            host_port: port,
            last_host_port: None,
            port: 80,
            protocol: Protocol::Tcp,
        };
        let id = lab.run(ContainerSpec { publish: vec![publish(None)], ..server(80) }).await;
        let container = lab.engine.container(&id).unwrap();
        let endpoint = container.endpoints[0].clone();
        assert_eq!(endpoint.network, "bridge");
        assert!(page((endpoint.address, 80).into()).await.ends_with("hello\n"));
        let host_port = container.ports[0].host_port.unwrap();
        assert!(page(([127, 0, 0, 1], host_port).into()).await.ends_with("hello\n"));
        let (second, _) = lab
            .engine
            .create_container(ContainerSpec { publish: vec![publish(Some(host_port))], ..server(80) })
            .await
            .unwrap();
        let taken = lab.engine.start_container(&second).await.unwrap_err();
        assert!(matches!(taken, EngineError::Conflict(_)), "{taken}");
        lab.engine.kill_container(&id, "KILL").await.unwrap();
        lab.phase(&id, Phase::Exited).await;
        assert!(lab.engine.container(&id).unwrap().endpoints.is_empty());
        within(lab.engine.remove_container(&id, true, true)).await.unwrap();
        lab.engine.start_container(&second).await.unwrap();
        assert!(page(([127, 0, 0, 1], host_port).into()).await.ends_with("hello\n"));
        lab
    });
}

#[test]
fn containers_find_each_other_by_name_on_a_network_as_root() {
    with_engine(|lab| async move {
        let request = CreateDockerNetwork { name: "back".into(), ..CreateDockerNetwork::default() };
        let network = lab.engine.create_network(request.clone()).await.unwrap();
        assert!(matches!(lab.engine.create_network(request).await, Err(EngineError::Conflict(_))));
        let on = |spec: ContainerSpec| ContainerSpec { network: NetworkMode::Network("back".into()), ..spec };
        let id = lab.run(ContainerSpec { name: Some("web".into()), ..on(server(80)) }).await;
        let address = lab.engine.container(&id).unwrap().endpoints[0].address;
        page((address, 80).into()).await;
        let (out, err, _) =
            lab.output(on(script("cat /etc/hosts; wget -q -O - http://web/index.html"))).await;
        assert!(out.ends_with("hello\n"), "{out} {err}");
        assert!(out.contains("127.0.0.1\tlocalhost"));
        let shared = ContainerSpec {
            network: NetworkMode::Container("web".into()),
            ..script("wget -q -O - http://127.0.0.1/index.html")
        };
        assert_eq!(lab.output(shared).await.0, "hello\n");
        let refused = lab.engine.remove_network("back").await.unwrap_err().to_string();
        assert!(refused.contains("network back has active endpoints (name:\"web\""), "{refused}");
        within(lab.engine.remove_container(&id, true, true)).await.unwrap();
        lab.engine.remove_network(&network.id[..12]).await.unwrap();
        let missing = lab.engine.remove_network("back").await.unwrap_err();
        assert_eq!(missing.to_string(), "network back not found");
        lab
    });
}

#[test]
fn the_hosts_network_and_none_are_what_they_say_as_root() {
    with_engine(|lab: Lab| async move {
        let (out, _, _) = lab.output(script("ls /sys/class/net")).await;
        assert_eq!(out.trim(), "lo");
        let (out, _, _) = lab
            .output(ContainerSpec { network: NetworkMode::Host, ..script("ls /sys/class/net | wc -l") })
            .await;
        assert!(out.trim().parse::<u32>().unwrap() >= 2, "{out}");
        lab
    });
}
