//! Header blocks: names and values, deflated with one state for the whole connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::dictionary::dictionary;
use crate::error::SpdyError;

/// Most bytes of a block, inflated. Kubernetes' streams have three short headers.
const MAX_BLOCK: usize = 64 * 1024;
/// Most headers of a block.
const MAX_HEADERS: usize = 256;

/// The headers of a stream, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// Returns a header's first value; empty when it is absent.
    pub fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(of, _)| of == name);
        found.map_or("", |(_, value)| value.split('\0').next().unwrap_or_default())
    }

    fn parse(bytes: &[u8]) -> Result<Self, SpdyError> {
        let mut rest = bytes;
        let count = number(&mut rest)?;
        if count > MAX_HEADERS {
            return Err(SpdyError::Headers("too many headers"));
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let name = text(&mut rest)?;
            let value = text(&mut rest)?;
            if name.is_empty() {
                return Err(SpdyError::Headers("a header without a name"));
            }
            headers.push((name.to_ascii_lowercase(), value));
        }
        if !rest.is_empty() {
            return Err(SpdyError::Headers("bytes after the last header"));
        }
        Ok(Self(headers))
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |length: usize, text: &str| {
            bytes.extend_from_slice(&(length as u32).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        put(self.0.len(), "");
        for (name, value) in &self.0 {
            put(name.len(), name);
            put(value.len(), value);
        }
        bytes
    }
}

fn number(rest: &mut &[u8]) -> Result<usize, SpdyError> {
    let (bytes, after) =
        rest.split_first_chunk::<4>().ok_or(SpdyError::Headers("a header block is cut off"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes) as usize)
}

fn text(rest: &mut &[u8]) -> Result<String, SpdyError> {
    let length = number(rest)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(SpdyError::Headers("a header is cut off"))?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).map_err(|_| SpdyError::Headers("a header is not UTF-8"))
}

/// Inflates the blocks that a peer sends.
pub(crate) struct Inflater {
    state: Decompress,
    dictionary: Vec<u8>,
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self { state: Decompress::new(true), dictionary: dictionary() }
    }

    pub(crate) fn headers(&mut self, bytes: &[u8]) -> Result<Headers, SpdyError> {
        Headers::parse(&self.inflate(bytes)?)
    }

    fn inflate(&mut self, bytes: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut rest = bytes;
        let mut inflated = Vec::with_capacity(1024);
        loop {
            let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
            let step = self.state.decompress_vec(rest, &mut inflated, FlushDecompress::Sync);
            let consumed = (self.state.total_in() - before_in) as usize;
            rest = rest.get(consumed..).unwrap_or_default();
            match step {
                Ok(Status::StreamEnd) => return Err(SpdyError::Headers("the header compression ended")),
                Ok(_) => {}
                Err(why) if why.needs_dictionary().is_some() => {
                    let set = self.state.set_dictionary(&self.dictionary);
                    set.map_err(|why| SpdyError::Compression(why.to_string()))?;
                    continue;
                }
                Err(why) => return Err(SpdyError::Compression(why.to_string())),
            }
            if inflated.len() > MAX_BLOCK {
                return Err(SpdyError::Headers("a header block is too large"));
            }
            if inflated.len() == inflated.capacity() {
                inflated.reserve(inflated.capacity());
            } else if rest.is_empty() || (consumed == 0 && self.state.total_out() == before_out) {
                return Ok(inflated);
            }
        }
    }
}

/// Deflates the blocks that are sent.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Self {
        let mut state = Compress::new(Compression::best(), true);
        state.set_dictionary(&dictionary()).expect("nothing was deflated yet");
        Self(state)
    }

    pub(crate) fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.write();
        let mut deflated = Vec::with_capacity(block.len() + 64);
        let mut rest = block.as_slice();
        loop {
            let before = self.0.total_in();
            let step = self.0.compress_vec(rest, &mut deflated, FlushCompress::Sync);
            step.expect("deflating to memory does not fail");
            rest = &rest[(self.0.total_in() - before) as usize..];
            // Room that is left says that the flush is whole.
            if rest.is_empty() && deflated.len() < deflated.capacity() {
                return deflated;
            }
            deflated.reserve(deflated.capacity().max(64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused() {
        let mut deflater = Deflater::new();
        let headers = Headers(vec![("a".into(), "x".repeat(MAX_BLOCK * 4))]);
        let refusal = Inflater::new().headers(&deflater.headers(&headers)).unwrap_err();
        assert_eq!(refusal.to_string(), "a header block is too large");
    }

    #[test]
    fn names_are_of_lower_case_and_values_are_the_first() {
        let mut deflater = Deflater::new();
        let headers = Headers(vec![("StreamType".into(), "data\0error".into())]);
        let read = Inflater::new().headers(&deflater.headers(&headers)).unwrap();
        assert_eq!(read.get("streamtype"), "data");
        assert_eq!(read.get("port"), "");
    }
}
