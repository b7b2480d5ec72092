//! Every verb of kubectl, by one script, with the oldest, a middle and the newest version that is meant to work.
//!
//! 1.27 validates by the protobuf form of OpenAPI v2, 1.30 by OpenAPI v3, 1.33 sends protobuf bodies.

use std::path::Path;
use std::process::Command;

use crate::cloud::Cloud;
use crate::commands::run;

/// Where Google's package has several versions beside each other.
const DIRECTORY: &str = "/usr/lib/google-cloud-sdk/bin";
/// How many parts the script has.
const PARTS: usize = 11;

fn drive(version: &str, streams: &str) {
    let kubectl = Path::new(DIRECTORY).join(format!("kubectl.{version}"));
    if !kubectl.exists() {
        eprintln!("skipped: there is no kubectl {version}");
        return;
    }
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients/kubectl.sh");
    let mut command = Command::new("bash");
    command
        .arg(script)
        .env("KUBECONFIG", cloud.data_dir().join("admin.kubeconfig"))
        .env("HOME", cloud.directory.path())
        .env("SPACE", "verbs")
        .env("STREAMS", streams)
        .env("KUBECTL", &kubectl);
    let text = run(&mut command).ok();
    assert_eq!(text.matches(" ok\n").count(), PARTS, "{text}");
    cloud.end();
}

#[test]
fn kubectl_1_27_drives_every_verb_as_root() {
    drive("1.27", "websockets");
}

#[test]
fn kubectl_1_30_drives_every_verb_as_root() {
    drive("1.30", "");
}

#[test]
fn kubectl_1_33_drives_every_verb_as_root() {
    drive("1.33", "");
}
