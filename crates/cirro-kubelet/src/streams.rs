//! Logs, exec and attach for the API server, and instances' consoles.

use bytes::Bytes;
use cirro_seams::Pending;
use cirro_seams::container::Container;
use cirro_seams::node::{ExecRequest, LogOptions, NodeError, NodeStreams, Session};
use tokio::sync::mpsc;

use crate::Kubelet;
use crate::pods::container_name;

impl Kubelet {
    /// Finds a container by pod and name; `previous`: the run before the last.
    async fn find(&self, pod_uid: &str, name: &str, previous: bool) -> Result<Container, NodeError> {
        let containers = self.engine.containers_of_pod(pod_uid).await?;
        let mut runs = containers.into_iter().filter(|container| container_name(container) == name);
        let found = if previous {
            let last = runs.next();
            // While a crashed container waits for its next start, its last run is the previous one.
            runs.next().or_else(|| last.filter(|last| last.pid.is_none()))
        } else {
            runs.next()
        };
        found.ok_or_else(|| {
            let which = if previous { "previous terminated container" } else { "container" };
            NodeError::NotFound(format!("{which} \"{name}\" in pod not found"))
        })
    }
}

impl NodeStreams for Kubelet {
    fn logs(
        &self,
        pod_uid: &str,
        container: &str,
        options: LogOptions,
    ) -> Pending<'_, Result<mpsc::Receiver<Bytes>, NodeError>> {
        let (pod_uid, container) = (pod_uid.to_owned(), container.to_owned());
        Box::pin(async move {
            let found = self.find(&pod_uid, &container, options.previous).await?;
            self.engine.logs(&found.id, options).await
        })
    }

    fn exec(
        &self,
        pod_uid: &str,
        container: &str,
        request: ExecRequest,
    ) -> Pending<'_, Result<Session, NodeError>> {
        let (pod_uid, container) = (pod_uid.to_owned(), container.to_owned());
        Box::pin(async move {
            let found = self.find(&pod_uid, &container, false).await?;
            self.engine.exec(&found.id, request).await
        })
    }

    fn attach(&self, pod_uid: &str, container: &str, stdin: bool) -> Pending<'_, Result<Session, NodeError>> {
        let (pod_uid, container) = (pod_uid.to_owned(), container.to_owned());
        Box::pin(async move {
            let found = self.find(&pod_uid, &container, false).await?;
            self.engine.attach(&found.id, stdin).await
        })
    }

    fn instance_console(&self, uid: &str, limit: usize) -> Pending<'_, Result<Bytes, NodeError>> {
        self.engine.instance_console(uid, limit)
    }
}
