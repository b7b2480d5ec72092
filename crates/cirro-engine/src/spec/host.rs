//! What this host can give a container; looked up once.

use std::collections::BTreeMap;
use std::path::Path;

use super::capabilities;
use super::support::LimitSupport;

/// Facts about the host that a container's spec depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    /// Whether cgroups are version 2 throughout; on version 1 no cgroup mount is given.
    pub cgroup_v2: bool,
    /// Whether a bind can be read-only with all that is mounted below it.
    pub recursive_read_only: bool,
    /// Which other limits can be set.
    pub limits: LimitSupport,
    /// Whether swap can be limited.
    pub swap_limit: bool,
    /// Capabilities in the engine's bounding set.
    pub capabilities: Vec<&'static str>,
    /// The lowest score that may be given to a process.
    pub lowest_oom_score: i32,
    /// Hard limits that cannot be exceeded, by docker's names; empty when they can.
    pub hard_limits: BTreeMap<&'static str, u64>,
}

impl HostFacts {
    /// Looks at the host.
    pub(crate) fn look() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let bounding = field("CapBnd:").and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or(0);
        let capabilities = capabilities::of_bits(bounding);
        let unlimited = capabilities.contains(&"CAP_SYS_RESOURCE");
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        Self {
            cgroup_v2,
            recursive_read_only: cirro_sys::mounts::can_change(),
            limits: LimitSupport::look(cgroup_v2),
            swap_limit: Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() || cgroup_v2,
            lowest_oom_score: if unlimited { -1000 } else { score.trim().parse().unwrap_or(0) },
            hard_limits: if unlimited { BTreeMap::new() } else { hard_limits() },
            capabilities,
        }
    }
}

/// Returns docker's word for the cgroup namespace that a container gets on this host when nothing is asked for.
pub fn default_cgroup_namespace() -> &'static str {
    match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => "private",
        false => "host",
    }
}

fn hard_limits() -> BTreeMap<&'static str, u64> {
    use rustix::process::{Resource, getrlimit};
    let resources = [
        ("core", Resource::Core),
        ("cpu", Resource::Cpu),
        ("data", Resource::Data),
        ("fsize", Resource::Fsize),
        ("locks", Resource::Locks),
        ("memlock", Resource::Memlock),
        ("msgqueue", Resource::Msgqueue),
        ("nice", Resource::Nice),
        ("nofile", Resource::Nofile),
        ("nproc", Resource::Nproc),
        ("rss", Resource::Rss),
        ("rtprio", Resource::Rtprio),
        ("rttime", Resource::Rttime),
        ("sigpending", Resource::Sigpending),
        ("stack", Resource::Stack),
    ];
    let limit = |resource| getrlimit(resource).maximum;
    resources.into_iter().filter_map(|(name, resource)| Some((name, limit(resource)?))).collect()
}
