//! What goes wrong in the image library, and how lower errors become it.

use std::io;

/// Why the library refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// The id prefix fits several.
    #[error("{0} is ambiguous")]
    Ambiguous(String),
    /// It is used: by a container, by a child image, under another name.
    #[error("{0}")]
    InUse(String),
    /// The input is malformed or hostile.
    #[error("{0}")]
    Invalid(String),
    /// The host cannot do it.
    #[error("{0}")]
    NotSupported(String),
    /// The disk or database failed.
    #[error("{context}")]
    Io {
        /// What was done.
        context: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The records failed.
    #[error("image records")]
    Store(#[source] cirro_store::StoreError),
}

/// Says what was being done when the host failed.
pub(crate) trait Context<T> {
    /// Turns a failure of the host into [`ImageError::Io`].
    fn context(self, what: impl FnOnce() -> String) -> Result<T, ImageError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Io { context: what(), source: source.into() })
    }
}

/// Makes an error about the input.
pub(crate) fn invalid<T>(message: impl Into<String>) -> Result<T, ImageError> {
    Err(ImageError::Invalid(message.into()))
}

/// Tells a failing disk or connection from bytes that are not what they should be.
///
/// Decoders report damaged data as errors without an operating system's code.
pub(crate) fn reading(what: &str, source: io::Error) -> ImageError {
    if source.raw_os_error().is_some() {
        return ImageError::Io { context: format!("read {what}"), source };
    }
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return ImageError::Invalid(format!("{what}: unexpected end of data"));
    }
    ImageError::Invalid(format!("{what}: {source}"))
}

/// Prints bytes from an archive for a person: lossy, without control characters, bounded.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
    text.escape_debug().to_string()
}
