//! Discovery: which groups, versions and kinds there are. Classic and aggregated.

mod merge;
mod resources;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, VARY};
use axum::http::{Method, Request, Response};
use cirro_seams::api::ApiError;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::aggregate::{Foreign, Wanted};
use super::negotiate::aggregated_discovery;
use super::route::Route;
use super::{answer, openapi, swagger};
use crate::error;
use crate::registry::{Registry, Served, join_version};
use merge::{Listed, Version, groups};

/// Returns what is to be known of other servers for an answer.
pub(super) fn wanted(route: &Route, request: &Request<Body>) -> Wanted {
    match route {
        Route::Groups if aggregated_discovery(request.headers()).is_some() => Wanted::Discovery,
        Route::OpenApiIndex => Wanted::OpenApi,
        Route::OpenApiV2 => Wanted::Swagger,
        _ => Wanted::Nothing,
    }
}

/// Answers everything that is not about objects.
pub(super) fn answer(
    registry: &Registry,
    foreign: &[Foreign],
    route: &Route,
    request: &Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if request.method() != Method::GET {
        return Err(error::method_not_allowed());
    }
    let aggregated = aggregated_discovery(request.headers());
    match (route, aggregated) {
        (Route::CoreVersions, Some(version)) => Ok(aggregate(registry, &[], version, true)),
        (Route::Groups, Some(version)) => Ok(aggregate(registry, foreign, version, false)),
        (Route::CoreVersions, None) => Ok(answer::document(&core_versions())),
        (Route::Groups, None) => Ok(answer::document(&group_list(registry, foreign))),
        (Route::Group(name), _) => find_group(registry, foreign, name).map(|group| answer::document(&group)),
        (Route::Resources(group, version), _) => {
            resources::list(registry, group, version).map(|list| answer::written(&list))
        }
        (Route::OpenApiIndex, _) => Ok(answer::document(&openapi::index(registry, foreign))),
        (Route::OpenApi(group, version), _) => {
            openapi::document(registry, group, version, request.uri().query())
        }
        (Route::OpenApiV2, _) => swagger::answer(request.headers(), registry, foreign),
        (Route::Root, _) => Ok(answer::document(&root(registry, foreign))),
        _ => Err(error::no_such_path()),
    }
}

/// Answers `/version`.
pub(super) fn version() -> Response<Body> {
    answer::document(&json!({
        "major": "1", "minor": "33", "gitVersion": crate::VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    }))
}

fn root(registry: &Registry, foreign: &[Foreign]) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for group in groups(registry, foreign).iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|one| format!("/apis/{}/{}", group.name, one.name())));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(str::to_owned),
    );
    json!({"paths": paths})
}

fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn group_list(registry: &Registry, foreign: &[Foreign]) -> Value {
    let groups = groups(registry, foreign);
    let groups: Vec<_> = groups.iter().filter(|group| !group.name.is_empty()).map(group_entry).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_entry(group: &Listed<'_>) -> Value {
    let version =
        |version: &str| json!({"groupVersion": join_version(group.name, version), "version": version});
    let versions: Vec<_> = group.versions.iter().map(|one| version(one.name())).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions[0]})
}

fn find_group(registry: &Registry, foreign: &[Foreign], name: &str) -> Result<Value, ApiError> {
    let groups = groups(registry, foreign);
    let group = groups.iter().find(|group| group.name == name).ok_or_else(error::no_such_path)?;
    let mut entry = group_entry(group);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Ok(entry)
}

/// Finds what a group serves in a version.
pub(super) fn served<'a>(
    registry: &'a Registry,
    group: &str,
    version: &str,
) -> Result<Vec<&'a Served>, ApiError> {
    let groups = registry.groups();
    let group = groups.into_iter().find(|one| one.name == group).ok_or_else(error::no_such_path)?;
    let version = group.versions.into_iter().find(|(name, _)| *name == version);
    version.map(|(_, served)| served).ok_or_else(error::no_such_path)
}

/// Short names and categories are of the version that is meant when none is named.
fn names(served: &Served) -> (&[String], &[String]) {
    let kind = &served.kind;
    if served.view().is_some() && kind.custom.is_none() {
        return (&[], &[]);
    }
    (&kind.short_names, &kind.categories)
}

fn add_names(entry: &mut Value, served: &Served) {
    let (short_names, categories) = names(served);
    if !short_names.is_empty() {
        entry["shortNames"] = json!(short_names);
    }
    if !categories.is_empty() {
        entry["categories"] = json!(categories);
    }
}

fn aggregate(registry: &Registry, foreign: &[Foreign], version: &str, core: bool) -> Response<Body> {
    let groups = groups(registry, foreign);
    let items: Vec<_> =
        groups.iter().filter(|group| group.name.is_empty() == core).map(aggregated_group).collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items});
    let text = list.to_string();
    let mut response = answer::bytes(text.clone().into());
    let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let media_type = HeaderValue::from_str(&media_type).expect("it is plain ASCII");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    openapi::tagged(&mut response, &hex::encode_upper(Sha256::digest(text)));
    response
}

fn aggregated_group(group: &Listed<'_>) -> Value {
    let version = |version: &Version<'_>| match version {
        Version::Own(version, served) => {
            let resources: Vec<_> = served.iter().map(|served| aggregated_resource(served)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        }
        Version::Foreign(foreign) => {
            let mut entry = match &foreign.document {
                Some(document) => (**document).clone(),
                None => json!({"version": foreign.version()}),
            };
            entry["freshness"] = if foreign.current { "Current" } else { "Stale" }.into();
            entry
        }
    };
    let versions: Vec<_> = group.versions.iter().map(version).collect();
    json!({"metadata": {"name": group.name, "creationTimestamp": null}, "versions": versions})
}

fn aggregated_resource(served: &Served) -> Value {
    let kind = &served.kind;
    let own = json!({"group": served.group(), "version": served.version(), "kind": kind.kind});
    let subresources: Vec<_> = kind
        .subresources
        .iter()
        .map(|subresource| {
            let speaks = subresource.speaks().map_or(
                own.clone(),
                |(group, version, kind)| json!({"group": group, "version": version, "kind": kind}),
            );
            json!({"subresource": subresource.name(), "responseKind": speaks, "verbs": subresource.verbs()})
        })
        .collect();
    let scope = if kind.namespaced { "Namespaced" } else { "Cluster" };
    let mut entry = json!({"resource": kind.plural, "responseKind": own, "scope": scope,
        "singularResource": kind.singular, "verbs": kind.verbs()});
    add_names(&mut entry, served);
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
