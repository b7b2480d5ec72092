//! How a call ends: a code, a text, and details for programs.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use prost::Message;

/// A message of any type.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// Names the type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `google.rpc.Status`: a status as a message.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// One of [`Code`], or another of gRPC's.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What is wrong.
    #[prost(string, tag = "2")]
    pub message: String,
    /// More about it, for programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// The codes that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// It failed.
    Unknown = 2,
    /// What is asked for makes no sense.
    InvalidArgument = 3,
    /// It took too long.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// A bound was reached.
    ResourceExhausted = 8,
    /// What is asked for is not there any more, or not yet.
    OutOfRange = 11,
    /// There is no such method, or it does not do that.
    Unimplemented = 12,
    /// The other side broke the protocol.
    Internal = 13,
    /// The connection is gone.
    Unavailable = 14,
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// One of [`Code`], or another of gRPC's.
    pub code: i32,
    /// What is wrong.
    pub message: String,
    /// More about it, for programs.
    pub details: Vec<Any>,
}

impl From<RpcStatus> for Status {
    fn from(status: RpcStatus) -> Self {
        Self { code: status.code, message: status.message, details: status.details }
    }
}

impl From<Status> for RpcStatus {
    fn from(status: Status) -> Self {
        Self { code: status.code, message: status.message, details: status.details }
    }
}

impl Status {
    /// Makes a status without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: Vec::new() }
    }

    /// Says that something failed.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }

    /// Says that something that others have is not there.
    pub fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(Code::Unimplemented, format!("{what} is not supported"))
    }

    /// Says whether the status is of this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code as i32
    }

    pub(crate) fn broken(error: impl std::fmt::Display) -> Self {
        Self::new(Code::Unavailable, format!("the connection ended: {error}"))
    }

    /// Returns the trailers that end a call.
    pub(crate) fn trailers(result: Result<(), Self>) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let status = match result {
            Ok(()) => {
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                return trailers;
            }
            Err(status) => status,
        };
        trailers.insert("grpc-status", HeaderValue::from(status.code));
        if let Ok(message) = HeaderValue::try_from(percent_encode(&status.message)) {
            trailers.insert("grpc-message", message);
        }
        if !status.details.is_empty() {
            let whole = RpcStatus::from(status).encode_to_vec();
            if let Ok(details) = HeaderValue::try_from(BASE64_STANDARD_NO_PAD.encode(whole)) {
                trailers.insert("grpc-status-details-bin", details);
            }
        }
        trailers
    }

    /// Reads the trailers, or the headers of a call that has only those.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Result<(), Self>> {
        let code = headers.get("grpc-status")?.to_str().ok();
        let code = code.and_then(|code| code.parse().ok()).unwrap_or(Code::Unknown as i32);
        if code == Code::Ok as i32 {
            return Some(Ok(()));
        }
        let message = headers.get("grpc-message").map(|value| percent_decode(value.as_bytes()));
        let details = headers.get("grpc-status-details-bin").and_then(|value| {
            let text = value.as_bytes().trim_ascii_end();
            let text = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
            RpcStatus::decode(&*BASE64_STANDARD_NO_PAD.decode(text).ok()?).ok()
        });
        let details = details.map(|status| status.details).unwrap_or_default();
        Some(Err(Self { code, message: message.unwrap_or_default(), details }))
    }
}

/// gRPC's form of text in a header.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut left = text;
    while let Some((&first, rest)) = left.split_first() {
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        left = if byte.is_some() { &rest[2..] } else { rest };
        out.push(byte.unwrap_or(first));
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_headers_is_ascii() {
        for text in ["plain", "100%", "a\nb", "grün"] {
            let encoded = percent_encode(text);
            assert!(encoded.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{encoded}");
            assert_eq!(percent_decode(encoded.as_bytes()), text);
        }
        assert_eq!(percent_decode(b"%zz%4%+1"), "%zz%4%+1");
    }

    #[test]
    fn a_status_that_is_no_number_is_a_failure() {
        let headers =
            |code| HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))]);
        assert_eq!(Status::read(&headers("0")), Some(Ok(())));
        assert_eq!(Status::read(&headers("14")).unwrap().unwrap_err().code, 14);
        assert_eq!(Status::read(&headers("x")).unwrap().unwrap_err().code, 2);
        assert_eq!(Status::read(&HeaderMap::new()), None);
    }
}
