//! A server, requests to it, and a node that is not there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use cirro_apiserver::{ApiServer, Options, Plugin, User};
use cirro_seams::Pending;
use cirro_seams::node::{Connection, ExecRequest, LogOptions, NodeError, NodeStreams, Output, Session};
use cirro_seams::usage::{NodeUsage, Usage};
use cirro_store::MemoryObjectStore;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};

/// A server over a store of its own.
pub(crate) async fn server() -> ApiServer {
    ApiServer::open(Arc::new(MemoryObjectStore::new()), Options::default()).await.unwrap()
}

/// A server whose claims and volumes go at once: no controller is here that takes their finalizers off.
pub(crate) async fn server_without_protection() -> ApiServer {
    let without_admission = vec![Plugin::StorageObjectInUseProtection];
    let options = Options { without_admission, ..Options::default() };
    ApiServer::open(Arc::new(MemoryObjectStore::new()), options).await.unwrap()
}

/// The administrator.
pub(crate) fn admin() -> User {
    User { name: "kubernetes-admin".into(), groups: vec!["system:masters".into()], ..User::default() }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Value,
}

/// Builds a request.
pub(crate) fn request(method: &str, path: &str, media_type: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(path).header("content-type", media_type).body(body.into()).unwrap()
}

/// Reads an answer to its end.
pub(crate) async fn read(response: Response<Body>) -> Answer {
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|value| value.to_str().unwrap().to_owned()).collect();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Answer { code, warnings, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) }
}

/// Sends a request with a JSON body as the administrator.
pub(crate) async fn send(server: &ApiServer, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    read(server.respond(&admin(), request(method, path, "application/json", body)).await).await
}

/// A node whose containers say what was asked of them.
#[derive(Default)]
pub(crate) struct EchoNode {
    pub(crate) commands: Mutex<Vec<Vec<String>>>,
    /// Uids of pods that use something.
    pub(crate) busy: Mutex<Vec<String>>,
}

impl NodeStreams for EchoNode {
    fn logs(
        &self,
        _pod_uid: &str,
        container: &str,
        options: LogOptions,
    ) -> Pending<'_, Result<mpsc::Receiver<Bytes>, NodeError>> {
        let text = format!("{container} tail {:?} follow {}\n", options.tail, options.follow);
        Box::pin(async move {
            let (lines, receiver) = mpsc::channel(4);
            lines.send(text.into()).await.unwrap();
            Ok(receiver)
        })
    }

    /// Sends its stdin back, and `done` to stderr when that ends; exits with the first argument.
    fn exec(
        &self,
        _pod_uid: &str,
        _container: &str,
        request: ExecRequest,
    ) -> Pending<'_, Result<Session, NodeError>> {
        self.commands.lock().unwrap().push(request.command.clone());
        Box::pin(async move { Ok(echo(request)) })
    }

    fn attach(&self, pod_uid: &str, container: &str, stdin: bool) -> Pending<'_, Result<Session, NodeError>> {
        self.exec(
            pod_uid,
            container,
            ExecRequest { stdin, command: vec!["0".into()], ..ExecRequest::default() },
        )
    }

    /// Port 80 sends its bytes back after a greeting; nothing listens on the others.
    fn connect_pod(&self, _pod_uid: &str, port: u16) -> Pending<'_, Result<Connection, NodeError>> {
        Box::pin(async move {
            if port != 80 {
                return Err(NodeError::Failed(format!("dial tcp 127.0.0.1:{port}: connection refused")));
            }
            let (ours, theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(theirs);
                write.write_all(b"hello\n").await.unwrap();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            Ok(Box::new(ours) as Connection)
        })
    }

    /// Whatever the address is, the server there says what was asked of it; nothing listens on port 81.
    fn connect(&self, address: SocketAddr) -> Pending<'_, Result<Connection, NodeError>> {
        Box::pin(async move {
            if address.port() == 81 {
                return Err(NodeError::Failed(format!("dial tcp {address}: connection refused")));
            }
            let (ours, theirs) = tokio::io::duplex(4096);
            let service = hyper::service::service_fn(move |request| async move {
                Ok::<_, std::convert::Infallible>(serve(address, request))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            let connection = connection.serve_connection(TokioIo::new(theirs), service).with_upgrades();
            tokio::spawn(connection);
            Ok(Box::new(ours) as Connection)
        })
    }

    /// The pods that are busy use half a processor each.
    fn usage(&self) -> Pending<'_, Result<NodeUsage, NodeError>> {
        let used = |seconds, nanocores| Usage {
            at: SystemTime::now(),
            window: Duration::from_secs(seconds),
            nanocores,
            working_set_bytes: 12 << 20,
        };
        let busy = self.busy.lock().unwrap().clone();
        let pods = busy.iter().map(|uid| {
            (
                uid.clone(),
                vec![("a".to_owned(), used(15, 200_000_000)), ("b".to_owned(), used(15, 300_000_000))],
            )
        });
        let usage = NodeUsage { node: "n1".into(), host: used(15, 1_500_000_000), pods: pods.collect() };
        Box::pin(async move { Ok(usage) })
    }

    fn instance_console(&self, _uid: &str, limit: usize) -> Pending<'_, Result<Bytes, NodeError>> {
        Box::pin(async move { Ok(format!("at most {limit} bytes").into()) })
    }
}

fn echo(request: ExecRequest) -> Session {
    let (input, mut stdin) = mpsc::channel::<Bytes>(4);
    let (output, receiver) = mpsc::channel(4);
    let (resize, _) = mpsc::channel(4);
    let (exit, code) = oneshot::channel();
    let wants_input = request.stdin;
    tokio::spawn(async move {
        output.send(Output::Stdout("hello\n".into())).await.unwrap();
        while let Some(bytes) = if wants_input { stdin.recv().await } else { None } {
            output.send(Output::Stdout(bytes)).await.unwrap();
        }
        output.send(Output::Stderr("done\n".into())).await.unwrap();
        let status = request.command.first().and_then(|word| word.parse().ok()).unwrap_or(0);
        let _ = exit.send(status);
    });
    Session { input: wants_input.then_some(input), output: receiver, resize, exit: code }
}

/// Answers as a pod's server: `/away` redirects, `/echo` becomes a connection that sends its bytes back.
fn serve(address: SocketAddr, mut request: Request<Incoming>) -> Response<String> {
    let answer = Response::builder();
    match request.uri().path() {
        "/away" => answer.status(302).header("location", "/here/").body(String::new()).unwrap(),
        "/echo" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            let switching = answer.status(101).header("connection", "upgrade").header("upgrade", "echo");
            switching.body(String::new()).unwrap()
        }
        _ => {
            let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
            let (method, uri) = (request.method(), request.uri());
            let (forwarded, secret) = (header("x-forwarded-uri"), header("authorization"));
            Response::new(format!("{method} {uri} at {address}, {forwarded:?}, {secret:?}\n"))
        }
    }
}
