//! One request over a connection of its own; an upgrade is passed through.

use axum::body::Body;
use axum::http::header::{CONNECTION, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Headers that are of one connection.
const HOP_BY_HOP: [HeaderName; 5] = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Whether a request wants its connection to become something else.
pub(in crate::http) fn is_upgrade(headers: &HeaderMap) -> bool {
    let words = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    words.flat_map(|text| text.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Sends a request, whose URI is a path, and returns the answer as it comes.
pub(in crate::http) async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: Request<Body>,
) -> Result<Response<Body>, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(chain)?;
    // It ends with the answer's last byte, or when the answer is dropped.
    tokio::spawn(async move {
        if let Err(why) = connection.with_upgrades().await {
            tracing::debug!(%why, "proxied connection ended");
        }
    });
    let upgrade = is_upgrade(request.headers());
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    strip(request.headers_mut(), upgrade);
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    }
    let mut response = sender.send_request(request).await.map_err(chain)?;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let (Some(client), true) = (client, switched) {
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
    strip(response.headers_mut(), switched);
    Ok(response.map(Body::new))
}

/// Writes an error with its sources: hyper's own words say little.
fn chain(why: hyper::Error) -> String {
    let mut text = why.to_string();
    let mut source = std::error::Error::source(&why);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Takes out what is of the connection, those parts that an upgrade needs apart.
pub(in crate::http) fn strip(headers: &mut HeaderMap, upgrade: bool) {
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|text| text.split(',')).filter_map(|word| word.trim().parse().ok());
    let named: Vec<HeaderName> = named.collect();
    let protocol = headers.get(UPGRADE).cloned().filter(|_| upgrade);
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_of_the_connection_stays_here() {
        let given =
            [("connection", "keep-alive, x-own"), ("x-own", "1"), ("te", "trailers"), ("accept", "a")];
        let mut plain = headers(&given);
        strip(&mut plain, false);
        assert_eq!(plain, headers(&[("accept", "a")]));
        let mut upgraded = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert!(is_upgrade(&upgraded));
        strip(&mut upgraded, true);
        assert_eq!(upgraded, headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
    }
}
