//! Whose token it is: checked against what it names, as that is now.
//!
//! Source: `pkg/serviceaccount/claims.go` and `legacy.go`, `plugin/pkg/auth/authenticator/token/bootstrap`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cirro_seams::api::ApiError;
use jiff::Timestamp;
use serde_json::Value;

use super::ISSUER;
use crate::auth::User;
use crate::authenticate::service_account_groups;
use crate::json;
use crate::storage::Storage;

/// Who signs the tokens in secrets.
pub(crate) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How long a token outlives the beginning of its pod's or account's end.
const LEEWAY: i64 = 60;

/// A good token.
pub(crate) struct Reviewed {
    pub(crate) user: User,
    /// Whom it is for.
    pub(crate) audiences: Vec<String>,
}

impl Storage {
    /// Finds out whose token it is; `None` for one that is not good. `audiences` are those of the one who
    /// asks: the token must be for one of them.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Reviewed>, ApiError> {
        if let Some((id, secret)) = bootstrap_parts(token) {
            let user = self.bootstrap_user(id, secret).await?;
            return Ok(user.map(|user| Reviewed { user, audiences: audiences.to_vec() }));
        }
        let Some(claims) = self.tokens.verified(token) else { return Ok(None) };
        if claims["iss"] == LEGACY_ISSUER {
            let user = self.legacy_user(token, &claims).await?;
            return Ok(user.map(|user| Reviewed { user, audiences: audiences.to_vec() }));
        }
        let now = Timestamp::now().as_second();
        let timely = json::number(&claims, "nbf").is_some_and(|from| from <= now + LEEWAY)
            && json::number(&claims, "exp").is_some_and(|end| now < end);
        let own: Vec<String> = texts(&claims["aud"]);
        let shared: Vec<_> = own.into_iter().filter(|one| audiences.contains(one)).collect();
        if claims["iss"] != ISSUER || !timely || shared.is_empty() {
            return Ok(None);
        }
        let user = self.token_user(&claims).await?;
        Ok(user.map(|user| Reviewed { user, audiences: shared }))
    }

    async fn token_user(&self, claims: &Value) -> Result<Option<User>, ApiError> {
        let own = &claims["kubernetes.io"];
        let namespace = json::text(own, "namespace");
        let account = &own["serviceaccount"];
        if !self.lives("serviceaccounts", namespace, account).await? {
            return Ok(None);
        }
        for (claim, plural) in [("pod", "pods"), ("secret", "secrets")] {
            if own.get(claim).is_some() && !self.lives(plural, namespace, &own[claim]).await? {
                return Ok(None);
            }
        }
        // A node that a pod's token mentions is for the record; one that it is bound to must live.
        if own.get("node").is_some()
            && own.get("pod").is_none()
            && !self.lives("nodes", "", &own["node"]).await?
        {
            return Ok(None);
        }
        let mut user = account_user(namespace, json::text(account, "name"), json::text(account, "uid"));
        let mut note = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        note("credential-id", &format!("JTI={}", json::text(claims, "jti")));
        for claim in ["pod", "node"] {
            note(&format!("{claim}-name"), json::text(&own[claim], "name"));
            note(&format!("{claim}-uid"), json::text(&own[claim], "uid"));
        }
        Ok(Some(user))
    }

    /// Whether what a token names is still the same and not long in ending.
    async fn lives(&self, plural: &str, namespace: &str, claim: &Value) -> Result<bool, ApiError> {
        let place = self.core_place(plural, namespace, json::text(claim, "name"));
        let object = match self.get(place).await {
            Ok(object) => object,
            Err(refusal) if refusal.is_not_found() => return Ok(false),
            Err(refusal) => return Err(refusal),
        };
        let ended = json::text(&object, "metadata.deletionTimestamp").parse::<Timestamp>().ok();
        let over = ended.is_some_and(|at| at.as_second() + LEEWAY < Timestamp::now().as_second());
        Ok(!over && object["metadata"]["uid"] == claim["uid"])
    }

    async fn legacy_user(&self, token: &str, claims: &Value) -> Result<Option<User>, ApiError> {
        let claim =
            |name: &str| claims[format!("kubernetes.io/serviceaccount/{name}")].as_str().unwrap_or_default();
        let namespace = claim("namespace");
        let secret = match self.get(self.core_place("secrets", namespace, claim("secret.name"))).await {
            Ok(secret) => secret,
            Err(refusal) if refusal.is_not_found() => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let held = STANDARD.decode(json::text(&secret["data"], "token")).unwrap_or_default();
        let (name, uid) = (claim("service-account.name"), claim("service-account.uid"));
        let account = serde_json::json!({"name": name, "uid": uid});
        if held != token.as_bytes()
            || json::at(&secret, "metadata.deletionTimestamp").is_some()
            || !self.lives("serviceaccounts", namespace, &account).await?
        {
            return Ok(None);
        }
        Ok(Some(account_user(namespace, name, uid)))
    }

    /// Returns whose bootstrap token it is: the secret `bootstrap-token-ID` in kube-system says.
    async fn bootstrap_user(&self, id: &str, given: &str) -> Result<Option<User>, ApiError> {
        let name = format!("bootstrap-token-{id}");
        let secret = match self.get(self.core_place("secrets", "kube-system", &name)).await {
            Ok(secret) => secret,
            Err(refusal) if refusal.is_not_found() => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let part = |key: &str| {
            let bytes = STANDARD.decode(json::text(&secret["data"], key)).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        };
        let expired = match part("expiration").as_str() {
            "" => false,
            text => text.parse::<Timestamp>().map_or(true, |end| end <= Timestamp::now()),
        };
        // Compared as digests, so that the time taken says nothing about how much of it is right.
        let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let good = secret["type"] == "bootstrap.kubernetes.io/token"
            && json::at(&secret, "metadata.deletionTimestamp").is_none()
            && part("token-id") == id
            && digest(&part("token-secret")).as_ref() == digest(given).as_ref()
            && part("usage-bootstrap-authentication") == "true"
            && !expired;
        if !good {
            return Ok(None);
        }
        let mut groups = vec!["system:bootstrappers".to_owned()];
        let extra = part("auth-extra-groups");
        let allowed = |group: &&str| group.starts_with("system:bootstrappers:");
        groups.extend(extra.split(',').map(str::trim).filter(allowed).map(str::to_owned));
        groups.push(User::AUTHENTICATED.into());
        Ok(Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() }))
    }
}

fn account_user(namespace: &str, name: &str, uid: &str) -> User {
    let mut groups = service_account_groups(namespace);
    groups.push(User::AUTHENTICATED.into());
    let name = format!("system:serviceaccount:{namespace}:{name}");
    User { name, uid: uid.to_owned(), groups, ..User::default() }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Splits a bootstrap token: six and sixteen lower-case letters or digits.
fn bootstrap_parts(token: &str) -> Option<(&str, &str)> {
    let plain = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token.split_once('.').filter(|(id, secret)| plain(id, 6) && plain(secret, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_tokens_have_their_form() {
        assert_eq!(bootstrap_parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for other in ["abcdef.0123", "ABCDEF.0123456789abcdef", "a.b.c", "", "abcdef0123456789abcdef"] {
            assert_eq!(bootstrap_parts(other), None, "{other}");
        }
    }
}
