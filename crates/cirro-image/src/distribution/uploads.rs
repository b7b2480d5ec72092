//! Uploads: bytes that arrive in one or many requests until they are a blob.
//!
//! ```text
//! start ─▶ idle ⇄ taken (one request writes) ─▶ finish: digest checked, moved to its place, linked
//!           └─▶ cancel, or left alone for a day
//! ```
//! Bytes are hashed as they are written, and the state of that is kept between the requests. A session that an earlier
//! process began has none: its file is read once when somebody goes on with it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};

use super::digest::{Algorithm, BlobDigest, BlobHasher};
use super::error::{DistributionError, io};
use super::name::RepositoryName;
use super::store::{Distribution, Store};

/// Uploads that nobody touched for so long are removed.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Uploads under way at the same time.
const MAX_SESSIONS: usize = 4096;
const BUFFER: usize = 1 << 20;

/// An upload between two requests.
pub(crate) struct Session {
    repository: RepositoryName,
    /// `None` while a request works on it.
    progress: Option<Progress>,
}

#[derive(Clone)]
struct Progress {
    hasher: BlobHasher,
    offset: u64,
}

/// An upload that this request works on, and nobody else. Dropped, it waits for the next request.
pub struct Upload {
    store: Arc<Store>,
    id: String,
    repository: RepositoryName,
    file: File,
    /// `None` when it is done with, so that nothing waits.
    progress: Option<Progress>,
}

impl Upload {
    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the number of bytes that are there.
    pub fn offset(&self) -> u64 {
        self.progress.as_ref().map_or(0, |progress| progress.offset)
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DistributionError> {
        let progress = self.progress.as_mut().expect("there until it is done with");
        self.file.write_all(bytes).map_err(io("write upload"))?;
        progress.hasher.update(bytes);
        progress.offset += bytes.len() as u64;
        Ok(())
    }

    /// Makes it a blob of its repository. On error the upload is gone too.
    pub fn finish(mut self, digest: &BlobDigest) -> Result<(), DistributionError> {
        let store = Arc::clone(&self.store);
        let dir = store.upload_dir(&self.id);
        let progress = self.progress.take().expect("there until it is done with");
        let done = self.keep(&store, progress, digest);
        store.sessions().remove(&self.id);
        fs::remove_dir_all(&dir).map_err(io("remove upload"))?;
        done
    }

    fn keep(&self, store: &Store, progress: Progress, digest: &BlobDigest) -> Result<(), DistributionError> {
        let data = store.upload_dir(&self.id).join("data");
        let hasher = match progress.hasher.algorithm() == digest.algorithm() {
            true => progress.hasher,
            false => hash_file(&data, digest.algorithm())?.hasher,
        };
        let found = hasher.finish();
        if found != *digest {
            return Err(DistributionError::DigestMismatch { expected: digest.clone(), found });
        }
        let _shared = store.share();
        store.check_quota(&self.repository, digest, progress.offset)?;
        if !store.blob_path(digest).exists() {
            store.place(&self.file, &data, digest)?;
        }
        store.link(&self.repository, digest, progress.offset, false)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(progress) = self.progress.take()
            && let Some(session) = self.store.sessions().get_mut(&self.id)
        {
            session.progress = Some(progress);
        }
    }
}

impl Distribution {
    /// Starts an upload.
    pub fn start_upload(
        &self,
        repository: &RepositoryName,
        algorithm: Algorithm,
    ) -> Result<Upload, DistributionError> {
        let store = Arc::clone(&self.inner);
        if store.sessions().len() >= MAX_SESSIONS {
            return Err(DistributionError::UploadBusy);
        }
        let id = new_id();
        let dir = store.upload_dir(&id);
        let at = || "start upload";
        fs::create_dir(&dir).map_err(io(at()))?;
        fs::write(dir.join("repository"), repository.as_str()).map_err(io(at()))?;
        let file = append(dir.join("data"), true)?;
        let session = Session { repository: repository.clone(), progress: None };
        store.sessions().insert(id.clone(), session);
        let progress = Some(Progress { hasher: BlobHasher::new(algorithm), offset: 0 });
        Ok(Upload { store, id, repository: repository.clone(), file, progress })
    }

