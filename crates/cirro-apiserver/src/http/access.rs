//! What a request wants, in the words of authorization.
//!
//! Source: `apiserver/pkg/endpoints/request/requestinfo.go`.

use axum::body::Body;
use axum::http::{Method, Request};

use super::query::Query;
use super::route::Route;
use crate::rbac::Access;

/// Describes a request.
pub(super) fn of(request: &Request<Body>, route: &Route) -> Access {
    let Route::Resource(path) = route else {
        return Access::to_path(&request.method().as_str().to_lowercase(), request.uri().path());
    };
    let query = Query::parse(request.uri()).unwrap_or_default();
    let mut name = path.name.clone().unwrap_or_default();
    let verb = match *request.method() {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if path.name.is_some() => "delete",
        Method::DELETE => "deletecollection",
        _ if query.flag("watch") && path.subresource.is_none() => "watch",
        _ if path.name.is_some() => "get",
        _ => "list",
    };
    let mut fields = Vec::new();
    if matches!(verb, "list" | "watch" | "deletecollection") {
        fields = equalities(query.get("fieldSelector"));
        // A selector that lets one name through asks for that object.
        if let Some((_, one)) = fields.iter().find(|(field, _)| field == "metadata.name" && name.is_empty()) {
            name = one.clone();
        }
    }
    let namespace = match (&path.namespace, path.group.as_str(), path.plural.as_str()) {
        (Some(namespace), ..) => namespace,
        // A namespace is in itself: a role in it may let it be seen.
        (None, "", "namespaces") => path.name.as_deref().unwrap_or_default(),
        _ => "",
    };
    let subresource = path.subresource.as_deref().unwrap_or_default();
    Access::to_resource(verb, &path.group, &path.plural, subresource, namespace, &name).with_fields(fields)
}

/// Returns what a field selector asks fields to be.
fn equalities(selector: &str) -> Vec<(String, String)> {
    let terms = selector.split(',').filter_map(|term| {
        let (field, value) = term.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!field.ends_with('!')).then(|| (field.to_owned(), value.to_owned()))
    });
    terms.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::route;

    fn access(method: &str, uri: &str) -> Access {
        let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
        of(&request, &route::parse(request.uri().path()))
    }

    #[test]
    fn requests_have_upstreams_verbs_and_places() {
        let pods = |verb: &str, subresource: &str, name: &str| {
            Access::to_resource(verb, "", "pods", subresource, "x", name)
        };
        assert_eq!(access("GET", "/api/v1/namespaces/x/pods"), pods("list", "", ""));
        assert_eq!(access("GET", "/api/v1/namespaces/x/pods?watch=true"), pods("watch", "", ""));
        assert_eq!(access("GET", "/api/v1/namespaces/x/pods/a"), pods("get", "", "a"));
        assert_eq!(access("GET", "/api/v1/namespaces/x/pods/a/log"), pods("get", "log", "a"));
        assert_eq!(access("POST", "/api/v1/namespaces/x/pods/a/exec?command=x"), pods("create", "exec", "a"));
        let one = "/api/v1/namespaces/x/pods?fieldSelector=metadata.name%3Da";
        let named = vec![("metadata.name".to_owned(), "a".to_owned())];
        assert_eq!(access("GET", one), pods("list", "", "a").with_fields(named));
        assert_eq!(access("DELETE", "/api/v1/namespaces/x/pods"), pods("deletecollection", "", ""));
        let namespace = Access::to_resource("get", "", "namespaces", "", "x", "x");
        assert_eq!(access("GET", "/api/v1/namespaces/x"), namespace);
        assert_eq!(access("GET", "/apis"), Access::to_path("get", "/apis"));
        let nodes = Access::to_resource("create", "", "nodes", "", "", "");
        assert_eq!(access("POST", "/api/v1/nodes"), nodes);
    }
}
