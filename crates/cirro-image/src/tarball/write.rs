//! Writes the headers of entries: ustar, with a PAX header before it where ustar does not hold a value.

use rustix::fs::{FileType, Stat};

use super::{BLOCK, Time, pax};
use crate::error::{Context, ImageError};

/// Where ustar's name field ends.
const USTAR_NAME: usize = 100;

/// Returns the header of an entry that is no hard link; its contents follow if it is a file.
pub(crate) fn entry(
    name: &[u8],
    link: &[u8],
    stat: &Stat,
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> Result<Vec<u8>, ImageError> {
    let mut header = base(stat);
    let kind = FileType::from_raw_mode(stat.st_mode);
    header.set_entry_type(match kind {
        FileType::Directory => tar::EntryType::Directory,
        FileType::Symlink => tar::EntryType::Symlink,
        FileType::CharacterDevice => tar::EntryType::Char,
        FileType::BlockDevice => tar::EntryType::Block,
        FileType::Fifo => tar::EntryType::Fifo,
        _ => tar::EntryType::Regular,
    });
    match kind {
        FileType::RegularFile => header.set_size(stat.st_size as u64),
        FileType::CharacterDevice | FileType::BlockDevice => {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            header.set_device_major(major).context(|| "write device".into())?;
            header.set_device_minor(minor).context(|| "write device".into())?;
        }
        _ => {}
    }
    let mut extension = Vec::new();
    set_time(&mut header, &mut extension, stat);
    for (key, value) in xattrs {
        pax::write_xattr(&mut extension, key, value);
    }
    Ok(named(header, name, link, extension))
}

/// Returns the header of another name of a file that was written before.
pub(crate) fn hard_link(name: &[u8], first: &[u8], stat: &Stat) -> Result<Vec<u8>, ImageError> {
    let mut header = base(stat);
    header.set_entry_type(tar::EntryType::Link);
    let mut extension = Vec::new();
    set_time(&mut header, &mut extension, stat);
    Ok(named(header, name, first, extension))
}

/// Returns the header of an empty file without owner and time: a whiteout.
pub(crate) fn mark(name: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0);
    Ok(named(header, name, b"", Vec::new()))
}

fn base(stat: &Stat) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_size(0);
    header
}

fn set_time(header: &mut tar::Header, extension: &mut Vec<u8>, stat: &Stat) {
    let time = Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 };
    header.set_mtime(u64::try_from(time.seconds).unwrap_or(0));
    if time.nanoseconds != 0 || time.seconds < 0 {
        pax::write_record(extension, b"mtime", pax::format_time(time).as_bytes());
    }
}

/// Gives a header its names; returns it after the PAX header that it needs.
fn named(mut header: tar::Header, name: &[u8], link: &[u8], mut extension: Vec<u8>) -> Vec<u8> {
    for (key, value) in [(&b"path"[..], name), (b"linkpath", link)] {
        if value.len() > USTAR_NAME || !value.is_ascii() {
            pax::write_record(&mut extension, key, value);
        }
    }
    let mut bytes = Vec::with_capacity(BLOCK);
    if !extension.is_empty() {
        let mut head = tar::Header::new_ustar();
        head.set_entry_type(tar::EntryType::XHeader);
        head.set_mode(0o644);
        head.set_size(extension.len() as u64);
        put_text(&mut head.as_old_mut().name, b"PaxHeaders.0/entry");
        head.set_cksum();
        bytes.extend_from_slice(head.as_bytes());
        let padding = (BLOCK - extension.len() % BLOCK) % BLOCK;
        extension.resize(extension.len() + padding, 0);
        bytes.append(&mut extension);
    }
    put_text(&mut header.as_old_mut().name, name);
    put_text(&mut header.as_old_mut().linkname, link);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

/// Fills a field of a header; what is longer is cut off, its PAX record has it whole.
fn put_text(field: &mut [u8; USTAR_NAME], text: &[u8]) {
    field.fill(0);
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}
