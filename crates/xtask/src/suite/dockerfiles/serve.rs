//! A context's files over HTTP, in the host's network and in the peer's, for `ADD` of addresses.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::bench::said;

/// Two servers on the same port of two loopbacks; they end when dropped.
pub(super) struct Served {
    port: u16,
    children: Vec<Child>,
}

impl Served {
    /// Starts both and waits until they answer.
    pub(super) fn start(directory: &Path, namespace: &str) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut served = Self { port, children: Vec::new() };
        let within = format!("--net=/run/netns/{namespace}");
        for prefix in [&[][..], &["nsenter", &within]] {
            let words = [prefix, &["python3", "-m", "http.server", "--bind", "127.0.0.1"]].concat();
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).arg(port.to_string()).current_dir(directory);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            served.children.push(command.spawn().context("python3 serves the files")?);
            let deadline = Instant::now() + Duration::from_secs(30);
            let question = [prefix, &["curl", "-sf", "-o", "/dev/null"]].concat();
            while said(Command::new(question[0]).args(&question[1..]).arg(served.url())).is_err() {
                if Instant::now() > deadline {
                    bail!("the server of the files does not answer");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(served)
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
