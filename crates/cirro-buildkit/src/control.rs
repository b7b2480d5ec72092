//! `moby.buildkit.v1.Control`, and the calls that come over the same connection.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cirro_grpc::server::{Call, Service};
use cirro_grpc::{Code, Status};
use cirro_seams::Pending;

use crate::BuildKit;
use crate::backend::CacheRecord;
use crate::exporters::Outputs;
use crate::history::Facts;
use crate::messages::{
    BuildHistoryRequest, BuildkitVersion, DiskUsageResponse, Empty, Exporter, HealthResponse, InfoResponse,
    ListWorkersResponse, Platform, PruneRequest, SolveRequest, SolveResponse, StatusRequest, Timestamp,
    UsageRecord, WorkerRecord,
};
use crate::status::Running;

/// The builder of Dockerfiles.
pub(crate) const DOCKERFILE: &str = "dockerfile.v0";
/// A frontend that is an image; those of Dockerfiles are taken for ours.
pub(crate) const GATEWAY: &str = "gateway.v0";
const PACKAGE: &str = "github.com/moby/buildkit";
/// The version of BuildKit whose protocol is spoken.
const PROTOCOL: &str = "v0.22.0";
const SERVING: i32 = 1;
const HOST_GATEWAY: &str = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";

/// Answers calls.
pub(crate) struct Control(pub(crate) BuildKit);

impl Service for Control {
    fn call(&self, mut call: Call) -> Pending<'_, Result<(), Status>> {
        Box::pin(async move {
            let path = call.path.clone();
            let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
                return Err(Status::new(Code::Unimplemented, format!("malformed method name: {path}")));
            };
            match (service, method) {
                ("moby.buildkit.v1.Control", "Info") => {
                    call.question::<Empty>().await?;
                    call.answers.send(&self.info()).await
                }
                ("moby.buildkit.v1.Control", "ListWorkers") => {
                    call.question::<Empty>().await?;
                    call.answers.send(&ListWorkersResponse { records: vec![self.worker()] }).await
                }
                ("moby.buildkit.v1.Control", "Solve") => {
                    let request = call.question().await?;
                    call.answers.send(&self.solve(request).await?).await
                }
                ("moby.buildkit.v1.Control", "Status") => self.status(call).await,
                ("moby.buildkit.v1.Control", "DiskUsage") => {
                    call.question::<Empty>().await?;
                    let records = self.0.backend.cache().await.map_err(Status::unknown)?;
                    let records = records.iter().map(usage).collect();
                    call.answers.send(&DiskUsageResponse { records }).await
                }
                ("moby.buildkit.v1.Control", "Prune") => self.prune(call).await,
                ("moby.buildkit.v1.Control", "ListenBuildHistory") => self.history(call).await,
                ("moby.buildkit.v1.Control", "UpdateBuildHistory") => {
                    let request = call.question().await?;
                    self.0.history.update(&request)?;
                    call.answers.send(&Empty::default()).await
                }
                ("moby.buildkit.v1.frontend.LLBBridge", method) => self.0.bridge(method, call).await,
                ("grpc.health.v1.Health", "Check") => {
                    call.question::<Empty>().await?;
                    call.answers.send(&HealthResponse { status: SERVING }).await
                }
                _ => Err(Status::new(
                    Code::Unimplemented,
                    format!("unknown method {method} for service {service}"),
                )),
            }
        })
    }
}

/// Returns what is told of the version.
fn version(own: String) -> BuildkitVersion {
    BuildkitVersion { package: PACKAGE.into(), version: PROTOCOL.into(), revision: own }
}

/// Describes the one worker that there is.
///
/// buildx turns `host-gateway` into the address of the label that moby has for it.
pub(crate) fn worker(own: String, gateway: Option<IpAddr>) -> WorkerRecord {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let labels = [
        ("org.mobyproject.buildkit.worker.executor", "cirro"),
        ("org.mobyproject.buildkit.worker.network", "host"),
    ];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let gateway = gateway.map(|address| (HOST_GATEWAY.to_owned(), address.to_string()));
    WorkerRecord {
        id: "cirro".into(),
        labels: labels.into_iter().chain(gateway).collect(),
        platforms: vec![Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            ..Platform::default()
        }],
        version: Some(version(own)),
    }
}

fn usage(record: &CacheRecord) -> UsageRecord {
    UsageRecord {
        id: record.id.clone(),
        size: i64::try_from(record.size).unwrap_or(i64::MAX),
        created_at: record.made.map(|seconds| Timestamp { seconds, nanos: 0 }),
        description: "layer of a build".into(),
        record_type: "regular".into(),
        shared: record.shared,
        ..UsageRecord::default()
    }
}

