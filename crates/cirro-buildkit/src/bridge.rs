//! `moby.buildkit.v1.frontend.LLBBridge`: a build that the client itself drives.
//!
//! buildx asks `Control.Solve` for a build without a frontend. That call waits, while the client calls the bridge under
//! the build's name: `Solve` with the real frontend, then `Return` with what of it is the result.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use cirro_grpc::server::Call;
use cirro_grpc::{Code, Status};
use cirro_types::Digest;
use tokio::sync::{Notify, mpsc};

use crate::BuildKit;
use crate::control::{check_frontend, worker};
use crate::exporters::Outputs;
use crate::messages::{
    ApiCap, BridgeSolveRequest, BridgeSolveResponse, BuildResult, Empty, PongResponse, Ref, ReturnRequest,
    SolveRequest,
};
use crate::session::Session;
use crate::status::{Record, Running};

/// Metadata with the build's name.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// Results of one build.
const MAX_RESULTS: usize = 64;
/// What of the gateway is there. Names: BuildKit `frontend/gateway/pb/caps.go`.
const GATEWAY_CAPS: &[&str] = &[
    "solve.base",
    "return",
    "returnmap",
    "proto.refarray",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "frontend.caps",
    "importcaches",
];
/// What clients look for among what definitions can have. Names: BuildKit `solver/pb/caps.go`.
const LLB_CAPS: &[&str] = &[
    "source.local",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.http",
    "source.git",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exporter.multiple",
];

type Returned = mpsc::Sender<Result<Option<Digest>, Status>>;

/// A build that its client drives.
struct Gateway {
    record: Arc<Record>,
    session: Option<Session>,
    outputs: Outputs,
    results: Mutex<HashMap<String, Digest>>,
    returned: Returned,
}

/// The builds that their clients drive.
#[derive(Default)]
pub(crate) struct Gateways {
    open: Mutex<HashMap<String, Arc<Gateway>>>,
    changed: Notify,
}

impl Gateways {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Gateway>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a build; waits a little for one that is still to come.
    async fn find(&self, id: &str) -> Result<Arc<Gateway>, Status> {
        let find = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(gateway) = self.lock().get(id) {
                    return gateway.clone();
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(std::time::Duration::from_secs(3), find).await;
        found.map_err(|_| Status::unknown(format!("no such job {id}")))
    }
}

/// Takes a build off the list when its call ends.
struct Open<'a> {
    gateways: &'a Gateways,
    id: &'a str,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.gateways.lock().remove(self.id);
    }
}

impl BuildKit {
    /// Waits for what the client's own calls come to.
    pub(crate) async fn forward(
        &self,
        request: &SolveRequest,
        running: &Running,
        session: Option<Session>,
        outputs: &Outputs,
    ) -> Result<Option<Digest>, Status> {
        let (returned, mut result) = mpsc::channel(1);
        let gateway = Gateway {
            record: running.record().clone(),
            session,
            outputs: outputs.clone(),
            results: Mutex::default(),
            returned,
        };
        self.gateways.lock().insert(request.reference.clone(), Arc::new(gateway));
        let _open = Open { gateways: &self.gateways, id: &request.reference };
        self.gateways.changed.notify_waiters();
        result.recv().await.unwrap_or_else(|| Err(Status::new(Code::Cancelled, "the client is gone")))
    }

    /// Answers a call of the bridge.
    pub(crate) async fn bridge(&self, method: &str, mut call: Call) -> Result<(), Status> {
        let id = call.metadata.get(BUILD_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        match method {
            "Ping" => {
                call.question::<Empty>().await?;
                // Clients ping first, and the build must be there when they have.
                self.gateways.find(&id).await?;
                call.answers.send(&self.pong()).await
            }
            "Solve" => {
                let request: BridgeSolveRequest = call.question().await?;
                let gateway = self.gateways.find(&id).await?;
                let answer = self.solve_for(&gateway, request).await?;
                call.answers.send(&answer).await
            }
            "Return" => {
                let request: ReturnRequest = call.question().await?;
                let gateway = self.gateways.find(&id).await?;
                let result = gateway.result(request);
                let _ = gateway.returned.send(result).await;
                call.answers.send(&Empty::default()).await
            }
            // The build's files are in the library by then; asking for them one by one is not there.
            other => Err(Status::unsupported(format!("{other} of the gateway"))),
        }
    }

    fn pong(&self) -> PongResponse {
        let caps = |names: &[&str]| {
            names.iter().map(|name| ApiCap { id: (*name).to_owned(), enabled: true }).collect()
        };
        PongResponse {
            frontend_caps: caps(GATEWAY_CAPS),
            llb_caps: caps(LLB_CAPS),
            workers: vec![worker(self.backend.version(), self.backend.host_gateway())],
        }
    }

    async fn solve_for(
        &self,
        gateway: &Gateway,
        request: BridgeSolveRequest,
    ) -> Result<BridgeSolveResponse, Status> {
        if !request.frontend_inputs.is_empty() {
            return Err(Status::unsupported("an LLB definition as a context"));
        }
        if request.definition.as_ref().is_some_and(|definition| !definition.operations.is_empty()) {
            return Err(Status::unsupported("solving an LLB definition"));
        }
        if request.frontend.is_empty() {
            // An empty definition: nothing is asked for.
            return Ok(BridgeSolveResponse { result: Some(BuildResult::default()), ..Default::default() });
        }
        check_frontend(&request.frontend, &request.frontend_options)?;
        let attributes: BTreeMap<String, String> = request.frontend_options;
        let session = gateway.session.clone();
        let image = self.solve(&gateway.record, session, &attributes, &gateway.outputs, None).await?;
        let id = gateway.keep(image)?;
        let metadata =
            BTreeMap::from([("containerimage.config.digest".to_owned(), image.to_string().into_bytes())]);
        let result = BuildResult { one: Some(Ref { id }), metadata, ..BuildResult::default() };
        Ok(BridgeSolveResponse { result: Some(result), ..BridgeSolveResponse::default() })
    }
}

impl Gateway {
    /// Keeps a result under a name of its own.
    fn keep(&self, image: Digest) -> Result<String, Status> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if results.len() >= MAX_RESULTS {
            return Err(Status::new(Code::ResourceExhausted, format!("more than {MAX_RESULTS} results")));
        }
        let id = format!("{}-{}", image.short(), results.len());
        results.insert(id.clone(), image);
        Ok(id)
    }

    /// Reads what the client says the build has come to.
    fn result(&self, request: ReturnRequest) -> Result<Option<Digest>, Status> {
        if let Some(error) = request.error {
            return Err(Status { code: error.code, message: error.message, details: error.details });
        }
        let result = request.result.unwrap_or_default();
        let many = result.many.unwrap_or_default().refs;
        if many.len() > 1 {
            return Err(Status::unsupported("a result of several images"));
        }
        let one = result.one.into_iter().chain(many.into_values()).map(|one| one.id);
        let id = one.chain([result.old_ref]).find(|id| !id.is_empty());
        let Some(id) = id else { return Ok(None) };
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results
            .get(&id)
            .copied()
            .map(Some)
            .ok_or_else(|| Status::unknown(format!("return reference {id} is unknown")))
    }
}
