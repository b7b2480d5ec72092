//! `/metrics`: what the server was asked and what it used, in the text form of Prometheus.
//!
//! Names and labels are upstream's where it has the same number. The labels are bounded: groups and resources are those that are
//! served, everything else counts without one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Method, Response};

use crate::rbac::{Access, Target};
use crate::registry::Registry;

/// What the server was asked since it started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    running: AtomicI64,
    requests: Mutex<BTreeMap<(Asked, u16), Tally>>,
}

/// What kind of request it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    count: u64,
    time: Duration,
}

/// A request that is being answered; it counts when it is dropped, answered or given up.
pub(super) struct Running<'a> {
    metrics: &'a Metrics,
    asked: Asked,
    begun: Instant,
    /// Status of the answer; 0 when the client went before there was one.
    pub(super) code: u16,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics.running.fetch_sub(1, Ordering::Relaxed);
        let mut requests = self.metrics.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = requests.entry((std::mem::take(&mut self.asked), self.code)).or_default();
        tally.count += 1;
        tally.time += self.begun.elapsed();
    }
}

impl Asked {
    /// Describes a request.
    pub(super) fn of(method: &Method, access: &Access, registry: &Registry) -> Self {
        match &access.target {
            Target::Resource { group, resource, subresource, .. } => {
                let Some(kind) = registry.kind(group, resource) else { return Self::default() };
                let known = kind.subresources.iter().any(|one| one.name() == subresource);
                let subresource = if known { subresource.clone() } else { String::new() };
                let verb = access.verb.to_uppercase();
                Self { verb, group: group.clone(), resource: resource.clone(), subresource }
            }
            Target::Path(_) if method == Method::GET => Self { verb: "GET".into(), ..Self::default() },
            Target::Path(_) => Self::default(),
        }
    }
}

impl Metrics {
    /// Begins to count a request.
    pub(super) fn begin(&self, asked: Asked) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { metrics: self, asked, begun: Instant::now(), code: 0 }
    }

    /// Answers `/metrics`.
    pub(super) fn answer(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.text()));
        let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        response
    }

    fn text(&self) -> String {
        let mut text = String::new();
        head(&mut text, "apiserver_current_inflight_requests", "gauge", "Requests that are being answered");
        let running = self.running.load(Ordering::Relaxed);
        line(&mut text, "apiserver_current_inflight_requests", "", running as f64);
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        head(
            &mut text,
            "apiserver_request_total",
            "counter",
            "Requests that were answered, by the answer's code",
        );
        for ((asked, code), tally) in &requests {
            line(&mut text, "apiserver_request_total", &labels(asked, *code), tally.count as f64);
        }
        head(&mut text, "apiserver_request_duration_seconds", "summary", "Time until the answer began");
        for ((asked, code), tally) in &requests {
            let labels = labels(asked, *code);
            line(&mut text, "apiserver_request_duration_seconds_sum", &labels, tally.time.as_secs_f64());
            line(&mut text, "apiserver_request_duration_seconds_count", &labels, tally.count as f64);
        }
        process(&mut text);
        text
    }
}

fn labels(asked: &Asked, code: u16) -> String {
    let Asked { verb, group, resource, subresource } = asked;
    format!(
        "{{code=\"{code}\",group=\"{group}\",resource=\"{resource}\",subresource=\"{subresource}\",verb=\"{verb}\"}}"
    )
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) {
    let _ = writeln!(text, "{name}{labels} {value}");
}

/// Adds what the process has, as the kernel tells it.
fn process(text: &mut String) {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let number = |name: &str| {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    };
    if let Some(kilobytes) = number("VmRSS:") {
        head(text, "process_resident_memory_bytes", "gauge", "Memory in use");
        line(text, "process_resident_memory_bytes", "", kilobytes * 1024.0);
    }
    if let Some(threads) = number("Threads:") {
        head(text, "process_threads", "gauge", "Threads");
        line(text, "process_threads", "", threads);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        head(text, "process_open_fds", "gauge", "Open file descriptors");
        line(text, "process_open_fds", "", entries.count() as f64);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::http::{access, route};

    #[test]
    fn requests_count_by_what_they_ask_and_get() {
        let registry = crate::kinds::registry();
        let metrics = Metrics::default();
        let ask = |method: &str, uri: &str, code: u16| {
            let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
            let access = access::of(&request, &route::parse(request.uri().path()));
            metrics.begin(Asked::of(request.method(), &access, &registry)).code = code;
        };
        ask("GET", "/api/v1/namespaces/default/pods", 200);
        ask("GET", "/api/v1/namespaces/other/pods", 200);
        ask("PUT", "/apis/apps/v1/namespaces/default/deployments/d/scale", 409);
        ask("GET", "/apis/made/v1/namespaces/default/ups", 404);
        let text = metrics.text();
        let count = |labels: &str, count: u32| {
            let line = format!("apiserver_request_total{{{labels}}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        };
        count(r#"code="200",group="",resource="pods",subresource="",verb="LIST""#, 2);
        count(r#"code="409",group="apps",resource="deployments",subresource="scale",verb="UPDATE""#, 1);
        count(r#"code="404",group="",resource="",subresource="",verb="""#, 1);
        assert!(text.contains("apiserver_current_inflight_requests 0\n"));
        assert!(text.contains("process_resident_memory_bytes "));
    }
}
