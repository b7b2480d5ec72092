//! `HostConfig.StorageOpt`: how much a container's root may take.
//!
//! Source: moby `daemon/graphdriver/overlay2/overlay.go` (`parseStorageOpt`).

use std::collections::BTreeMap;

use cirro_types::parse_byte_size;

use crate::error::ApiError;

/// Returns the bytes that a container's root may take; none when nobody said.
pub(crate) fn size(options: &BTreeMap<String, String>) -> Result<Option<u64>, ApiError> {
    let mut size = None;
    for (name, value) in options {
        match (name.to_ascii_lowercase().as_str(), value.as_str()) {
            ("size", "0") => size = None,
            ("size", text) => {
                let bytes = parse_byte_size(text)
                    .ok_or_else(|| ApiError::invalid(format!("invalid size: '{text}'")))?;
                size = Some(bytes);
            }
            _ => return Err(ApiError::invalid(format!("Unknown option {name}"))),
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, value: &str) -> Result<Option<u64>, ApiError> {
        size(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn a_size_is_read_as_docker_reads_it() {
        assert_eq!(size(&BTreeMap::new()), Ok(None));
        assert_eq!(parsed("size", "120G"), Ok(Some(120 << 30)));
        assert_eq!(parsed("Size", "64m"), Ok(Some(64 << 20)));
        assert_eq!(parsed("size", "0"), Ok(None));
        assert_eq!(parsed("size", "big").unwrap_err().message, "invalid size: 'big'");
        assert_eq!(parsed("inodes", "5").unwrap_err().message, "Unknown option inodes");
    }
}
