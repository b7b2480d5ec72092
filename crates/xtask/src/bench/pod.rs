//! A pod from created to Running, over the API with curl.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::{Cloud, Times, docker, end, image, row, said};

/// Measures from the request that creates a pod until a watcher is told that it is Running.
pub(crate) fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let cloud = Cloud::new(binary)?;
    cloud.start()?;
    docker(&cloud.docker_host(), &["load", "-q", "-i", &image("busybox")?])?;
    let client = Client::of(&cloud)?;
    let mut times = Vec::new();
    for round in 0..=rounds {
        let time = client.time_pod(&format!("bench-{round}"))?;
        // The first round warms up.
        if round > 0 {
            times.push(time);
        }
    }
    row("pod from created to Running, image present", &Times(times), None);
    Ok(())
}

struct Client {
    pods: String,
    credentials: tempfile::TempDir,
}

impl Client {
    /// Takes the administrator's credentials out of the kubeconfig.
    fn of(cloud: &Cloud) -> anyhow::Result<Self> {
        let credentials = tempfile::tempdir()?;
        for (name, path) in [
            ("ca.crt", "clusters[0].cluster.certificate-authority-data"),
            ("client.crt", "users[0].user.client-certificate-data"),
            ("client.key", "users[0].user.client-key-data"),
        ] {
            let template = format!("jsonpath={{.{path}}}");
            let encoded = said(
                Command::new("kubectl")
                    .args(["config", "view", "--raw", "-o", &template])
                    .env("KUBECONFIG", cloud.kubeconfig()),
            )?;
            let decoded =
                Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            std::io::Write::write_all(&mut decoded.stdin.as_ref().context("stdin")?, encoded.as_bytes())?;
            std::fs::write(credentials.path().join(name), decoded.wait_with_output()?.stdout)?;
        }
        Ok(Self { pods: format!("https://{}/api/v1/namespaces/default/pods", cloud.kubernetes), credentials })
    }

    fn time_pod(&self, name: &str) -> anyhow::Result<std::time::Duration> {
        let url = format!("{}?watch=true&fieldSelector=metadata.name={name}", self.pods);
        let mut watch = self.curl().arg("-N").arg(url).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(watch.stdout.take().context("stdout")?).lines();
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"terminationGracePeriodSeconds":0,
            "containers":[{{"name":"c","image":"busybox","imagePullPolicy":"IfNotPresent","command":["sleep","1000"]}}]}}}}"#
        );
        let begun = Instant::now();
        said(
            self.curl()
                .args(["-H", "content-type: application/json", "-d", &pod, "-o", "/dev/null"])
                .arg(&self.pods),
        )?;
        let running = lines.any(|line| line.is_ok_and(|line| line.contains(r#""phase":"Running""#)));
        let time = begun.elapsed();
        end(&mut watch);
        ensure!(running, "pod {name} did not run");
        said(
            self.curl()
                .args(["-X", "DELETE", "-o", "/dev/null"])
                .arg(format!("{}/{name}?gracePeriodSeconds=0", self.pods)),
        )?;
        Ok(time)
    }

    fn curl(&self) -> Command {
        let file = |name: &str| self.credentials.path().join(name);
        let mut command = Command::new("curl");
        command.args(["-fsS", "-m", "60", "--cacert"]).arg(file("ca.crt"));
        command.arg("--cert").arg(file("client.crt")).arg("--key").arg(file("client.key"));
        command.stdin(Stdio::null());
        command
    }
}
