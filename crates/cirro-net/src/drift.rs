//! Finds what our own nftables tables hold beside the plan: an address, a port or a link of something that is gone.

use std::collections::BTreeSet;
use std::process::Command;

use crate::error::NetError;
use crate::nft::Table;

/// Lists addresses and names of links in the kernel's tables that the planned ones do not have, and tables that are missing.
pub(crate) fn find<'a>(tables: impl Iterator<Item = &'a Table>) -> Result<Vec<String>, NetError> {
    let mut found = Vec::new();
    for table in tables {
        let (family, name) = (table.family, &table.name);
        let Some(listing) = list(family, name)? else {
            found.push(format!("nftables table {family} {name} is missing"));
            continue;
        };
        let planned = table.replace();
        let strays = words(&listing).into_iter().filter(|word| !planned.contains(word.trim_matches('"')));
        found.extend(strays.map(|word| format!("nftables table {family} {name}: {word} belongs to nothing")));
    }
    Ok(found)
}

fn list(family: &str, name: &str) -> Result<Option<String>, NetError> {
    let output = Command::new("nft")
        .args(["-n", "list", "table", family, name])
        .output()
        .map_err(|error| NetError::kernel("run nft", error))?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Plain addresses (no ranges: nft writes those its own way) and quoted names.
fn words(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '"' | '-' | '/' | '*');
    let all = text.split(|c: char| !is_part(c));
    let wanted = |word: &&str| {
        let address = word.parse::<std::net::Ipv4Addr>().is_ok();
        address || (word.len() > 2 && word.starts_with('"') && word.ends_with('"'))
    };
    all.filter(wanted).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_from_the_rest() {
        let text =
            "map m { type ipv4_addr : ifname\n elements = { 10.0.0.2 : \"c1-x\", 10.9.0.0/16 : \"c1-y*\" } }";
        assert_eq!(words(text).into_iter().collect::<Vec<_>>(), ["\"c1-x\"", "\"c1-y*\"", "10.0.0.2"]);
    }
}
