//! Names in the kernel: everything of one cloud is found by its prefix, and by nothing else.
//!
//! Links are `<prefix>0` (docker's default bridge) and `<prefix>-...`; a prefix holds no hyphen, so no
//! cloud's links can be taken for another's. The letter after the hyphen tells what a link is: `p` a pod,
//! `v` a docker or tenant's port, `t` a transit pair, `gw` the gateway; user bridges go on in hexadecimal
//! digits, which none of these letters is.

/// Longest name of a link.
const LINK_NAME: usize = 15;

/// Returns the prefix of a cloud's names: the name itself when it is short and plain.
pub(crate) fn prefix(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric());
    if plain && name.len() <= 8 && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return name.into();
    }
    let mut short: String = name.chars().filter(char::is_ascii_alphabetic).take(3).collect();
    if short.is_empty() {
        short.push('c');
    }
    short + &base36(hash(name), 5)
}

/// Tells whether a link belongs to the cloud.
pub(crate) fn owns(prefix: &str, link: &str) -> bool {
    link.strip_prefix(prefix).is_some_and(|rest| rest == "0" || rest.starts_with('-'))
}

/// Names docker's default bridge.
pub(crate) fn default_bridge(prefix: &str) -> String {
    format!("{prefix}0")
}

/// Names the bridge of a user's network.
pub(crate) fn bridge(prefix: &str, id: &str) -> String {
    let digits: String = id.chars().take(12).collect();
    format!("{prefix}-{digits}").chars().take(LINK_NAME).collect()
}

/// Names the link that holds the pods' gateway address.
pub(crate) fn gateway(prefix: &str) -> String {
    format!("{prefix}-gw")
}

/// Names a port's link by its kind's letter and its id; never one that is `taken`.
pub(crate) fn link(prefix: &str, letter: char, id: &str, taken: impl Fn(&str) -> bool) -> String {
    let room = LINK_NAME - prefix.len() - 2;
    (0_u32..)
        .map(|attempt| format!("{prefix}-{letter}{}", base36(hash(&format!("{id}/{attempt}")), room)))
        .find(|name| !taken(name))
        .expect("there are more names than links")
}

/// Names the file of a tenant's VPC in the directory of namespaces; no workload's id holds an `@`.
pub(crate) fn vpc_file(namespace: &str, name: &str) -> String {
    format!("vpc@{}", base36(hash(&format!("{namespace}/{name}")), 12))
}

/// Makes a name that nftables accepts out of one of ours; different names stay different.
pub(crate) fn identifier(kind: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.len() <= 63 && name.chars().all(plain) {
        format!("{kind}-{name}")
    } else {
        format!("{kind}_{}", base36(hash(name), 12))
    }
}

/// FNV-1a with a final mix: stable for all time, which names of what lives in the kernel must be.
pub(crate) fn hash(text: &str) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let mut hash =
        text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

fn base36(mut number: u64, digits: usize) -> String {
    let mut text = String::new();
    for _ in 0..digits {
        let digit = (number % 36) as u32;
        text.push(char::from_digit(digit, 36).expect("below 36"));
        number /= 36;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cloud_owns_another_ones_links() {
        assert_eq!(prefix("cirro"), "cirro");
        assert_ne!(prefix("a-b"), "a-b");
        assert_ne!(prefix("a-rather-long-name"), prefix("a-rather-long-game"));
        assert!(owns("cirro", "cirro0") && owns("cirro", "cirro-gw") && !owns("cirro", "cirrox0"));
        assert!(!owns("a", "ab-p1") && !owns("a", "a1"));
    }

    #[test]
    fn links_fit_and_avoid_each_other() {
        let first = link("abcdefgh", 'p', "one", |_| false);
        assert_eq!(first.len(), 15);
        let second = link("abcdefgh", 'p', "one", |name| name == first);
        assert_ne!(first, second);
        assert_eq!(bridge("cirro", "0123456789abcdef"), "cirro-012345678");
    }

    #[test]
    fn identifiers_hold_nothing_that_nft_would_read() {
        assert_eq!(identifier("sg", "web.front-1"), "sg-web.front-1");
        let strange = identifier("sg", "x; flush ruleset");
        assert!(strange.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    }
}
