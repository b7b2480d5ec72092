//! Finds and removes what belongs to a cloud by name.

use std::collections::BTreeSet;
use std::process::Command;

use cirro_sys::netlink::Netlink;
use cirro_sys::netns::{Netns, unpin};

use crate::apply::{delete_link, run_nft};
use crate::error::NetError;
use crate::model::PortTarget;
use crate::names;
use crate::nft::Table;
use crate::plan::{Context, Plan};
use crate::state::State;

/// Lists links, namespaces and tables of this cloud that the plan does not know.
///
/// A workload without a network has a namespace and no port: `is_bare` knows it by its id.
/// Rules are compared with those that were applied last: after a tear-down there are to be none.
pub(crate) fn find(
    context: &Context,
    plan: &Plan,
    applied: &Plan,
    state: &State,
    is_bare: &dyn Fn(&str) -> bool,
) -> Result<Vec<String>, NetError> {
    let mut leaks = Vec::new();
    for link in own_links(context)? {
        if !plan.host.links.contains_key(&link) {
            leaks.push(format!("link {link}"));
        }
    }
    let used: Vec<_> = state
        .ports
        .values()
        .filter_map(|record| match &record.target {
            PortTarget::Namespace { path, .. } => Some(path.clone()),
            PortTarget::Tap => None,
        })
        .collect();
    for file in namespace_files(context)? {
        let path = context.netns_dir().join(&file);
        if !plan.vpcs.contains_key(&file) && !used.contains(&path) && !is_bare(&file) {
            leaks.push(format!("network namespace {}", path.display()));
        }
    }
    leaks.extend(crate::drift::find(applied.host.tables.values())?);
    Ok(leaks)
}

/// Families of the tables in the host's namespace.
const FAMILIES: [&str; 2] = ["inet", "bridge"];

/// Lists every link, namespace and table of a cloud: what is left when its daemon does not run.
pub(crate) fn list(context: &Context) -> Result<Vec<String>, NetError> {
    let mut found: Vec<String> = own_links(context)?.into_iter().map(|link| format!("link {link}")).collect();
    for file in namespace_files(context)? {
        found.push(format!("network namespace {}", context.netns_dir().join(file).display()));
    }
    for family in FAMILIES {
        if table_exists(context, family)? {
            found.push(format!("nftables table {family} {}", context.prefix));
        }
    }
    Ok(found)
}

/// Removes every link, namespace and table of this cloud; `bridges` are those that need not have its prefix.
pub(crate) fn remove_all(context: &Context, bridges: &BTreeSet<String>) -> Result<(), NetError> {
    for family in FAMILIES {
        if table_exists(context, family)? {
            run_nft(&Table::new(family, &context.prefix).remove())?;
        }
    }
    for file in namespace_files(context)? {
        let path = context.netns_dir().join(&file);
        remove_taps(&path);
        unpin(&path).map_err(|error| NetError::kernel(format!("remove namespace {file}"), error))?;
    }
    let mut netlink = Netlink::open().map_err(|error| NetError::kernel("open netlink", error))?;
    for link in own_links(context)?.iter().chain(bridges) {
        delete_link(&mut netlink, link)?;
    }
    // Fails while somebody else keeps something there, which is then not ours to remove.
    let _ = std::fs::remove_dir(context.netns_dir());
    Ok(())
}

/// A persistent tap would go with its namespace, but that goes in its own time.
fn remove_taps(path: &std::path::Path) {
    let Ok(netns) = Netns::open(path) else { return };
    let _ = netns.run(|| {
        let Ok(mut netlink) = Netlink::open() else { return };
        for link in netlink.links().unwrap_or_default().iter().filter(|link| link.kind == "tun") {
            let _ = netlink.delete_link(link.index);
        }
    });
}

fn own_links(context: &Context) -> Result<Vec<String>, NetError> {
    let failed = |error| NetError::kernel("read links", error);
    let links = Netlink::open().and_then(|mut netlink| netlink.links()).map_err(failed)?;
    Ok(links.into_iter().map(|link| link.name).filter(|name| names::owns(&context.prefix, name)).collect())
}

fn namespace_files(context: &Context) -> Result<Vec<String>, NetError> {
    let failed = |error| NetError::kernel("read the directory of namespaces", error);
    let entries = match std::fs::read_dir(context.netns_dir()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<Result<_, _>>().map_err(failed)
}

fn table_exists(context: &Context, family: &str) -> Result<bool, NetError> {
    let output = Command::new("nft")
        .args(["list", "tables", family])
        .output()
        .map_err(|error| NetError::kernel("run nft", error))?;
    let wanted = format!("table {family} {}", context.prefix);
    Ok(String::from_utf8_lossy(&output.stdout).lines().any(|line| line.trim() == wanted))
}
