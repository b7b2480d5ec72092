//! A registry that does what a test says: answers, breaks off, lies.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use cirro_image::{
    Credentials, ProgressSink, PullRequest, Pulled, Registry, RegistryError, RegistryOptions, Resolve,
};
use cirro_seams::Pending;
use cirro_types::Digest;
use serde_json::{Value, json};

use crate::archive::{Fixture, config, gzip};

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What it gets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn missing() -> Self {
        Self::new(
            404,
            json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).to_string(),
        )
    }
}

type Handler = dyn Fn(&Request) -> Response + Send + Sync;

/// A server on a free port of loopback; its threads end with the process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (handler, log): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &*handler, &log));
            }
        });
        Self { address, seen }
    }

    /// Serves documents and blobs by path; everything else is missing.
    pub(crate) fn of(stored: HashMap<String, Response>) -> Self {
        Self::start(move |request| stored.get(&request.path).cloned().unwrap_or_else(|| found_none(request)))
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|request| request.path.clone()).collect()
    }
}

pub(crate) fn found_none(request: &Request) -> Response {
    if request.path == "/v2/" { Response::new(200, "{}") } else { Response::missing() }
}

fn serve(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        let response = handler(&request);
        log.lock().unwrap().push(request.clone());
        let mut head = format!("HTTP/1.1 {} X\r\n", response.status);
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !response.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            head.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
        }
        head.push_str("\r\n");
        let body = if request.method == "HEAD" { &[][..] } else { &response.body };
        let end = response.cut.unwrap_or(body.len()).min(body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..end])).is_err() {
            return;
        }
        if response.cut.is_some() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

/// An image as a registry has it.
pub(crate) struct Remote {
    pub(crate) stored: HashMap<String, Response>,
    pub(crate) id: Digest,
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: Vec<Digest>,
}

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// Stores an image `app:latest` of these layers, as gzip.
pub(crate) fn remote(layers: &[&[u8]]) -> Remote {
    let blobs: Vec<_> = layers.iter().map(|layer| gzip(layer)).collect();
    let config = config(layers);
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": blobs.iter().map(|blob| descriptor(kind, blob)).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let mut remote = Remote {
        stored: HashMap::from([("/v2/".into(), Response::new(200, "{}"))]),
        id: Digest::of(&config),
        blobs: blobs.iter().map(|blob| Digest::of(blob)).collect(),
        manifest: manifest.clone(),
    };
    remote.put_manifest("latest", OCI_MANIFEST, &manifest);
    for blob in blobs.iter().chain([&config]) {
        remote.put_blob(blob);
    }
    remote
}

impl Remote {
    pub(crate) fn put_manifest(&mut self, name: &str, media_type: &str, bytes: &[u8]) {
        for name in [name.to_owned(), Digest::of(bytes).to_string()] {
            let response = Response::new(200, bytes).header("Content-Type", media_type);
            self.stored.insert(format!("/v2/app/manifests/{name}"), response);
        }
    }

    pub(crate) fn put_blob(&mut self, bytes: &[u8]) {
        let path = format!("/v2/app/blobs/{}", Digest::of(bytes));
        self.stored.insert(path, Response::new(200, bytes));
    }
}

/// Knows `localhost` and what tests call `elsewhere` and `rebound`: names that do not say that they are this machine.
struct Names;

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> Pending<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            match name {
                "localhost" | "elsewhere" | "rebound" => Ok(vec![[127, 0, 0, 1].into()]),
                _ => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no such host")),
            }
        })
    }
}

/// Runs a client's work to its end.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

pub(crate) fn registry(options: RegistryOptions) -> Registry {
    Registry::new(options, Arc::new(Names))
}

pub(crate) fn pull_as(
    fixture: &Fixture,
    name: &str,
    credentials: Credentials,
    options: RegistryOptions,
) -> Result<Vec<Pulled>, RegistryError> {
    let request =
        PullRequest { reference: name.parse().unwrap(), all_tags: false, platform: None, credentials };
    run(async { registry(options).pull(&fixture.library, request, &ProgressSink::nowhere()).await })
}

pub(crate) fn pull(fixture: &Fixture, name: &str) -> Result<Vec<Pulled>, RegistryError> {
    pull_as(fixture, name, Credentials::default(), RegistryOptions::default())
}
