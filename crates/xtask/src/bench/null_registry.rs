//! A registry that checks and keeps nothing: what a push or pull costs its client alone.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, bail};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The registry; it ends when this goes.
pub(super) struct NullRegistry {
    /// Where it is.
    pub(super) address: String,
    ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl NullRegistry {
    /// Starts one that takes every push, and has the image in skopeo's directory `image` to pull.
    pub(super) fn start(image: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, image) = (ended.clone(), image.to_owned());
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let image = image.clone();
                // It ends with its connection.
                std::thread::spawn(move || drop(serve(stream, &image)));
            }
        });
        Ok(Self { address, ended, accepting: Some(accepting) })
    }
}

impl Drop for NullRegistry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the one who accepts.
        drop(TcpStream::connect(&self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// A request, its body left to be read.
struct Request {
    method: String,
    path: String,
    length: u64,
    chunked: bool,
}

impl Request {
    /// Reads the head of the next request; `None` when there are no more.
    fn read(reader: &mut impl BufRead) -> anyhow::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = words.next().zip(words.next()).context("a request line")?;
        let mut request = Self { method, path, length: 0, chunked: false };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok(Some(request)) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => request.length = value.parse()?,
                "transfer-encoding" => request.chunked = value == "chunked",
                _ => {}
            }
        }
    }

    /// Reads the body to nowhere.
    fn drain(&self, reader: &mut impl BufRead, piece: &mut [u8]) -> anyhow::Result<()> {
        if !self.chunked {
            return drain(reader, self.length, piece);
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16)?;
            drain(reader, length, piece)?;
            reader.read_line(&mut String::new())?;
            if length == 0 {
                return Ok(());
            }
        }
    }
}

fn drain(reader: &mut impl Read, mut left: u64, piece: &mut [u8]) -> anyhow::Result<()> {
    while left > 0 {
        let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match reader.read(&mut piece[..want])? {
            0 => bail!("the client is gone"),
            count => left -= count as u64,
        }
    }
    Ok(())
}

fn serve(mut stream: TcpStream, image: &Path) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(PIECE, stream.try_clone()?);
    let mut piece = vec![0; PIECE];
    while let Some(request) = Request::read(&mut reader)? {
        request.drain(&mut reader, &mut piece)?;
        answer(&mut stream, image, &request)?;
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, image: &Path, request: &Request) -> anyhow::Result<()> {
    let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let file = match path.rsplit_once('/') {
        Some((folder, "v1")) if folder.ends_with("/manifests") => Some(image.join("manifest.json")),
        Some((folder, digest)) if folder.ends_with("/blobs") => {
            Some(image.join(digest.trim_start_matches("sha256:")))
        }
        _ => None,
    };
    match (request.method.as_str(), file) {
        ("GET", Some(file)) => send(stream, &file),
        // Nothing is here yet when it is pushed.
        ("HEAD", _) => head(stream, "404 Not Found", ""),
        ("POST" | "PATCH", _) => head(stream, "202 Accepted", "Location: /v2/bench/blobs/uploads/1\r\n"),
        ("PUT", _) => head(stream, "201 Created", "Location: /v2/bench/blobs/x\r\n"),
        _ => head(stream, "200 OK", ""),
    }
}

fn head(stream: &mut TcpStream, status: &str, headers: &str) -> anyhow::Result<()> {
    Ok(write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n")?)
}

fn send(stream: &mut TcpStream, path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let kind = match path.ends_with("manifest.json") {
        true => "application/vnd.oci.image.manifest.v1+json",
        false => "application/octet-stream",
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")?;
    // By the kernel itself (sendfile).
    io::copy(&mut file, stream)?;
    Ok(())
}
