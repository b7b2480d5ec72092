//! What a node's kubelet answers itself: whether it is well, and its pods.
//!
//! The kubelet of this cloud has no server of its own; these are the paths that people ask for by hand.

use axum::body::Body;
use axum::http::{Method, Response};
use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use crate::error;
use crate::http::{Call, answer};
use crate::selector::Selector;
use crate::storage::ListOptions;

impl Call {
    /// Answers a request to the kubelet of a node.
    pub(super) async fn kubelet(
        &self,
        name: &str,
        path: &str,
        method: &Method,
    ) -> Result<Response<Body>, ApiError> {
        if *method != Method::GET {
            return Err(error::method_not_allowed());
        }
        match path.trim_end_matches('/') {
            "/healthz" => {
                self.server.node_streams()?;
                Ok(answer::text("ok"))
            }
            "/pods" | "/runningpods" => Ok(answer::document(&self.pods_of(name).await?)),
            _ => Err(error::no_such_path()),
        }
    }

    async fn pods_of(&self, node: &str) -> Result<Value, ApiError> {
        let storage = &self.server.storage;
        let kind = storage.registry.kind("", "pods").expect("pods are built in");
        let selector = Selector::parse(kind, "", &format!("spec.nodeName={node}"))?;
        let options = ListOptions { selector, ..ListOptions::default() };
        let page = storage.list(kind, None, &options).await?;
        let pods = page.records.iter().map(|record| storage.decoded.decode(record).map(|pod| (*pod).clone()));
        let pods = pods.collect::<Result<Vec<Value>, ApiError>>()?;
        Ok(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
    }
}
