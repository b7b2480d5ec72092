//! Where the API's audit log is, as flags and file say it.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use cirro_apiserver::AuditOptions;
use serde::{Deserialize, Serialize};

use crate::config::Flags;

/// An audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Audit {
    policy: PathBuf,
    log: PathBuf,
    max_size_megabytes: u64,
    max_backups: usize,
    max_age_days: u64,
}

impl Audit {
    /// Puts the flags together; nothing without a policy.
    pub(crate) fn of(flags: &Flags, data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let Some(policy) = &flags.audit_policy_file else {
            ensure!(flags.audit_log_path.is_none(), "--audit-log-path: want --audit-policy-file with it");
            return Ok(None);
        };
        let log = flags.audit_log_path.clone().unwrap_or_else(|| data_dir.join("audit.log"));
        let max_size_megabytes = flags.audit_log_maxsize.unwrap_or(100);
        ensure!(max_size_megabytes > 0, "--audit-log-maxsize 0: a log without a bound is not supported");
        Ok(Some(Self {
            policy: std::path::absolute(policy)?,
            log: std::path::absolute(log)?,
            max_size_megabytes,
            max_backups: flags.audit_log_maxbackup.unwrap_or(10),
            max_age_days: flags.audit_log_maxage.unwrap_or(0),
        }))
    }

    /// Returns what the API server is told.
    pub(crate) fn options(&self) -> AuditOptions {
        AuditOptions {
            policy: self.policy.clone(),
            log: self.log.clone(),
            max_size_bytes: self.max_size_megabytes.saturating_mul(1024 * 1024),
            max_backups: self.max_backups,
            max_age_days: self.max_age_days,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_has_a_policy() {
        let of = |flags: Flags| Audit::of(&flags, Path::new("/data"));
        assert_eq!(of(Flags::default()).unwrap(), None);
        let path = || Some(PathBuf::from("/x"));
        assert!(of(Flags { audit_log_path: path(), ..Flags::default() }).is_err());
        let audit = of(Flags { audit_policy_file: path(), ..Flags::default() }).unwrap().unwrap();
        assert_eq!((audit.log.to_str(), audit.max_backups), (Some("/data/audit.log"), 10));
        assert_eq!(audit.options().max_size_bytes, 100 * 1024 * 1024);
        let endless = Flags { audit_policy_file: path(), audit_log_maxsize: Some(0), ..Flags::default() };
        assert!(of(endless).is_err());
    }
}
