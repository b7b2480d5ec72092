//! Custom resource definitions of real programs that are large: cert-manager's, and those of Dask's operator (a pod's whole
//! template in three places), by Helm and by both of kubectl's ways to apply.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cloud::Cloud;
use crate::commands::{Said, run, run_with_input};

fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts").join(name));
    command
}

fn apply(cloud: &Cloud, text: &str) -> Said {
    let mut command = Command::new("kubectl");
    command
        .args(["apply", "-f", "-"])
        .env("KUBECONFIG", cloud.data_dir().join("admin.kubeconfig"))
        .env("HOME", cloud.directory.path());
    run_with_input(&mut command, text.as_bytes())
}

fn certificate(spec: &str) -> String {
    format!("apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {{name: page}}\nspec: {{{spec}}}\n")
}

fn cluster(container: &str) -> String {
    format!(
        "apiVersion: kubernetes.dask.org/v1\nkind: DaskCluster\nmetadata: {{name: one}}\nspec:\n  worker: {{replicas: 2, \
         spec: {{containers: [{container}]}}}}\n  scheduler:\n    spec: {{containers: [{{name: main, image: dask}}]}}\n    \
         service: {{type: ClusterIP, selector: {{a: b}}, ports: [{{name: tcp, port: 80, protocol: TCP}}]}}\n"
    )
}

#[test]
fn large_definitions_install_and_hold_as_root() {
    let mut cloud = Cloud::up();
    let directory = PathBuf::from(run(&mut script("large-definitions")).ok().trim());
    let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>());
    let chart = directory.join("dask");

    match run(&mut script("python-helm")).ok().trim() {
        "" => eprintln!("skipped: Helm's library needs a Python 3.12"),
        python => {
            let install = "import os, sys; from helm_python import Config; \
                Config(kubeconfig_path=os.environ['KUBECONFIG'], namespace='dask').install(sys.argv[1], 'dask', create_namespace=True)";
            let mut command = Command::new(python);
            command.args(["-c", install]).arg(&chart).env("HOME", cloud.data_dir());
            run(command.env("KUBECONFIG", cloud.data_dir().join("admin.kubeconfig"))).ok();
            assert!(kubectl("-n dask get deployments").ok().contains("dask-kubernetes-operator"));
        }
    }
    let definitions = chart.join("crds");
    let applied =
        kubectl(&format!("apply --server-side --force-conflicts -f {}", definitions.display())).ok();
    assert_eq!(applied.matches("serverside-applied").count(), 4, "{applied}");
    let manifest = directory.join("cert-manager.yaml");
    assert_eq!(kubectl(&format!("apply -f {}", manifest.display())).ok().matches(" created").count(), 6);
    assert_eq!(kubectl(&format!("apply -f {}", manifest.display())).ok().matches(" unchanged").count(), 6);
    kubectl("wait --for condition=established --timeout=30s crd --all").ok();

    let explained = kubectl("explain daskjob.spec.cluster.spec.worker.spec.containers.env.valueFrom").ok();
    assert!(explained.contains("configMapKeyRef"), "{explained}");
    let explained = kubectl("explain certificate.spec.keystores.pkcs12 --recursive").ok();
    assert!(explained.contains("passwordSecretRef"), "{explained}");

    apply(&cloud, &certificate("secretName: x, dnsNames: [a.example], issuerRef: {name: i}")).ok();
    assert!(kubectl("get cert").ok().contains("SECRET"), "no columns");
    let why = apply(&cloud, &certificate("secretName: x, usages: [flying], issuerRef: {name: i}")).fails();
    assert!(why.contains("spec.usages[0]: Unsupported value: \"flying\""), "{why}");
    let why = apply(&cloud, &certificate("secretName: x, issuer: i")).fails();
    assert!(why.contains("unknown field \"spec.issuer\""), "{why}");

    apply(&cloud, &cluster("{name: main, image: dask, ports: [{containerPort: 80}]}")).ok();
    let why = apply(&cloud, &cluster("{image: dask}")).fails();
    assert!(why.contains("spec.worker.spec.containers[0].name: Required value"), "{why}");
    kubectl(&format!("delete -f {} --timeout=60s", manifest.display())).ok();
    kubectl("get cert").fails();
    cloud.end();
}
