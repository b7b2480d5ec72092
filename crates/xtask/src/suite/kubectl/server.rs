//! An API server with its controllers in this process, for one group: no node, no scheduler, as upstream runs them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use cirro_apiserver::pki::Pki;
use cirro_apiserver::{ApiServer, Options, Plugin};
use cirro_seams::api::{Api, Resource};
use cirro_store::MemoryObjectStore;
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMIN: &str = "admin";

/// A running server.
pub(super) struct Server {
    pub(super) port: u16,
    /// A bearer token of an administrator.
    pub(super) token: String,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Starts one over an empty store; its keys are kept in `directory`, which has a `work`.
    pub(super) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let keys = directory.join("pki");
        let pki = Pki::open(&keys).context("make an authority")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        // Where upstream's server leaves its certificate.
        std::fs::write(directory.join("work/apiserver.crt"), pki.ca())?;
        let tls = pki.server_tls(&["localhost".into()], &[Ipv4Addr::LOCALHOST.into()])?;
        let options = Options {
            keys: Some(keys),
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 24),
            // As upstream starts its own for these scripts.
            without_admission: vec![
                Plugin::ServiceAccount,
                Plugin::DefaultTolerationSeconds,
                Plugin::StorageObjectInUseProtection,
            ],
            ..Options::default()
        };
        let server = ApiServer::open(Arc::new(MemoryObjectStore::new()), options).await?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let api = server.client();
        let token = administrator(&*api).await.context("make an administrator")?;
        tasks.spawn(cirro_controllers::run(api, server.resources(), stop.clone()));
        tasks.spawn({
            let stop = stop.clone();
            async move { server.serve(listener, tls, stop).await }
        });
        Ok(Self { port, token, tasks, stop })
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Lets everyone do everything, as upstream's `AlwaysAllow` does; returns a token.
async fn administrator(api: &dyn Api) -> anyhow::Result<String> {
    let everyone = json!({"metadata": {"name": "everyone"},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
        // The last one is of the user whom the scripts ask about.
        "subjects": [group("system:authenticated"), group("system:unauthenticated"), group("the-group")]});
    api.create(&Resource::new(RBAC, "clusterrolebindings"), everyone).await?;
    let account = json!({"metadata": {"name": ADMIN, "namespace": "kube-system"}});
    api.create(&Resource::new("", "serviceaccounts"), account).await?;
    let request = json!({"spec": {"expirationSeconds": 7200}});
    let answer = api.request_token("kube-system", ADMIN, request).await?;
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    Ok(token.context("a token in the answer")?.to_owned())
}

fn group(name: &str) -> Value {
    json!({"apiGroup": RBAC, "kind": "Group", "name": name})
}