    /// Goes on with an upload.
    pub fn resume_upload(&self, repository: &RepositoryName, id: &str) -> Result<Upload, DistributionError> {
        let store = Arc::clone(&self.inner);
        let progress = store.take(repository, id)?;
        // From here on the session comes back when this is dropped.
        let progress = Some(progress);
        match append(store.upload_dir(id).join("data"), false) {
            Ok(file) => {
                Ok(Upload { store, id: id.to_owned(), repository: repository.clone(), file, progress })
            }
            Err(error) => {
                store.sessions().remove(id);
                Err(error)
            }
        }
    }

    /// Ends an upload; what came of it is removed.
    pub fn cancel_upload(&self, repository: &RepositoryName, id: &str) -> Result<(), DistributionError> {
        self.inner.take(repository, id)?;
        self.inner.sessions().remove(id);
        fs::remove_dir_all(self.inner.upload_dir(id)).map_err(io("remove upload"))
    }

    /// Removes uploads that nobody went on with, and what a crash left beside them.
    pub fn drop_stale_uploads(&self) -> Result<(), DistributionError> {
        let dir = self.inner.dir.join("uploads");
        for entry in fs::read_dir(&dir).map_err(io("list uploads"))? {
            let path = entry.map_err(io("list uploads"))?.path();
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let touched = [path.join("data"), path.clone()]
                .iter()
                .find_map(|path| path.metadata().ok()?.modified().ok());
            let age =
                touched.and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default();
            let busy = self.inner.sessions().get(&id).is_some_and(|session| session.progress.is_none());
            if age < STALE || busy {
                continue;
            }
            self.inner.sessions().remove(&id);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(io("remove stale upload"))?;
        }
        Ok(())
    }
}

impl Store {
    pub(crate) fn sessions(&self) -> MutexGuard<'_, std::collections::HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upload_dir(&self, id: &str) -> PathBuf {
        self.dir.join("uploads").join(id)
    }

    /// Takes an upload for one request.
    fn take(&self, repository: &RepositoryName, id: &str) -> Result<Progress, DistributionError> {
        let is_id = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id {
            return Err(DistributionError::UploadUnknown);
        }
        {
            let mut sessions = self.sessions();
            if let Some(session) = sessions.get_mut(id) {
                if session.repository != *repository {
                    return Err(DistributionError::UploadUnknown);
                }
                return session.progress.take().ok_or(DistributionError::UploadBusy);
            }
            let dir = self.upload_dir(id);
            let owner = fs::read_to_string(dir.join("repository")).unwrap_or_default();
            if owner != repository.as_str() {
                return Err(DistributionError::UploadUnknown);
            }
            sessions.insert(id.to_owned(), Session { repository: repository.clone(), progress: None });
        }
        let hashed = hash_file(&self.upload_dir(id).join("data"), Algorithm::Sha256);
        hashed.inspect_err(|_| drop(self.sessions().remove(id)))
    }
}

/// Returns a name that nobody can guess.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the kernel has random bytes");
    hex::encode(bytes)
}

fn append(path: PathBuf, new: bool) -> Result<File, DistributionError> {
    let mut options = File::options();
    options.append(true).create_new(new).open(path).map_err(io("open upload"))
}

fn hash_file(path: &std::path::Path, algorithm: Algorithm) -> Result<Progress, DistributionError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DistributionError::UploadUnknown);
        }
        file => file.map_err(io("open upload"))?,
    };
    let mut progress = Progress { hasher: BlobHasher::new(algorithm), offset: 0 };
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer).map_err(io("read upload"))? {
            0 => return Ok(progress),
            count => {
                progress.hasher.update(&buffer[..count]);
                progress.offset += count as u64;
            }
        }
    }
}
