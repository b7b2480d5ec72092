//! Finds out who asks: by the connection's certificate, by a token, or as whom another one acts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use cirro_seams::api::ApiError;

use crate::auth::User;
use crate::error;
use crate::rbac::Access;
use crate::storage::Storage;
use crate::tokens;

const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_GROUP: &str = "impersonate-group";
const IMPERSONATE_UID: &str = "impersonate-uid";
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";
/// Most values that one request impersonates; each is authorised on its own.
const MAX_IMPERSONATED: usize = 128;

/// Who asks.
pub(crate) struct Authenticated {
    /// As whom.
    pub(crate) user: Arc<User>,
    /// Who acts as that one, when it is another.
    pub(crate) impersonator: Option<User>,
}

impl Storage {
    /// Returns who asks, and as whom. `connection` is what the connection's certificate says.
    ///
    /// # Errors
    /// 401 for a credential that is not good, 403 for an impersonation that is not allowed.
    pub(crate) async fn authenticate(
        &self,
        connection: &User,
        headers: &HeaderMap,
    ) -> Result<Authenticated, ApiError> {
        let mut user = connection.clone();
        if connection.is_anonymous()
            && let Some(token) = bearer(headers)?
        {
            let reviewed = self.review_token(token, &[tokens::ISSUER.to_owned()]).await?;
            user = reviewed.ok_or_else(error::unauthorized)?.user;
        }
        match impersonated(headers)? {
            None => Ok(Authenticated { user: Arc::new(user), impersonator: None }),
            Some(wanted) => {
                for access in wanted.needs() {
                    self.authorize(&user, &access).await?;
                }
                Ok(Authenticated { user: Arc::new(wanted.into_user()), impersonator: Some(user) })
            }
        }
    }
}

/// Returns the token of a request.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let value = value.to_str().map_err(|_| error::unauthorized())?;
    let Some((scheme, token)) = value.trim().split_once(' ') else { return Ok(None) };
    let token = token.trim();
    Ok(Some(token).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()))
}

/// Splits the name of a service account's user.
pub(crate) fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?
        .split_once(':')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'))
}

/// Returns the groups of every service account of a namespace.
pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

/// As whom a request wants to act.
#[derive(Debug, Default, PartialEq)]
struct Impersonation {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Reads the headers of an impersonation.
fn impersonated(headers: &HeaderMap) -> Result<Option<Impersonation>, ApiError> {
    let mut wanted = Impersonation::default();
    let mut count = 0;
    for (name, value) in headers.iter().filter(|(name, _)| name.as_str().starts_with("impersonate-")) {
        count += 1;
        if count > MAX_IMPERSONATED {
            return Err(error::bad_request("too many impersonation headers"));
        }
        let value = value.to_str().map_err(|_| error::bad_request("impersonation headers are text"))?;
        match name.as_str() {
            IMPERSONATE_USER => wanted.user = value.to_owned(),
            IMPERSONATE_UID => wanted.uid = value.to_owned(),
            IMPERSONATE_GROUP => wanted.groups.push(value.to_owned()),
            other => {
                if let Some(key) = other.strip_prefix(IMPERSONATE_EXTRA) {
                    wanted.extra.entry(unescaped(key)).or_default().push(value.to_owned());
                }
            }
        }
    }
    if wanted == Impersonation::default() {
        return Ok(None);
    }
    if wanted.user.is_empty() {
        return Err(error::internal("requested groups, uid or extra without impersonating a user"));
    }
    Ok(Some(wanted))
}

/// Undoes percent encoding; what is not encoded rightly stays as it is, as upstream.
fn unescaped(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((plain, after)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => bytes.push(byte),
            None => return key.to_owned(),
        }
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned())
}

impl Impersonation {
    /// Returns what the one who asks must be allowed for this.
    fn needs(&self) -> Vec<Access> {
        const AUTHENTICATION: &str = "authentication.k8s.io";
        let need = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
            Access::to_resource("impersonate", group, resource, subresource, namespace, name)
        };
        let mut needs = vec![match service_account(&self.user) {
            Some((namespace, name)) => need("", "serviceaccounts", "", namespace, name),
            None => need("", "users", "", "", &self.user),
        }];
        needs.extend(self.groups.iter().map(|group| need("", "groups", "", "", group)));
        if !self.uid.is_empty() {
            needs.push(need(AUTHENTICATION, "uids", "", "", &self.uid));
        }
        for (key, values) in &self.extra {
            needs.extend(values.iter().map(|value| need(AUTHENTICATION, "userextras", key, "", value)));
        }
        needs
    }

    fn into_user(self) -> User {
        let mut groups = self.groups;
        if let (true, Some((namespace, _))) = (groups.is_empty(), service_account(&self.user)) {
            groups = service_account_groups(namespace);
        }
        let (own, other) = if self.user == User::ANONYMOUS {
            (User::UNAUTHENTICATED, User::AUTHENTICATED)
        } else {
            (User::AUTHENTICATED, User::UNAUTHENTICATED)
        };
        if !groups.iter().any(|group| group == own || group == other) {
            groups.push(own.into());
        }
        User { name: self.user, uid: self.uid, groups, extra: self.extra }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<Option<Impersonation>, ApiError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        impersonated(&map)
    }

    #[test]
    fn headers_say_as_whom() {
        assert_eq!(read(&[("accept", "x")]).unwrap(), None);
        assert_eq!(read(&[("Impersonate-Group", "x")]).unwrap_err().code, 500);
        let wanted = read(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "a"),
            ("Impersonate-Group", "b"),
            ("Impersonate-Extra-acme.com%2Fproject", "p"),
        ]);
        let wanted = wanted.unwrap().unwrap();
        let needs: Vec<_> = wanted.needs().iter().map(|one| format!("{one:?}")).collect();
        assert_eq!(needs.len(), 4);
        assert!(needs[3].contains("acme.com/project") && needs[3].contains("userextras"), "{needs:?}");
        assert_eq!(wanted.into_user().groups, ["a", "b", User::AUTHENTICATED]);
    }

    #[test]
    fn service_accounts_keep_their_groups() {
        let wanted = read(&[("Impersonate-User", "system:serviceaccount:ns:sa")]).unwrap().unwrap();
        assert!(format!("{:?}", wanted.needs()).contains("serviceaccounts"));
        let user = wanted.into_user();
        assert_eq!(user.groups[1..], ["system:serviceaccounts:ns", User::AUTHENTICATED]);
        let nobody = read(&[("Impersonate-User", User::ANONYMOUS)]).unwrap().unwrap().into_user();
        assert_eq!(nobody.groups, [User::UNAUTHENTICATED]);
    }
}
