//! Ranges: of a blob that is read, and of a chunk that is written.
//!
//! Source: RFC 9110, section 14; OCI distribution-spec v1.1, "Pushing a blob in chunks" (whose `Content-Range` has no
//! unit and no total).

use http::HeaderValue;

/// Which bytes a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of them.
    Whole,
    /// From the first to before the second.
    Part(u64, u64),
    /// Bytes that are not there.
    Unsatisfiable,
}

/// Reads a `Range` header of a blob with `size` bytes. What cannot be understood, and several ranges, mean everything.
pub(crate) fn wanted(header: Option<&HeaderValue>, size: u64) -> Wanted {
    let Some(text) = header.and_then(|value| value.to_str().ok()) else { return Wanted::Whole };
    let Some(range) = text.strip_prefix("bytes=").map(str::trim) else { return Wanted::Whole };
    let Some((first, last)) = range.split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => part(first, last.saturating_add(1).min(size), size),
        (Some(first), None) if last.is_empty() => part(first, size, size),
        (None, Some(count)) if first.is_empty() => part(size.saturating_sub(count), size, size),
        _ => Wanted::Whole,
    }
}

fn part(first: u64, end: u64, size: u64) -> Wanted {
    if first < size && first < end { Wanted::Part(first, end) } else { Wanted::Unsatisfiable }
}

/// Reads the `Content-Range` of a chunk: its first and last byte. `None` when it is malformed.
pub(crate) fn chunk(header: &HeaderValue) -> Option<(u64, u64)> {
    let text = header.to_str().ok()?;
    // Some clients write it as HTTP does.
    let text = text.strip_prefix("bytes ").or(text.strip_prefix("bytes=")).unwrap_or(text);
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then_some((first, last))
}

/// Says which bytes of an upload are there.
pub(crate) fn received(offset: u64) -> HeaderValue {
    HeaderValue::try_from(format!("0-{}", offset.saturating_sub(1))).expect("digits")
}

/// Digits alone: no sign, no blank.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, size: u64) -> Wanted {
        wanted(Some(&HeaderValue::from_str(text).unwrap()), size)
    }

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        assert_eq!(of("bytes=0-3", 10), Wanted::Part(0, 4));
        assert_eq!(of("bytes=5-", 10), Wanted::Part(5, 10));
        assert_eq!(of("bytes=-3", 10), Wanted::Part(7, 10));
        assert_eq!(of("bytes=-30", 10), Wanted::Part(0, 10));
        assert_eq!(of("bytes=9-18446744073709551615", 10), Wanted::Part(9, 10));
        for text in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(of(text, 10), Wanted::Unsatisfiable, "{text}");
        }
        assert_eq!(of("bytes=0-", 0), Wanted::Unsatisfiable);
        for text in ["bytes=3-1", "bytes=a-b", "lines=0-1", "bytes=0-1,3-4", "bytes=+1-2", "bytes=-"] {
            assert_eq!(of(text, 10), Wanted::Whole, "{text}");
        }
    }

    #[test]
    fn a_chunk_says_its_first_and_last_byte() {
        let of = |text: &str| chunk(&HeaderValue::from_str(text).unwrap());
        assert_eq!(of("0-9"), Some((0, 9)));
        assert_eq!(of("bytes 5-9/10"), Some((5, 9)));
        for text in ["", "5", "9-5", "-5", "a-b", "0-18446744073709551615", "0-99999999999999999999"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_wanted_is_there(text in "(bytes=)?[0-9a-]{0,24}", size in 0_u64..1000) {
            if let Wanted::Part(first, end) = of(&text, size) {
                assert!(first < end && end <= size);
            }
        }
    }
}
