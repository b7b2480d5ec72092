//! Exec and attach over SPDY: a stream for each of stdin, stdout, stderr, the result and terminal sizes.
//!
//! Source: `pkg/kubelet/cri/streaming/remotecommand` for the order and the number of streams.

use std::time::Duration;

use bytes::Bytes;
use cirro_seams::node::{Output, Session};
use cirro_spdy::{Connection, Reader, Writer};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{TerminalSize, result_of};

/// The protocols, the newest first.
pub(super) const PROTOCOLS: &[&str] =
    &[STATUS_PROTOCOL, "v3.channel.k8s.io", "v2.channel.k8s.io", FIRST_PROTOCOL];
/// The result is a `Status`; before it was a line of text, and nothing for success.
const STATUS_PROTOCOL: &str = "v4.channel.k8s.io";
const FIRST_PROTOCOL: &str = "channel.k8s.io";
/// How long a client gets to begin its streams.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest message with a terminal's size.
const MAX_SIZE: usize = 1024;

/// The streams that a client begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    resize: bool,
    status: bool,
}

impl Wanted {
    /// Says what a request with these options has in this protocol.
    pub(super) fn new(protocol: &str, (stdin, stdout, stderr, tty): (bool, bool, bool, bool)) -> Self {
        let resizes = [STATUS_PROTOCOL, "v3.channel.k8s.io"].contains(&protocol);
        Self {
            stdin,
            stdout,
            stderr: stderr && !tty,
            resize: tty && resizes,
            status: protocol == STATUS_PROTOCOL,
        }
    }

    fn count(self) -> usize {
        1 + [self.stdin, self.stdout, self.stderr, self.resize].into_iter().filter(|wanted| *wanted).count()
    }
}

/// The streams that a client has begun.
#[derive(Default)]
struct Streams {
    stdin: Option<Reader>,
    resize: Option<Reader>,
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    error: Option<Writer>,
    /// The other directions of all of them: dropped, they would be reset.
    unused: (Vec<Reader>, Vec<Writer>),
}

/// Carries bytes both ways until the process ends or the client goes.
pub(super) async fn serve(mut connection: Connection, session: Session, wanted: Wanted) {
    let streams = tokio::time::timeout(CREATION_TIMEOUT, begun(&mut connection, wanted)).await;
    let Ok(Some(streams)) = streams else {
        tracing::debug!("client did not begin its streams");
        return;
    };
    let Session { input, output, resize, exit } = session;
    let stdin = streams.stdin.map(|reader| AbortOnDropHandle::new(tokio::spawn(feed(reader, input))));
    let sizes = streams.resize.map(|reader| AbortOnDropHandle::new(tokio::spawn(sizes(reader, resize))));
    let process = async {
        write(output, streams.stdout, streams.stderr).await;
        let status = result_of(exit.await.ok());
        if let Some(error) = &streams.error {
            let _ = error.send(result_text(&status, wanted.status)).await;
            error.finish().await;
        }
    };
    let gone = connection.ended();
    tokio::select! {
        () = process => connection.finish().await,
        () = gone => {}
    }
    drop((stdin, sizes, streams.unused));
}

async fn begun(connection: &mut Connection, wanted: Wanted) -> Option<Streams> {
    let mut streams = Streams::default();
    for _ in 0..wanted.count() {
        let stream = connection.next().await?;
        let kind = stream.headers().get("streamtype").to_owned();
        let place = match kind.as_str() {
            "error" => &mut streams.error,
            "stdout" if wanted.stdout => &mut streams.stdout,
            "stderr" if wanted.stderr => &mut streams.stderr,
            "stdin" if wanted.stdin => {
                let (reader, writer) = stream.accept().await.ok()?;
                streams.stdin = Some(reader);
                streams.unused.1.push(writer);
                continue;
            }
            "resize" if wanted.resize => {
                let (reader, writer) = stream.accept().await.ok()?;
                streams.resize = Some(reader);
                streams.unused.1.push(writer);
                continue;
            }
            _ => return None,
        };
        let (reader, writer) = stream.accept().await.ok()?;
        *place = Some(writer);
        streams.unused.0.push(reader);
    }
    Some(streams)
}

/// Gives the client's bytes to the process; dropping the input is end of file.
async fn feed(mut reader: Reader, input: Option<mpsc::Sender<Bytes>>) {
    let Some(input) = input else { return };
    while let Some(bytes) = reader.next().await {
        if input.send(bytes).await.is_err() {
            return;
        }
    }
}

async fn sizes(mut reader: Reader, resize: mpsc::Sender<(u16, u16)>) {
    let mut text = Vec::new();
    while let Some(bytes) = reader.next().await {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n' || *byte == b'}') {
            let message: Vec<u8> = text.drain(..=end).collect();
            if let Ok(size) = serde_json::from_slice::<TerminalSize>(&message) {
                let _ = resize.send((size.width, size.height)).await;
            }
        }
        if text.len() > MAX_SIZE {
            return;
        }
    }
}

async fn write(mut output: mpsc::Receiver<Output>, stdout: Option<Writer>, stderr: Option<Writer>) {
    while let Some(chunk) = output.recv().await {
        let (writer, bytes) = match chunk {
            Output::Stdout(bytes) => (&stdout, bytes),
            Output::Stderr(bytes) => (&stderr, bytes),
        };
        // A client that has closed one of its streams may still read the other.
        if let Some(writer) = writer {
            let _ = writer.send(bytes).await;
        }
    }
    for writer in [stdout, stderr].into_iter().flatten() {
        writer.finish().await;
    }
}

/// Writes a result as the protocol has it.
fn result_text(status: &Value, as_status: bool) -> Bytes {
    if as_status {
        return status.to_string().into();
    }
    match status["status"].as_str() {
        Some("Success") => Bytes::new(),
        _ => status["message"].as_str().unwrap_or_default().to_owned().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_streams_are_awaited_as_the_protocol_has() {
        assert_eq!(Wanted::new("v4.channel.k8s.io", (true, true, true, true)).count(), 4);
        assert_eq!(Wanted::new("v2.channel.k8s.io", (true, true, true, true)).count(), 3);
        assert_eq!(Wanted::new("v4.channel.k8s.io", (false, true, true, false)).count(), 3);
    }

    #[test]
    fn older_protocols_have_a_line_of_text() {
        assert_eq!(result_text(&result_of(Some(0)), false), "");
        let text = "command terminated with non-zero exit code: error executing command, exit code 3";
        assert_eq!(result_text(&result_of(Some(3)), false), text);
        assert!(result_text(&result_of(Some(3)), true).starts_with(b"{"));
    }
}
