//! What a path names.

/// A path of the API.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/metrics`.
    Metrics,
    /// `/`.
    Root,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`: group and version.
    Resources(String, String),
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`: group and version.
    OpenApi(String, String),
    /// `/.well-known/openid-configuration`: who signs tokens.
    Issuer,
    /// `/openid/v1/jwks`: the key that signs tokens.
    TokenKeys,
    /// Objects.
    Resource(ResourcePath),
    /// Nothing that is served.
    Unknown,
}

impl Route {
    /// Returns the version of the objects; empty when it is not about objects.
    pub(crate) fn version(&self) -> &str {
        match self {
            Self::Resource(path) => &path.version,
            _ => "",
        }
    }
}

/// A path to objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Reads a path.
pub(crate) fn parse(path: &str) -> Route {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let parts: Option<Vec<String>> = own_part(&parts).iter().copied().map(decoded).collect();
    let Some(parts) = parts else { return Route::Unknown };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Route::Root,
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        [".well-known", "openid-configuration"] => Route::Issuer,
        ["openid", "v1", "jwks"] => Route::TokenKeys,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", "api", version] => Route::OpenApi(String::new(), (*version).into()),
        ["openapi", "v3", "apis", group, version] => Route::OpenApi((*group).into(), (*version).into()),
        ["api"] => Route::CoreVersions,
        ["api", version] => Route::Resources(String::new(), (*version).into()),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).into()),
        ["apis", group, version] => Route::Resources((*group).into(), (*version).into()),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Route::Unknown,
    }
}

/// Reads a path that another server answers: what it names, as far as authorization is concerned. One that two servers might
/// read in two ways is unknown.
pub(crate) fn parse_remote(path: &str) -> Route {
    remote_parts(path).unwrap_or(Route::Unknown)
}

fn remote_parts(path: &str) -> Option<Route> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    let parts: Vec<String> = parts.map(decoded).collect::<Option<_>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return None;
    }
    match parts.as_slice() {
        ["apis", group, version] => Some(Route::Resources((*group).into(), (*version).into())),
        ["apis", group, version, rest @ ..] => {
            // What comes after the subresource is of the subresource.
            let most = if rest.first() == Some(&"namespaces") && rest.len() > 2 { 5 } else { 3 };
            Some(resource(group, version, &rest[..rest.len().min(most)]))
        }
        _ => None,
    }
}

/// Leaves out what a path says to the server behind an object: that is not ours to read.
fn own_part<'a, 'b>(parts: &'a [&'b str]) -> &'a [&'b str] {
    match parts {
        ["api", _, "namespaces", _, "pods" | "services", _, "proxy", _, ..] => &parts[..7],
        ["api", _, "nodes", _, "proxy", _, ..] => &parts[..5],
        _ => parts,
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, rest) = match rest {
        // `namespaces/x/status` and `namespaces/x/finalize` are of the namespace itself.
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        _ => (None, rest),
    };
    let own = |text: &&str| (*text).to_owned();
    let [plural, others @ ..] = rest else { return Route::Unknown };
    if others.len() > 2 {
        return Route::Unknown;
    }
    Route::Resource(ResourcePath {
        group: group.into(),
        version: version.into(),
        plural: (*plural).into(),
        namespace,
        name: others.first().map(own),
        subresource: others.get(1).map(own),
    })
}

/// Undoes percent encoding; `None` for what is not UTF-8 or hides a slash.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let code = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(code).ok()?);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ResourcePath {
        match parse(text) {
            Route::Resource(path) => path,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_what_upstreams_name() {
        let found = path("/apis/apps/v1/namespaces/default/deployments/web/scale");
        assert_eq!((found.group.as_str(), found.namespace.as_deref()), ("apps", Some("default")));
        assert_eq!((found.name.as_deref(), found.subresource.as_deref()), (Some("web"), Some("scale")));
        let found = path("/api/v1/namespaces/x");
        assert_eq!(
            (found.plural.as_str(), found.name.as_deref(), found.namespace),
            ("namespaces", Some("x"), None)
        );
        assert_eq!(path("/api/v1/namespaces/x/finalize").subresource.as_deref(), Some("finalize"));
        assert_eq!(path("/api/v1/namespaces/x/pods").namespace.as_deref(), Some("x"));
        assert_eq!(path("/api/v1/nodes/a%3Ab").name.as_deref(), Some("a:b"));
        assert_eq!(path("/api/v1/namespaces").plural, "namespaces");
        let proxied = path("/api/v1/namespaces/x/services/https:web:443/proxy/a%2Fb//c/../d");
        assert_eq!(
            (proxied.name.as_deref(), proxied.subresource.as_deref()),
            (Some("https:web:443"), Some("proxy"))
        );
        assert_eq!(path("/api/v1/nodes/n/proxy/pods/").subresource.as_deref(), Some("proxy"));
        assert_eq!(parse("/openapi/v3/apis/apps/v1"), Route::OpenApi("apps".into(), "v1".into()));
        assert_eq!(parse("/readyz/ping"), Route::Health);
        let remote = |text: &str| match parse_remote(text) {
            Route::Resource(path) => path,
            other => panic!("{text}: {other:?}"),
        };
        let deep = remote("/apis/g/v1/namespaces/x/machines/m/proxy/a/b%20c");
        assert_eq!((deep.namespace.as_deref(), deep.name.as_deref()), (Some("x"), Some("m")));
        assert_eq!(deep.subresource.as_deref(), Some("proxy"));
        assert_eq!(remote("/apis/g/v1/machines/m/proxy/a/b").subresource.as_deref(), Some("proxy"));
        for unclear in
            ["/apis/g/v1/machines/a%2Fb", "/apis/g/v1/machines/../secrets", "/apis/g/v1/x/%2e%2e/y"]
        {
            assert_eq!(parse_remote(unclear), Route::Unknown, "{unclear}");
        }
        assert_eq!(parse("/api/v1/pods/a%2Fb"), Route::Unknown);
        assert_eq!(parse("/api/v1/namespaces/a/pods/b/log/c"), Route::Unknown);
    }
}
