//! Messages that carry descriptors over unix sockets.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Descriptors that one message may carry at most.
pub const MAX_DESCRIPTORS: usize = 64;

/// Sends bytes with descriptors; never raises SIGPIPE. Returns how many bytes were taken.
///
/// # Errors
/// The kernel's, or [`io::ErrorKind::InvalidInput`] for too many descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    Ok(rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes and appends the descriptors that came with them, closing on exec. Zero is end of file.
///
/// # Errors
/// The kernel's.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [io::IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            descriptors.extend(received);
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_message() {
        let (here, there) = UnixStream::pair().expect("socket pair");
        let (reader, mut writer) = io::pipe().expect("pipe");
        assert_eq!(send(&here, b"take this", &[reader.as_fd()]).expect("send"), 9);
        drop(reader);
        let (mut buffer, mut received) = ([0; 64], Vec::new());
        assert_eq!(receive(&there, &mut buffer, &mut received).expect("receive"), 9);
        assert_eq!(received.len(), 1);
        writer.write_all(b"through").expect("write");
        drop(writer);
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(received.remove(0)), &mut text).expect("read");
        assert_eq!(text, "through");
    }
}
