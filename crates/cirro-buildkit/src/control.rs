//! `moby.buildkit.v1.Control`, and the calls that come over the same connection.

use std::collections::BTreeMap;

use cirro_seams::Pending;

use crate::BuildKit;
use crate::backend::CacheRecord;
use crate::exporters::Outputs;
use crate::messages::{
    BuildkitVersion, DiskUsageResponse, Empty, Exporter, HealthResponse, InfoResponse, ListWorkersResponse,
    Platform, PruneRequest, SolveRequest, SolveResponse, StatusRequest, Timestamp, UsageRecord, WorkerRecord,
};
use cirro_grpc::server::{Call, Service};
use cirro_grpc::{Code, Status};

/// The builder of Dockerfiles.
pub(crate) const DOCKERFILE: &str = "dockerfile.v0";
/// A frontend that is an image; those of Dockerfiles are taken for ours.
pub(crate) const GATEWAY: &str = "gateway.v0";
const PACKAGE: &str = "github.com/moby/buildkit";
/// The version of BuildKit whose protocol is spoken.
const PROTOCOL: &str = "v0.22.0";
const SERVING: i32 = 1;

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
pub(crate) fn worker(own: String) -> WorkerRecord {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let labels = [
        ("org.mobyproject.buildkit.worker.executor", "cirro"),
        ("org.mobyproject.buildkit.worker.network", "host"),
    ];
    WorkerRecord {
        id: "cirro".into(),
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
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

impl Control {
    fn info(&self) -> InfoResponse {
        InfoResponse { version: Some(version(self.0.backend.version())) }
    }

    fn worker(&self) -> WorkerRecord {
        worker(self.0.backend.version())
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
            return Err(Status::unsupported(format!("exporting the cache (type {})", export.kind)));
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
        let session = self.0.session(&request.session).await?;
        let image = if request.frontend.is_empty() {
            self.0.forward(&request, &running, session.clone(), &outputs).await?
        } else {
            check_frontend(&request.frontend, &request.frontend_attributes)?;
            let attributes = &request.frontend_attributes;
            Some(self.0.solve(running.record(), session.clone(), attributes, &outputs, None).await?)
        };
        let exporter_response = match image {
            Some(image) => self.0.export(running.record(), session.as_ref(), &outputs, image).await?,
            None => BTreeMap::new(),
        };
        Ok(SolveResponse { exporter_response })
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
        let pruned = self.0.backend.prune(request.all, until).await.map_err(Status::unknown)?;
        for record in &pruned {
            call.answers.send(&usage(record)).await?;
        }
        Ok(())
    }
}
