//! The Docker API without its client: one request per connection over a unix socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

const TIMEOUT: Duration = Duration::from_secs(120);

/// An engine's API.
#[derive(Clone)]
pub(crate) struct Api {
    socket: PathBuf,
}

impl Api {
    /// `host` is what `DOCKER_HOST` is.
    pub(crate) fn new(host: &str) -> anyhow::Result<Self> {
        let socket = host.strip_prefix("unix://").context("a unix socket")?;
        Ok(Self { socket: Path::new(socket).into() })
    }

    /// Sends a request with a JSON body (or none); returns the answer's body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let length = body.len();
        let request = format!(
            "{method} /v1.41{path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        if !status.starts_with('2') {
            bail!("{method} {path}: {status} {body}");
        }
        Ok(body.to_owned())
    }

    /// Makes a container without a network; returns its id.
    pub(crate) fn create(&self, command: &[&str]) -> anyhow::Result<String> {
        let words: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
        let words = words.join(",");
        let body = format!(r#"{{"Image":"busybox","Cmd":[{words}],"HostConfig":{{"NetworkMode":"none"}}}}"#);
        let answer = self.ask("POST", "/containers/create", &body)?;
        let id = answer.split('"').skip_while(|word| *word != "Id").nth(2).context("an id")?;
        Ok(id.to_owned())
    }

    /// Starts a container.
    pub(crate) fn start(&self, id: &str) -> anyhow::Result<()> {
        self.ask("POST", &format!("/containers/{id}/start"), "").map(drop)
    }

    /// Waits for a container's end.
    pub(crate) fn wait(&self, id: &str) -> anyhow::Result<()> {
        self.ask("POST", &format!("/containers/{id}/wait"), "").map(drop)
    }

    /// Removes a container, running or not.
    pub(crate) fn remove(&self, id: &str) -> anyhow::Result<()> {
        self.ask("DELETE", &format!("/containers/{id}?force=true"), "").map(drop)
    }
}
