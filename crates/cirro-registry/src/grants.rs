//! `/token`: short-lived tokens for a password or an identity token, and identity tokens for who asks for one.
//!
//! Clients that keep no passwords (`docker login` with a token server) ask once with the password and
//! `offline_token`, keep the identity token that they get, and trade that in from then on.
//! Source: distribution, "Token Authentication Specification" (`GET`) and "OAuth2 Token Authentication" (`POST`).

use std::collections::HashMap;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::json;

use crate::Registry;
use crate::access::Who;
use crate::error::Fault;
use crate::request::Head;
use crate::token::LIFETIME;

/// Longest form.
const MAX_FORM: usize = 64 << 10;

impl Registry {
    /// Gives a token to who says who they are in the request's head, or to nobody in particular.
    pub(crate) async fn token(&self, head: &Head) -> Result<Response, Fault> {
        let who = self.shared.access.identify(head).await?;
        let stays = head.query("offline_token") == Some("true");
        Ok(self.answer_token(who, &head.scopes, stays, None))
    }

    /// Gives a token for a form with a password or an identity token.
    pub(crate) async fn token_of_form(&self, head: &Head, body: Body) -> Result<Response, Fault> {
        let bytes = axum::body::to_bytes(body, MAX_FORM).await;
        let bytes =
            bytes.map_err(|_| Fault::FormInvalid("the form is longer than 64 KiB or broke off".into()))?;
        let form: HashMap<String, String> = pairs(&bytes).collect();
        let get = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let access = &self.shared.access;
        let scopes = [get("scope").to_owned()];
        match get("grant_type") {
            "refresh_token" => {
                let who = access.recognize(head, get("refresh_token"))?;
                Ok(self.answer_token(who, &scopes, false, Some(get("refresh_token"))))
            }
            "password" => {
                let who = access.log_in(head, get("username").into(), get("password").into()).await?;
                Ok(self.answer_token(who, &scopes, get("access_type") == "offline", None))
            }
            _ => Err(Fault::FormInvalid("grant_type is neither password nor refresh_token".into())),
        }
    }

    fn answer_token(&self, who: Who, asked: &[String], stays: bool, identity: Option<&str>) -> Response {
        let access = &self.shared.access;
        let made = if stays { access.identity_token(&who) } else { None };
        let (token, scopes) = access.grant(who, asked);
        let scopes: Vec<String> = scopes
            .iter()
            .map(|scope| format!("repository:{}:{}", scope.repository, scope.actions.join(",")))
            .collect();
        let mut answer = json!({
            "token": token, "access_token": token, "expires_in": LIFETIME.as_secs(), "scope": scopes.join(" "),
        });
        if let Some(identity) = made.as_deref().or(identity) {
            answer["refresh_token"] = identity.into();
        }
        let mut response = Response::new(Body::from(answer.to_string()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Reads `application/x-www-form-urlencoded`.
fn pairs(bytes: &[u8]) -> impl Iterator<Item = (String, String)> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let uri = format!("/?{text}").parse::<http::Uri>().unwrap_or_default();
    let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
    query.map_or_else(|_| Vec::new(), |query| query.0).into_iter()
}
