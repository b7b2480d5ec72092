//! Netlink messages and attributes that no crate of ours reads: taken apart and put together byte by byte.

/// Length of a message's own header.
pub(super) const HEADER: usize = 16;
/// Marks an attribute that holds others.
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's type that say nothing about what it is.
const TYPE_MASK: u16 = 0x3fff;

/// A message as it was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sender: u32,
    pub(super) payload: &'a [u8],
}

/// Takes a datagram apart; what is cut off is left out.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let length = number(&header[..4]) as usize;
        let payload = rest.get(HEADER..length)?;
        let message = Message { kind: short(&header[4..6]), sender: number(&header[12..16]), payload };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Lists the attributes in a payload with their types.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = rest.get(..4)?;
        let length = usize::from(short(&header[..2]));
        let value = rest.get(4..length)?;
        let kind = short(&header[2..4]) & TYPE_MASK;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the first attribute of a type.
pub(super) fn attribute(payload: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(payload).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Reads a text that ends with a zero.
pub(super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// Writes an attribute.
pub(super) fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("our attributes are short");
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// Writes an attribute that holds others.
pub(super) fn put_nested(message: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put(message, kind | NESTED, &inner);
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
}

fn short(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes(bytes.try_into().expect("two bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_is_taken_apart_again() {
        let mut payload = Vec::new();
        put(&mut payload, 3, b"eth0\0");
        put_nested(&mut payload, 7, |inner| put(inner, 1, &[9]));
        assert_eq!(attribute(&payload, 3).and_then(text), Some("eth0"));
        assert_eq!(attribute(attribute(&payload, 7).unwrap(), 1), Some(&[9][..]));
        assert_eq!(attribute(&payload, 8), None);
    }

    #[test]
    fn cut_and_forged_lengths_end_the_list() {
        for bytes in [&[][..], &[1], &[0; 4], &[255, 255, 1, 0, 1], &[3, 0, 1, 0]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(messages(&[0; 40]).count(), 0);
        assert_eq!(messages(&[255; 40]).count(), 0);
    }
}
