//! Logs, exec, attach and connections for the API server, and instances' consoles.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use cirro_seams::Pending;
use cirro_seams::container::Container;
use cirro_seams::node::{Connection, ExecRequest, LogOptions, NodeError, NodeStreams, Session};
use cirro_seams::usage::NodeUsage;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::Kubelet;
use crate::pods::container_name;

/// How long a workload gets to accept a connection.
const PATIENCE: Duration = Duration::from_secs(30);

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

    fn usage(&self) -> Pending<'_, Result<NodeUsage, NodeError>> {
        Box::pin(self.node_usage())
    }

    fn connect_pod(&self, pod_uid: &str, port: u16) -> Pending<'_, Result<Connection, NodeError>> {
        self.engine.connect_sandbox(pod_uid, port)
    }

    fn connect(&self, address: SocketAddr) -> Pending<'_, Result<Connection, NodeError>> {
        Box::pin(async move {
            let failed = |why: std::io::Error| NodeError::Failed(format!("dial tcp {address}: {why}"));
            let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
            let stream = connecting.map_err(|late| failed(late.into()))?.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Ok(Box::new(stream) as Connection)
        })
    }
}
