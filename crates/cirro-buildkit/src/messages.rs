//! BuildKit's messages, those fields of them that are read or written here.
//!
//! Source: moby/buildkit `control.proto`, `gateway.proto`, `worker.proto`, `ops.proto`; tonistiigi/fsutil `wire.proto`.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::wire::message;

message!(Timestamp { seconds: i64 = 1, nanos: i32 = 2 });
message!(Any { type_url: String = 1, value: Bytes = 2 });
message!(
    /// `google.rpc.Status`.
    RpcStatus { code: i32 = 1, message: String = 2, details: Vec<Any> = 3 }
);
message!(
    /// An answer or question without fields.
    Empty {}
);
message!(BytesMessage { data: Bytes = 1 });

// Control.
message!(Exporter { kind: String = 1, attributes: BTreeMap<String, String> = 2 });
message!(CacheEntry { kind: String = 1, attributes: BTreeMap<String, String> = 2 });
message!(CacheOptions { exports: Vec<CacheEntry> = 4, imports: Vec<CacheEntry> = 5 });
message!(SolveRequest {
    reference: String = 1,
    definition: Option<Definition> = 2,
    exporter: String = 3,
    exporter_attributes: BTreeMap<String, String> = 4,
    session: String = 5,
    frontend: String = 6,
    frontend_attributes: BTreeMap<String, String> = 7,
    cache: Option<CacheOptions> = 8,
    entitlements: Vec<String> = 9,
    frontend_inputs: BTreeMap<String, Definition> = 10,
    internal: bool = 11,
    exporters: Vec<Exporter> = 13,
});
message!(Definition { operations: Vec<Bytes> = 1 });
message!(SolveResponse { exporter_response: BTreeMap<String, String> = 1 });
message!(StatusRequest { reference: String = 1 });
message!(StatusResponse {
    vertexes: Vec<Vertex> = 1,
    statuses: Vec<VertexStatus> = 2,
    logs: Vec<VertexLog> = 3,
    warnings: Vec<VertexWarning> = 4,
});
message!(Vertex {
    digest: String = 1,
    inputs: Vec<String> = 2,
    name: String = 3,
    cached: bool = 4,
    started: Option<Timestamp> = 5,
    completed: Option<Timestamp> = 6,
    error: String = 7,
});
message!(VertexStatus {
    id: String = 1,
    vertex: String = 2,
    name: String = 3,
    current: i64 = 4,
    total: i64 = 5,
    timestamp: Option<Timestamp> = 6,
    started: Option<Timestamp> = 7,
    completed: Option<Timestamp> = 8,
});
message!(VertexLog {
    vertex: String = 1,
    timestamp: Option<Timestamp> = 2,
    stream: i64 = 3,
    message: Bytes = 4,
});
message!(VertexWarning { vertex: String = 1, level: i64 = 2, short: Bytes = 3 });
message!(UsageRecord {
    id: String = 1,
    mutable: bool = 2,
    in_use: bool = 3,
    size: i64 = 4,
    created_at: Option<Timestamp> = 6,
    description: String = 9,
    record_type: String = 10,
    shared: bool = 11,
});
message!(DiskUsageResponse { records: Vec<UsageRecord> = 1 });
message!(PruneRequest {
    filter: Vec<String> = 1,
    all: bool = 2,
    keep_duration: i64 = 3,
    reserved_space: i64 = 4,
    max_used_space: i64 = 5,
    min_free_space: i64 = 6,
});
message!(Platform { architecture: String = 1, os: String = 2, variant: String = 3 });
message!(BuildkitVersion { package: String = 1, version: String = 2, revision: String = 3 });
message!(WorkerRecord {
    id: String = 1,
    labels: BTreeMap<String, String> = 2,
    platforms: Vec<Platform> = 3,
    version: Option<BuildkitVersion> = 5,
});
message!(ListWorkersResponse { records: Vec<WorkerRecord> = 1 });
message!(InfoResponse { version: Option<BuildkitVersion> = 1 });

// Gateway.
message!(ApiCap { id: String = 1, enabled: bool = 2 });
message!(PongResponse {
    frontend_caps: Vec<ApiCap> = 1,
    llb_caps: Vec<ApiCap> = 2,
    workers: Vec<WorkerRecord> = 3,
});
message!(BridgeSolveRequest {
    definition: Option<Definition> = 1,
    frontend: String = 2,
    frontend_options: BTreeMap<String, String> = 3,
    frontend_inputs: BTreeMap<String, Definition> = 13,
    evaluate: bool = 14,
});
message!(Ref { id: String = 1 });
message!(RefMap { refs: BTreeMap<String, Ref> = 1 });
message!(BuildResult {
    old_ref: String = 1,
    one: Option<Ref> = 3,
    many: Option<RefMap> = 4,
    metadata: BTreeMap<String, Bytes> = 10,
});
message!(BridgeSolveResponse { old_ref: String = 1, result: Option<BuildResult> = 3 });
message!(ReturnRequest { result: Option<BuildResult> = 1, error: Option<RpcStatus> = 2 });
message!(ResolveImageRequest { name: String = 1, platform: Option<Platform> = 2, mode: String = 3 });
message!(ResolveImageResponse { digest: String = 1, config: Bytes = 2, name: String = 3 });
message!(HealthResponse { status: i32 = 1 });

// What a client serves in its session.
message!(Stat {
    path: String = 1,
    mode: u32 = 2,
    uid: u32 = 3,
    gid: u32 = 4,
    size: i64 = 5,
    modified: i64 = 6,
    link: String = 7,
    device_major: i64 = 8,
    device_minor: i64 = 9,
    extended: BTreeMap<String, Bytes> = 10,
});
message!(Packet { kind: i32 = 1, stat: Option<Stat> = 2, id: u32 = 3, data: Bytes = 4 });
message!(CredentialsRequest { host: String = 1 });
message!(CredentialsResponse { username: String = 1, secret: String = 2 });
message!(GetSecretRequest { id: String = 1 });
message!(GetSecretResponse { data: Bytes = 1 });
message!(CheckAgentRequest { id: String = 1 });

impl Packet {
    /// A file's attributes; without any, the end of the list.
    pub const STAT: i32 = 0;
    /// Asks for a file's content.
    pub const REQUEST: i32 = 1;
    /// Content of a file; none ends it.
    pub const DATA: i32 = 2;
    /// Everything has arrived.
    pub const FINISH: i32 = 3;
    /// The sender gives up.
    pub const ERROR: i32 = 4;
}
