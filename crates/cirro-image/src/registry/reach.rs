//! Where a registry may send us: not to this machine, and not to what only this machine can ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds that are not link-local: Alibaba, Azure, Oracle; over IPv6 Amazon.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Which addresses a connection may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any: a person named the host.
    Any,
    /// None of this machine or link: a registry named the host, and it must not make us ask a metadata service.
    Outside,
}

/// Tells whether an address is of this machine or link, or a metadata service's. Private networks are not meant:
/// registries and their token servers live there.
pub(super) fn is_inside(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || embedded(address).is_some_and(|address| is_inside(address.into()))
        }
    }
}

/// Returns the IPv4 address that an IPv6 address leads to by translation: NAT64 (RFC 6052), 6to4 (RFC 3056), and the
/// "compatible" ones of old.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] | [0, 0, 0, 0, 0, 0] => Some(of(g, h)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_cannot_send_us_to_this_machine() {
        for address in [
            "169.254.169.254",
            "127.0.0.1",
            "127.8.9.10",
            "::1",
            "fe80::1",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::1",
            "::127.0.0.1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            assert!(is_inside(address.parse().unwrap()), "{address}");
        }
        for address in
            ["10.0.0.1", "192.168.1.1", "100.64.0.1", "93.184.216.34", "2001:db8::1", "64:ff9b::10.0.0.1"]
        {
            assert!(!is_inside(address.parse().unwrap()), "{address}");
        }
    }
}
