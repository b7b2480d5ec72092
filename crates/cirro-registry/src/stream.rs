//! Blobs as bodies: in pieces of a bounded size, read when the connection takes them.
//!
//! A piece of a file that is in the page cache is read at once, without a thread; else by the pool for blocking work.
//! So a client that is slow costs one piece of memory and no thread. Layers of the library are written by a thread
//! that waits for the client, because a tar can only be made from its beginning.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use cirro_image::distribution::{BlobSource, LayerSource};
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use rustix::io::ReadWriteFlags;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes of a piece: large enough that a read costs little beside its bytes.
const PIECE: usize = 256 << 10;
/// Pieces of a layer that wait for the client.
const WAITING: usize = 2;

/// Makes a body of the bytes from `first` to before `end`.
pub(crate) fn body(source: BlobSource, first: u64, end: u64) -> Body {
    match source {
        BlobSource::Bytes(bytes) => {
            let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Body::from(Bytes::from(bytes.clone()).slice(index(first)..index(end)))
        }
        BlobSource::File(file, _) => {
            Body::new(FileBody { file: Arc::new(file), at: first, end, reading: None })
        }
        BlobSource::Layer(layer) => layer_body(layer, first, end),
    }
}

struct FileBody {
    file: Arc<File>,
    at: u64,
    end: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.at >= self.end {
            return Poll::Ready(None);
        }
        let want = PIECE.min(usize::try_from(self.end - self.at).unwrap_or(PIECE));
        let read = match self.reading.as_mut() {
            Some(reading) => match Pin::new(reading).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(joined) => {
                    self.reading = None;
                    joined.unwrap_or_else(|error| Err(io::Error::other(error)))
                }
            },
            None => match read_cached(&self.file, self.at, want) {
                Ok(bytes) => Ok(bytes),
                Err(_) => {
                    let (file, at) = (Arc::clone(&self.file), self.at);
                    self.reading = Some(tokio::task::spawn_blocking(move || read(&file, at, want)));
                    return self.poll_frame(context);
                }
            },
        };
        let bytes = match read {
            Ok(bytes) if bytes.is_empty() => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            other => other,
        };
        self.at += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Poll::Ready(Some(bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// Reads what the kernel has in memory; fails when it would have to wait for the disk.
fn read_cached(file: &File, at: u64, want: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; want];
    let mut slices = [io::IoSliceMut::new(&mut buffer)];
    let count = rustix::io::preadv2(file.as_fd(), &mut slices, at, ReadWriteFlags::NOWAIT)?;
    if count == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    buffer.truncate(count);
    Ok(buffer.into())
}

fn read(file: &File, at: u64, want: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; want];
    let count = std::os::unix::fs::FileExt::read_at(file, &mut buffer, at)?;
    buffer.truncate(count);
    Ok(buffer.into())
}

fn layer_body(layer: LayerSource, first: u64, end: u64) -> Body {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let mut window = Window { sender, buffer: Vec::with_capacity(PIECE), at: 0, first, end };
        match layer.write(&mut window).map(|()| window.flush()) {
            Ok(Ok(())) => {}
            // Nobody listens any more, or the range is complete.
            Ok(Err(_)) => {}
            Err(_) if window.at >= window.end => {}
            Err(error) => {
                tracing::warn!(%error, "a layer cannot be read");
                let _ = window.sender.blocking_send(Err(io::Error::other(error)));
            }
        }
    });
    Body::new(SizedBody { receiver, left: end - first })
}

/// Passes on the bytes of a range and ends the writing after it.
struct Window {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
    at: u64,
    first: u64,
    end: u64,
}

impl Write for Window {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let begin = self.at;
        self.at += bytes.len() as u64;
        let skip = self.first.saturating_sub(begin).min(bytes.len() as u64) as usize;
        let keep = self.end.saturating_sub(begin).min(bytes.len() as u64) as usize;
        if skip < keep {
            self.buffer.extend_from_slice(&bytes[skip..keep]);
        }
        if self.buffer.len() >= PIECE || self.at >= self.end {
            self.flush()?;
        }
        if self.at > self.end {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE)));
        self.sender.blocking_send(Ok(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A body of known length from a channel.
struct SizedBody {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl http_body::Body for SizedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.receiver.poll_recv(context).map(|received| {
            if let Some(Ok(bytes)) = &received {
                self.left = self.left.saturating_sub(bytes.len() as u64);
            }
            received.map(|received| received.map(Frame::data))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The pieces of a body that comes in, as a stream.
pub(crate) fn pieces(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> + Unpin + Send {
    body.into_data_stream()
}
