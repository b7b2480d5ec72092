//! `cirro df`: explains every byte below the data directory.

use std::process::ExitCode;

use anyhow::Context as _;
use cirro_engine::{DiskKind, DiskUsage};
use serde_json::json;

use crate::cli::say;
use crate::config::{Config, Place};

/// Prints what takes room below the data directory; with `items`, also which layers, containers and volumes.
pub(crate) fn run(place: &Place, items: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::of_run_dir(place)?;
    let dir = &config.data_dir;
    let usage = DiskUsage::of(dir).with_context(|| format!("look at {}", dir.display()))?;
    say(&if as_json { format!("{}\n", document(&usage)) } else { table(&usage, items) })?;
    Ok(ExitCode::SUCCESS)
}

fn document(usage: &DiskUsage) -> serde_json::Value {
    let kinds: serde_json::Map<_, _> =
        DiskKind::ALL.iter().map(|kind| (kind.as_str().to_owned(), json!(bytes(usage, *kind)))).collect();
    json!({ "total": usage.total(), "kinds": kinds })
}

fn bytes(usage: &DiskUsage, kind: DiskKind) -> u64 {
    usage.kinds.get(&kind).copied().unwrap_or_default()
}

fn table(usage: &DiskUsage, items: bool) -> String {
    let mut text = String::new();
    for kind in DiskKind::ALL {
        text.push_str(&format!("{:<12} {:>16}\n", kind.as_str(), bytes(usage, kind)));
        let mut own: Vec<_> = usage.items.iter().filter(|((of, _), _)| items && *of == kind).collect();
        own.sort_by_key(|(_, size)| std::cmp::Reverse(**size));
        for ((_, name), size) in own {
            let short: String = name.chars().take(32).collect();
            text.push_str(&format!("  {short:<32} {size:>16}\n"));
        }
    }
    text.push_str(&format!("{:<12} {:>16}\n", "total", usage.total()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ends_with_the_sum() {
        let mut usage = DiskUsage::default();
        usage.kinds.insert(DiskKind::Volumes, 300);
        usage.kinds.insert(DiskKind::Rest, 12);
        usage.items.insert((DiskKind::Volumes, "cache".into()), 300);
        let text = table(&usage, true);
        assert!(text.contains("  cache"));
        assert!(text.ends_with(&format!("{:<12} {:>16}\n", "total", 312)));
        assert_eq!(document(&usage)["kinds"]["volumes"], 300);
    }
}
