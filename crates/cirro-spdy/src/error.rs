//! What a peer did wrong.

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// Another version, or no SPDY at all.
    #[error("frame of version {0}, not 3")]
    Version(u16),
    /// A control frame is larger than any that is needed.
    #[error("control frame of {0} bytes")]
    TooLarge(usize),
    /// A control frame is shorter than its fields.
    #[error("control frame of type {0} is too short")]
    Short(u16),
    /// A stream id that cannot be.
    #[error("invalid stream id {0}")]
    StreamId(u32),
    /// A header block that is not deflated with SPDY's dictionary.
    #[error("decompress headers: {0}")]
    Compression(String),
    /// A header block that is too large or does not hold what it says.
    #[error("{0}")]
    Headers(&'static str),
}
