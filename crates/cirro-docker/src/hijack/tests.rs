//! Hijacked connections over a real socket and a real HTTP server, with a process that the test plays.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::post;
use cirro_seams::node::Output;
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::server::serve_connection;

const TIME: Duration = Duration::from_secs(5);

/// The process' ends of a session.
struct Process {
    stdin: Option<mpsc::Receiver<Bytes>>,
    output: Option<mpsc::Sender<Output>>,
    exit: Option<oneshot::Sender<i32>>,
}

impl Process {
    async fn say(&self, text: &'static str) {
        let output = self.output.as_ref().unwrap();
        output.send(Output::Stdout(Bytes::from_static(text.as_bytes()))).await.unwrap();
    }

    async fn hear(&mut self) -> Option<Bytes> {
        within(self.stdin.as_mut().unwrap().recv()).await
    }

    /// Ends as a process does: first its streams, then its exit code.
    fn end(&mut self) {
        self.output = None;
        let _ = self.exit.take().unwrap().send(0);
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIME, future).await.expect("in time")
}

fn session() -> (Process, Session) {
    let (input, stdin) = mpsc::channel(4);
    let (output_sender, output) = mpsc::channel(4);
    let (resize, _) = mpsc::channel(1);
    let (exit_sender, exit) = oneshot::channel();
    let process = Process { stdin: Some(stdin), output: Some(output_sender), exit: Some(exit_sender) };
    (process, Session { input: Some(input), output, resize, exit })
}

/// A server whose one endpoint attaches to the process.
struct Server {
    process: Process,
    client: UnixStream,
    lifetime: Lifetime,
}

async fn server(tty: bool, await_exit: bool) -> Server {
    let (process, session) = session();
    let lifetime = Lifetime::default();
    let session = Arc::new(Mutex::new(Some(session)));
    let streams = lifetime.clone();
    let attach = move |mut request: Request<Body>| async move {
        let hijack = Hijack::of(&mut request);
        let session = session.lock().unwrap().take().unwrap();
        let wanted = Wanted { tty, stdout: true, stderr: true };
        let detach_keys = tty.then(|| DetachKeys::parse(None).unwrap());
        let exchange =
            Exchange { session, wanted, replay: None, detach_keys, await_exit, on_detach: Box::new(|| {}) };
        hijack.answer(&streams, wanted.content_type(50), request.into_body(), std::future::ready(exchange))
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let router = Router::new().route("/attach", post(attach));
    tokio::spawn(serve_connection(router, accepted, lifetime.closing.clone()));
    Server { process, client, lifetime }
}

const UPGRADE: &str = "POST /attach HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

/// Sends a request and reads the head of the answer.
async fn head(client: &mut UnixStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(client.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn rest(client: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    within(client.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

#[tokio::test]
async fn the_switch_is_answered_as_dockerd_answers_it() {
    let mut server = server(false, false).await;
    let head = head(&mut server.client, UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains("content-type: application/vnd.docker.multiplexed-stream\r\n"), "{head}");
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: tcp\r\n"), "{head}");
}

#[tokio::test]
async fn the_end_of_stdin_is_not_the_end_of_output() {
    let mut server = server(false, false).await;
    head(&mut server.client, UPGRADE).await;
    server.client.write_all(b"one\n").await.unwrap();
    assert_eq!(server.process.hear().await.unwrap(), "one\n");
    server.client.shutdown().await.unwrap();
    assert_eq!(server.process.hear().await, None);
    server.process.say("two\n").await;
    server.process.end();
    assert_eq!(rest(&mut server.client).await, b"\x01\0\0\0\0\0\0\x04two\n");
}

#[tokio::test]
async fn stdin_that_comes_with_the_request_is_not_lost() {
    let mut server = server(true, false).await;
    server.client.write_all(format!("{UPGRADE}early").as_bytes()).await.unwrap();
    assert_eq!(server.process.hear().await.unwrap(), "early");
}

#[tokio::test]
async fn a_process_that_ends_ends_the_connection_though_the_client_holds_stdin() {
    let mut server = server(true, false).await;
    head(&mut server.client, UPGRADE).await;
    // Unread stdin must not turn the end into a reset that swallows the last line.
    server.process.stdin = None;
    server.client.write_all(&[b'x'; 100_000]).await.unwrap();
    server.process.say("last line\n").await;
    server.process.end();
    assert_eq!(rest(&mut server.client).await, b"last line\n");
}

#[tokio::test]
async fn much_output_arrives_whole_to_a_client_that_reads_late() {
    let mut server = server(true, false).await;
    head(&mut server.client, UPGRADE).await;
    let Process { output, exit, .. } = &mut server.process;
    let (output, exit) = (output.take().unwrap(), exit.take().unwrap());
    let total = 300 * 4096;
    tokio::spawn(async move {
        for _ in 0..300 {
            output.send(Output::Stdout(Bytes::from(vec![7; 4096]))).await.unwrap();
        }
        drop(output);
        let _ = exit.send(0);
    });
    tokio::task::yield_now().await;
    assert_eq!(rest(&mut server.client).await.len(), total);
}

#[tokio::test]
async fn an_exec_ends_only_when_its_exit_code_is_known() {
    let mut server = server(true, true).await;
    head(&mut server.client, UPGRADE).await;
    server.process.output = None;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), server.client.read(&mut byte)).await;
    assert!(early.is_err(), "the connection ended before the exit code was known");
    let _ = server.process.exit.take().unwrap().send(3);
    assert_eq!(rest(&mut server.client).await, b"");
}

#[tokio::test]
async fn the_detach_keys_leave_the_process_alone() {
    let mut server = server(true, false).await;
    head(&mut server.client, UPGRADE).await;
    server.client.write_all(b"ls\n\x10\x11").await.unwrap();
    assert_eq!(server.process.hear().await.unwrap(), "ls\n");
    assert_eq!(rest(&mut server.client).await, b"");
    // The process still lives: its streams were let go, not ended.
    within(server.process.output.as_ref().unwrap().closed()).await;
    assert!(server.process.exit.is_some());
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_though_the_process_is_silent() {
    let mut server = server(false, false).await;
    head(&mut server.client, UPGRADE).await;
    server.client.shutdown().await.unwrap();
    assert_eq!(server.process.hear().await, None);
    drop(server.client);
    within(server.process.output.as_ref().unwrap().closed()).await;
}

#[tokio::test]
async fn without_an_upgrade_the_body_is_the_output() {
    let mut server = server(true, false).await;
    let request =
        "POST /attach HTTP/1.1\r\nHost: docker\r\nContent-Length: 5\r\nConnection: close\r\n\r\nstdin";
    let head = head(&mut server.client, request).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("application/vnd.docker.raw-stream"), "{head}");
    assert_eq!(server.process.hear().await.unwrap(), "stdin");
    server.process.say("out").await;
    server.process.end();
    assert_eq!(rest(&mut server.client).await, b"3\r\nout\r\n0\r\n\r\n");
}

#[tokio::test]
async fn the_end_of_the_server_ends_attachments() {
    let mut server = server(false, false).await;
    head(&mut server.client, UPGRADE).await;
    server.lifetime.closing.cancel();
    assert_eq!(rest(&mut server.client).await, b"");
}