/// Says whether a frontend is the Dockerfile's: our own, or an image that does the same.
pub(crate) fn check_frontend(frontend: &str, attributes: &BTreeMap<String, String>) -> Result<(), Status> {
    let source = attributes.get("source").map(String::as_str).unwrap_or_default();
    let name = source.trim_start_matches("docker.io/");
    match frontend {
        DOCKERFILE => Ok(()),
        GATEWAY
            if ["docker/dockerfile", "docker/dockerfile-upstream"].iter().any(|own| {
                name.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
            }) =>
        {
            Ok(())
        }
        GATEWAY => Err(Status::unsupported(format!("the frontend {source}"))),
        other => Err(Status::unsupported(format!("the frontend {other}"))),
    }
}

/// What the history keeps of a request.
fn facts(request: &SolveRequest, exporters: Vec<Exporter>) -> Facts {
    Facts {
        reference: request.reference.clone(),
        frontend: request.frontend.clone(),
        attributes: request.frontend_attributes.clone(),
        exporters,
    }
}

impl Control {
    fn info(&self) -> InfoResponse {
        InfoResponse { version: Some(version(self.0.backend.version())) }
    }

    fn worker(&self) -> WorkerRecord {
        worker(self.0.backend.version(), self.0.backend.host_gateway())
    }

    async fn solve(&self, request: SolveRequest) -> Result<SolveResponse, Status> {
        if request.definition.as_ref().is_some_and(|definition| !definition.operations.is_empty()) {
            return Err(Status::unsupported("solving an LLB definition"));
        }
        if !request.frontend_inputs.is_empty() {
            return Err(Status::unsupported("an LLB definition as a context"));
        }
        let cache = request.cache.clone().unwrap_or_default();
        if let Some(export) = cache.exports.iter().find(|export| export.kind != "inline") {
            // As dockerd without an image store of containerd's says it.
            return Err(Status::unknown(format!("unknown cache exporter: {:?}", export.kind)));
        }
        let exporters = match (request.exporters.is_empty(), request.exporter.as_str()) {
            (true, "") => Vec::new(),
            (true, kind) => {
                vec![Exporter { kind: kind.to_owned(), attributes: request.exporter_attributes.clone() }]
            }
            (false, _) => request.exporters.clone(),
        };
        let outputs = Outputs::read(&exporters)?;
        let running = self.0.begin(&request.reference)?;
        let entry =
            (!request.internal).then(|| self.0.history.begin(facts(&request, exporters), running.record()));
        let result = self.build(&request, &running, &outputs).await;
        if let Some(entry) = entry {
            entry.end(&result);
        }
        result.map(|exporter_response| SolveResponse { exporter_response })
    }

    async fn build(
        &self,
        request: &SolveRequest,
        running: &Running,
        outputs: &Outputs,
    ) -> Result<BTreeMap<String, String>, Status> {
        let session = self.0.session(&request.session).await?;
        let image = if request.frontend.is_empty() {
            self.0.forward(request, running, session.clone(), outputs).await?
        } else {
            check_frontend(&request.frontend, &request.frontend_attributes)?;
            let attributes = &request.frontend_attributes;
            Some(self.0.solve(running.record(), session.clone(), attributes, outputs, None).await?)
        };
        match image {
            Some(image) => self.0.export(running.record(), session.as_ref(), outputs, image).await,
            None => Ok(BTreeMap::new()),
        }
    }

    async fn history(&self, mut call: Call) -> Result<(), Status> {
        let request: BuildHistoryRequest = call.question().await?;
        let mut listening = self.0.history.listen(&request)?;
        while let Some(event) = listening.next().await? {
            call.answers.send(event.as_ref()).await?;
        }
        Ok(())
    }

    async fn status(&self, mut call: Call) -> Result<(), Status> {
        let request: StatusRequest = call.question().await?;
        let mut listener = self.0.records.find(&request.reference).await?.listen();
        while let Some(part) = listener.next().await {
            call.answers.send(part.as_ref()).await?;
        }
        Ok(())
    }

    async fn prune(&self, mut call: Call) -> Result<(), Status> {
        let request: PruneRequest = call.question().await?;
        if request.reserved_space != 0 || request.max_used_space != 0 || request.min_free_space != 0 {
            return Err(Status::unsupported("keeping so many bytes of the cache"));
        }
        if let Some(filter) = request.filter.first() {
            return Err(Status::unsupported(format!("the filter {filter}")));
        }
        let until = (request.keep_duration > 0).then(|| {
            let now = crate::status::now().map_or(0, |now| now.seconds);
            now.saturating_sub(request.keep_duration / 1_000_000_000)
        });
        self.0.forget_contexts();
        let pruned = self.0.backend.prune(request.all, until).await.map_err(Status::unknown)?;
        for record in &pruned {
            call.answers.send(&usage(record)).await?;
        }
        Ok(())
    }
}
