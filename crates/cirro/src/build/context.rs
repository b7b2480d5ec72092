//! Where a build's context comes from, and how it becomes pieces of a request's body.

use std::io::{self, Read as _, Write};
use std::path::PathBuf;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces that wait to be sent.
const PIECES: usize = 4;

/// Where the context comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Directory(PathBuf),
    /// A tar or a Dockerfile.
    Stdin,
    /// Nothing is sent: the daemon fetches it.
    None,
}

/// Says whether a context is an address that the daemon fetches.
///
/// Source: moby, `builder/remotecontext/urlutil` (`IsGitURL`, `IsURL`).
pub(super) fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"]
        .iter()
        .any(|scheme| context.starts_with(scheme))
}

/// Starts to read a context on a thread of its own; an error is the last piece.
///
/// `dockerfile` is sent whatever the ignore rules say.
pub(super) fn read(
    source: Source,
    dockerfile: String,
    ignore: Option<String>,
) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES);
    // Standard input cannot be made to end, so nothing may wait for this thread.
    std::thread::spawn(move || {
        let mut out = Pieces { sender: sender.clone(), piece: Vec::with_capacity(PIECE) };
        let read = match source {
            Source::Directory(dir) => {
                cirro_build::pack_context(&dir, &dockerfile, ignore.as_deref(), &mut out)
                    .map_err(|error| io::Error::other(error.to_string()))
            }
            Source::Stdin => copy(&mut out),
            Source::None => Ok(()),
        };
        if let Err(error) = read.and_then(|()| out.flush()) {
            // Whoever no longer reads has no use for it.
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

fn copy(out: &mut Pieces) -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; PIECE];
    loop {
        match stdin.read(&mut buffer)? {
            0 => return Ok(()),
            length => out.write_all(&buffer[..length])?,
        }
    }
}

/// Gathers what is written into pieces.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_| {
            io::Error::new(io::ErrorKind::BrokenPipe, "the build ended before the context was sent")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_directories() {
        for remote in ["https://x/y.git", "git@x:y.git", "git://x/y", "ssh://x/y", "http://x/c.tar"] {
            assert!(is_remote(remote), "{remote}");
        }
        for local in [".", "/srv/app", "app", "-", "git", "httpd"] {
            assert!(!is_remote(local), "{local}");
        }
    }

    #[tokio::test]
    async fn a_context_that_cannot_be_read_says_so() {
        let mut pieces = read(Source::Directory("/no/such/directory".into()), "Dockerfile".into(), None);
        let mut last = None;
        while let Some(piece) = pieces.recv().await {
            last = Some(piece);
        }
        assert!(last.unwrap().is_err());
    }
}
