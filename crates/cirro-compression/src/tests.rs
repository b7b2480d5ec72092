use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn all(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(bytes)?.0.read_to_end(&mut out)?;
    Ok(out)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What the `xz` program makes, which every Debian has.
fn xz(bytes: &[u8], options: &[&str]) -> Vec<u8> {
    let mut child = Command::new("xz")
        .args(["-c", "-q"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xz is installed");
    let (mut input, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success());
    out.stdout
}

/// Text that compresses, but not too well.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let words = ["layer", "manifest", "digest", "\n", " ", "0", "sha256:"];
    let mut text = Vec::new();
    while text.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(words[(state >> 16) as usize % words.len()].as_bytes());
    }
    text.truncate(length);
    text
}

#[test]
fn plain_bytes_pass_however_short() {
    assert_eq!(all(b"").unwrap(), b"");
    assert_eq!(all(b"abc").unwrap(), b"abc");
}

#[test]
fn concatenated_gzip_members_are_one_stream() {
    assert_eq!(all(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
}

#[test]
fn zstd_frames_and_skippable_frames_are_one_stream() {
    let skippable = [0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let stream = [&skippable[..], &frame(b"one "), &skippable, &frame(b"two")].concat();
    assert_eq!(all(&stream).unwrap(), b"one two");
}

#[test]
fn concatenated_bzip2_streams_are_one_stream() {
    assert_eq!(all(&[bzip2(b"one "), bzip2(b"two")].concat()).unwrap(), b"one two");
    let long = text(2_500_000);
    assert_eq!(all(&bzip2(&long)).unwrap(), long);
}

#[test]
fn xz_is_read_with_every_check_many_blocks_and_many_streams() {
    let long = text(3_000_000);
    for options in [
        &["-1"][..],
        &["-9"],
        &["-0", "--check=none"],
        &["-0", "--check=crc32"],
        &["-0", "--check=sha256"],
        &["-1", "--block-size=100000"],
        &["-1", "-T2", "--block-size=200000"],
    ] {
        assert_eq!(all(&xz(&long, options)).unwrap(), long, "{options:?}");
    }
    assert_eq!(all(&xz(b"", &[])).unwrap(), b"");
    let padded = [&xz(b"one ", &[])[..], &[0; 8], &xz(b"two", &["--check=crc32"])].concat();
    assert_eq!(all(&padded).unwrap(), b"one two");
    // What does not compress is stored.
    let noise: Vec<u8> = long
        .iter()
        .scan(7_u32, |state, _| {
            *state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            Some((*state >> 24) as u8)
        })
        .collect();
    assert_eq!(all(&xz(&noise, &["-6"])).unwrap(), noise);
}

#[test]
fn damaged_streams_are_errors() {
    let plain = text(20_000);
    for stream in [gzip(&plain), bzip2(&plain), zstd::encode_all(&plain[..], 1).unwrap(), xz(&plain, &[])] {
        assert!(all(&stream[..stream.len() / 2]).is_err());
        let mut turned = stream.clone();
        let middle = stream.len() / 2;
        turned[middle] ^= 0x10;
        // zstd has no checksum unless asked for; the others notice.
        assert!(Compression::of(&stream) == Compression::Zstd || all(&turned).is_err());
    }
    assert!(all(b"BZh91AY").is_err());
}

#[test]
fn any_changed_byte_of_an_xz_file_is_noticed() {
    let stream = xz(&text(3000), &["-0", "--block-size=1000"]);
    for place in 6..stream.len() {
        let mut changed = stream.clone();
        changed[place] ^= 0x01;
        assert!(all(&changed).is_err(), "byte {place} of {}", stream.len());
        assert!(all(&stream[..place]).is_err(), "cut at {place}");
    }
    for trailing in [&[0; 3][..], &[1], b"garbage that is no stream"] {
        assert!(all(&[&stream[..], trailing].concat()).is_err());
    }
}

#[test]
fn memory_is_bounded() {
    let mut large = xz(b"small", &["-0"]);
    // The dictionary's size is the last property in the first block's header.
    let at = 12 + large[12..].windows(2).position(|pair| pair == [0x21, 1]).unwrap() + 2;
    large[at] = 40;
    let end = 12 + (usize::from(large[12]) + 1) * 4 - 4;
    let sum = crc32fast::hash(&large[12..end]).to_le_bytes();
    large[end..end + 4].copy_from_slice(&sum);
    assert!(all(&large).unwrap_err().to_string().contains("dictionary"));
    let other = xz(b"small", &["--x86", "--lzma2"]);
    assert!(all(&other).unwrap_err().to_string().contains("filters"));

    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(&text(1000)).unwrap();
    let window = encoder.finish().unwrap();
    assert!(all(&window).is_err(), "a window of 256 MiB");
}

#[test]
fn compressed_bytes_are_counted() {
    let zeros = vec![0; 4 << 20];
    for stream in [gzip(&zeros), bzip2(&zeros), zstd::encode_all(&zeros[..], 3).unwrap(), xz(&zeros, &[])] {
        let (mut reader, gauge) = decompress(&stream[..]).unwrap();
        assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap(), zeros.len() as u64);
        assert_eq!(gauge.read(), stream.len() as u64);
    }
}

proptest! {
    #[test]
    fn nothing_makes_the_decoders_panic_or_run_on(
        magic in prop::sample::select(vec![
            &[0x1f, 0x8b, 8][..], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh9", b"BZh11AY&SY", &[0xfd, b'7', b'z', b'X', b'Z', 0, 0, 1],
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let bytes = [magic, &rest].concat();
        if let Ok((reader, _)) = decompress(&bytes[..]) {
            let _ = io::copy(&mut reader.take(64 << 20), &mut io::sink());
        }
    }

    #[test]
    fn damage_anywhere_in_an_xz_file_makes_no_panic(
        place in 0_usize..400,
        value in any::<u8>(),
        seed in 0_usize..50,
    ) {
        let mut bytes = xz(&text(500 + seed), &["-0"]);
        let length = bytes.len();
        bytes[place % length] = value;
        if let Ok((reader, _)) = decompress(&bytes[..]) {
            let _ = io::copy(&mut reader.take(64 << 20), &mut io::sink());
        }
    }
}
