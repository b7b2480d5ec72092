use proptest::prelude::*;

use super::header::number;
use super::*;

/// Reads a whole stream; returns the names, and whether every byte was passed on.
fn read_all(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, Vec<u8>), ImageError> {
    struct Keep(Vec<u8>);
    impl Sink for Keep {
        fn raw(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    let mut kept = Keep(Vec::new());
    let mut stream = TarStream::new(ReaderChunks(bytes));
    let mut names = Vec::new();
    while let Some(member) = stream.next(&mut kept)? {
        names.push(member.name);
    }
    stream.drain(&mut kept)?;
    Ok((names, kept.0))
}

fn archive(names: &[String], contents: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, contents).unwrap();
    }
    builder.into_inner().unwrap()
}

proptest! {
    #[test]
    fn what_another_writer_writes_is_read_whole(
        names in prop::collection::vec("[a-z]{1,180}", 0..6),
        contents in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let bytes = archive(&names, &contents);
        let (found, kept) = read_all(&bytes).unwrap();
        prop_assert_eq!(found, names.into_iter().map(String::into_bytes).collect::<Vec<_>>());
        prop_assert_eq!(kept, bytes);
    }

    #[test]
    fn a_damaged_stream_never_panics_and_never_loses_bytes(
        at in 0usize..3000, value: u8, cut in 0usize..4000,
    ) {
        let mut bytes = archive(&["a".repeat(150), "b".into()], &[7; 600]);
        let at = at.min(bytes.len() - 1);
        bytes[at] = value;
        bytes.truncate(cut.max(1));
        if let Ok((_, kept)) = read_all(&bytes) {
            prop_assert_eq!(kept, bytes);
        }
    }

    #[test]
    fn binary_numbers_are_read(value in -(1i64 << 55)..(1i64 << 55)) {
        let mut field = value.to_be_bytes().to_vec();
        field[0] |= 0x80;
        prop_assert_eq!(number(&field).unwrap(), value);
    }
}

#[test]
fn numbers_are_octal_or_binary_and_fit() {
    for (field, wanted) in [
        (&b"0000644\0"[..], 0o644),
        (b"   644 \0", 0o644),
        (b"", 0),
        (b"\0\0\0\0", 0),
        (b"77777777777\0", 0o77_777_777_777),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
        (b"\x80\0\0\0\0\0\0\0\0\0\x01\x02", 258),
    ] {
        assert_eq!(number(field).unwrap(), wanted, "{}", shown(field));
    }
    for field in [&b"9\0"[..], b"-1\0", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
        assert!(number(field).is_err(), "{}", shown(field));
    }
}

#[test]
fn the_last_entry_needs_no_padding_and_the_stream_no_end() {
    let bytes = archive(&["a".into()], b"x");
    for length in [513, 1024, 1536, 2048] {
        let (names, kept) = read_all(&bytes[..length]).unwrap();
        assert_eq!((names.len(), kept.len()), (1, length));
    }
}
