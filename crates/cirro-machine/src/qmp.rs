//! QEMU's machine protocol: one line of JSON each way over a unix socket.
//!
//! A connection is made for each order, so nothing has to be kept or reconnected when the daemon starts anew.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::MachineError;

/// QEMU's main loop answers in milliseconds; on a busy host it may take a while to be scheduled.
const LIMIT: Duration = Duration::from_secs(5);
const MAX_LINE: u64 = 256 * 1024;

/// Executes one command without arguments and returns its answer.
pub(crate) async fn execute(socket: &Path, command: &str) -> Result<Value, MachineError> {
    let talk = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| failed(command, &error))?;
        let mut stream = BufReader::new(stream);
        receive(&mut stream, command, "QMP").await?;
        send(&mut stream, "qmp_capabilities").await.map_err(|error| failed(command, &error))?;
        receive(&mut stream, command, "return").await?;
        send(&mut stream, command).await.map_err(|error| failed(command, &error))?;
        receive(&mut stream, command, "return").await
    };
    tokio::time::timeout(LIMIT, talk)
        .await
        .unwrap_or_else(|_| Err(failed(command, &"the machine's process does not answer")))
}

async fn send(stream: &mut BufReader<UnixStream>, command: &str) -> std::io::Result<()> {
    let mut line = serde_json::json!({ "execute": command }).to_string();
    line.push('\n');
    stream.write_all(line.as_bytes()).await
}

/// Reads lines until one has `key`; events that come between are passed over.
async fn receive(
    stream: &mut BufReader<UnixStream>,
    command: &str,
    key: &str,
) -> Result<Value, MachineError> {
    loop {
        let mut line = Vec::new();
        (&mut *stream)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
            .map_err(|error| failed(command, &error))?;
        if line.last() != Some(&b'\n') {
            return Err(failed(command, &"the connection ended"));
        }
        let mut answer: Value = serde_json::from_slice(&line).map_err(|error| failed(command, &error))?;
        if let Some(error) = answer.get("error") {
            let description = error.get("desc").and_then(Value::as_str).unwrap_or("no description");
            return Err(failed(command, &description));
        }
        if let Some(value) = answer.get_mut(key) {
            return Ok(value.take());
        }
        if answer.get("event").is_none() {
            return Err(failed(command, &"unexpected answer"));
        }
    }
}

fn failed(command: &str, error: &dyn std::fmt::Display) -> MachineError {
    MachineError::Failed(format!("QMP {command}: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A QEMU of one connection: greets, then gives these lines, one for each that it reads.
    async fn against(answers: &'static [&'static str]) -> (Result<Value, MachineError>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            stream.write_all(b"{\"QMP\": {\"version\": {}}}\n").await.unwrap();
            let mut read = Vec::new();
            for answer in answers {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                read.push(line.trim().to_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            read
        });
        let result = execute(&path, "query-status").await;
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn events_between_question_and_answer_are_passed_over() {
        let (result, read) = against(&[
            "{\"return\": {}}\n",
            "{\"event\": \"RESUME\", \"timestamp\": {}}\n{\"return\": {\"status\": \"running\"}}\n",
        ])
        .await;
        assert_eq!(result.unwrap()["status"], "running");
        assert_eq!(read, [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"query-status"}"#]);
    }

    #[tokio::test]
    async fn errors_and_ends_are_told() {
        const REFUSED: &str = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}}\n";
        let (result, _) = against(&["{\"return\": {}}\n", REFUSED]).await;
        assert_eq!(result.unwrap_err().to_string(), "QMP query-status: not now");
        let (result, _) = against(&["{\"return\": {}}\n", "{\"ret"]).await;
        assert_eq!(result.unwrap_err().to_string(), "QMP query-status: the connection ended");
        let missing = execute(Path::new("/nonexistent/qmp.sock"), "quit").await;
        assert!(missing.unwrap_err().to_string().starts_with("QMP quit: "));
    }
}
