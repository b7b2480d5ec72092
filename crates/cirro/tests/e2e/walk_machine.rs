//! The walk, part three: the same image as a virtual machine on a subnet with a security group.

use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::wait_for;
use crate::walk_container::sample;
use crate::walk_kubernetes::{build_helloworld, manifest};

/// Software emulation on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(180);

const OTHER: &str = r#"
apiVersion: network.cirro.dev/v1
kind: Vpc
metadata:
  name: other
spec:
  cidr: 10.0.0.0/16
---
apiVersion: network.cirro.dev/v1
kind: Subnet
metadata:
  name: elsewhere
spec:
  vpc: other
  cidr: 10.0.1.0/24
"#;

#[test]
fn the_image_boots_as_a_machine_guarded_by_its_group_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    build_helloworld(&cloud);
    let text =
        std::fs::read_to_string(sample("machine").join("machine.yaml")).expect("the sample's manifest");
    let file = manifest(&cloud, "machine.yaml", &text);
    let other = manifest(&cloud, "other.yaml", OTHER);
    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    kubectl(&format!("apply -f {file}")).ok();
    kubectl(&format!("apply -f {other}")).ok();

    let address = wait_for("an address", PATIENCE, || {
        let said = kubectl("get instance hello -o jsonpath={.status.address}").ok();
        (!said.is_empty()).then_some(said)
    });
    let table = kubectl("get instances").ok();
    assert!(table.contains("hello") && table.contains(&address), "{table}");
    // (`wget -T` of Debian's static busybox crashes.)
    let neighbour = |words: &[&str]| {
        let run = ["run", "--rm", "--network", "default/web", "busybox"];
        cloud.docker(&[&run[..], words].concat())
    };
    let said = wait_for("the page by name", PATIENCE, || {
        let said = neighbour(&["timeout", "5", "wget", "-qO-", "http://hello/?name=neighbour"]);
        (said.code == 0).then_some(said.stdout)
    });
    assert!(said.starts_with("Hello neighbour! I am hello."), "{said}");
    assert_eq!(kubectl("get instance hello -o jsonpath={.status.phase}").ok(), "Running");

    let by_address = format!("http://{address}/");
    let foreign = [
        "run",
        "--rm",
        "--network",
        "default/elsewhere",
        "busybox",
        "timeout",
        "5",
        "wget",
        "-qO-",
        &by_address,
    ];
    assert_ne!(cloud.docker(&foreign).code, 0, "another VPC reached the machine");

    // Nothing listens on port 22: a group that lets it in answers with a reset, one that does not with silence.
    let knock = || neighbour(&["sh", "-c", "nc -w 3 hello 22 </dev/null 2>&1; true"]).ok();
    assert!(!knock().contains("refused"));
    let opened = format!("{text}---\n{}", OPEN_22);
    kubectl(&format!("apply -f {}", manifest(&cloud, "opened.yaml", &opened))).ok();
    wait_for("the opened port", PATIENCE, || knock().contains("refused").then_some(()));

    let console =
        kubectl("get --raw /apis/compute.cirro.dev/v1/namespaces/default/instances/hello/console").ok();
    assert!(console.contains("Linux version") || console.contains("serving on port 80"), "{console}");

    kubectl("delete instance hello --timeout=120s").ok();
    assert_ne!(neighbour(&["timeout", "5", "wget", "-qO-", &by_address]).code, 0);
    cloud.end();
}

const OPEN_22: &str = r#"
apiVersion: network.cirro.dev/v1
kind: SecurityGroup
metadata:
  name: web
spec:
  vpc: main
  ingress:
  - protocol: tcp
    ports: 80
  - protocol: tcp
    ports: 22
"#;
