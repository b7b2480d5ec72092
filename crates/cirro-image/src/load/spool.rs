//! An archive's members as files of a temporary directory: their order in the archive is arbitrary.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use cirro_sys::fail_point::fail_point;
use cirro_types::Digest;

use crate::confine::{clean, parent};
use crate::error::{Context, ImageError, invalid, reading, shown};
use crate::library::Temporary;
use crate::limits::Limits;
use crate::ratio::Ratio;
use crate::tarball::{Kind, Member, Nowhere, ReaderChunks, TarStream};
use cirro_compression::decompress;

/// Links from member to member in one name.
const MAX_LINKS: usize = 8;

/// Members by cleaned name.
pub(super) struct Spool {
    dir: Temporary,
    members: HashMap<Vec<u8>, Spooled>,
    limits: Limits,
}

enum Spooled {
    /// The number that is its file's name, and its size.
    File(usize, u64),
    /// Another member: old versions of docker save a layer that two images have once.
    Link(Vec<u8>),
}

impl Spool {
    /// Reads an archive to its end.
    pub(super) fn read(archive: &mut dyn Read, dir: Temporary, limits: &Limits) -> Result<Self, ImageError> {
        let mut spool = Self { dir, members: HashMap::new(), limits: limits.clone() };
        let (plain, gauge) = decompress(archive).map_err(|error| reading("archive", error))?;
        let mut stream = TarStream::new(ReaderChunks(plain));
        let (mut ratio, mut count) = (Ratio::new(&gauge, limits), 0);
        while let Some(member) = stream.next(&mut Nowhere)? {
            count += 1;
            fail_point("image.spool.member").context(|| "spool archive".into())?;
            if count > limits.archive_members {
                return invalid(format!("archive: more than {} members", limits.archive_members));
            }
            let spooled = match member.kind {
                Kind::File => {
                    spool.write(count, &member, &mut stream, &mut ratio)?;
                    Spooled::File(count, member.size)
                }
                Kind::HardLink => Spooled::Link(clean(&member.link)),
                Kind::Symlink => Spooled::Link(link_target(&member)),
                _ => continue,
            };
            if let Some(Spooled::File(number, _)) = spool.members.insert(clean(&member.name), spooled) {
                std::fs::remove_file(spool.path(number)).context(|| "spool archive".into())?;
            }
        }
        stream.drain(&mut Nowhere)?;
        Ok(spool)
    }

    /// Tells whether a member is there.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.find(name).is_ok()
    }

    /// Opens a member.
    pub(super) fn open(&self, name: &[u8]) -> Result<File, ImageError> {
        let (number, _) = self.find(name)?;
        File::open(self.path(number)).context(|| "open spooled member".into())
    }

    /// Returns a member's size.
    pub(super) fn size(&self, name: &[u8]) -> Result<u64, ImageError> {
        Ok(self.find(name)?.1)
    }

    /// Reads a document, which must not be larger than documents may be.
    pub(super) fn document(&self, name: &[u8]) -> Result<Vec<u8>, ImageError> {
        let (size, limit) = (self.size(name)?, self.limits.document_bytes);
        if size > limit {
            return invalid(format!("`{}` has {size} bytes, at most {limit} are allowed", shown(name)));
        }
        let mut bytes = Vec::new();
        self.open(name)?.read_to_end(&mut bytes).context(|| "read spooled member".into())?;
        Ok(bytes)
    }

    fn find(&self, name: &[u8]) -> Result<(usize, u64), ImageError> {
        let mut name = clean(name);
        for _ in 0..MAX_LINKS {
            match self.members.get(&name) {
                Some(Spooled::File(number, size)) => return Ok((*number, *size)),
                Some(Spooled::Link(target)) => name.clone_from(target),
                None => return invalid(format!("archive: `{}` is missing", shown(&name))),
            }
        }
        invalid(format!("archive: too many links to `{}`", shown(&name)))
    }

    fn write(
        &self,
        number: usize,
        member: &Member,
        stream: &mut TarStream<ReaderChunks<Box<dyn Read + '_>>>,
        ratio: &mut Ratio,
    ) -> Result<(), ImageError> {
        let at = || "spool archive".to_owned();
        if member.sparse.is_some() {
            return invalid(format!("archive: `{}` is a sparse entry", shown(&member.name)));
        }
        let mut file = File::create_new(self.path(number)).context(at)?;
        let archive_bytes = self.limits.archive_bytes;
        if ratio.written().checked_add(member.size).is_none_or(|total| total > archive_bytes) {
            return invalid(format!("archive: more than {archive_bytes} bytes"));
        }
        loop {
            let piece = stream.contents()?;
            if piece.is_empty() {
                return Ok(());
            }
            file.write_all(piece).context(at)?;
            ratio.wrote(piece.len(), "archive")?;
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.dir.path().join(number.to_string())
    }
}

/// A symlink's target as a member's name.
fn link_target(member: &Member) -> Vec<u8> {
    if member.link.starts_with(b"/") {
        return clean(&member.link);
    }
    clean(&[parent(&clean(&member.name)), &member.link].join(&b'/'))
}

/// Where OCI layouts keep a blob.
pub(super) fn blob_name(digest: &Digest) -> Vec<u8> {
    format!("blobs/sha256/{}", digest.hex()).into_bytes()
}
