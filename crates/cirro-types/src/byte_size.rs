//! Sizes as people write them.

/// Parses `10m`, `10mb`, `10MiB`, `1024`; powers of 1024 throughout. Nothing for 0 and for what is no size.
///
/// Source: docker/go-units, `RAMInBytes`.
pub fn parse_byte_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        b't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in
            [("10m", 10 << 20), ("1KiB", 1024), ("3gb", 3 << 30), (" 2 T ", 2 << 40), ("77", 77)]
        {
            assert_eq!(parse_byte_size(text), Some(bytes), "{text}");
        }
        for text in ["", "x", "b", "0", "-1", "1x", "99999999999g"] {
            assert_eq!(parse_byte_size(text), None, "{text}");
        }
    }
}
