//! Kubernetes' own functions: quantities, addresses, URLs, versions, named formats.
//!
//! Source: apiserver `pkg/cel/library/{quantity,ip,cidr,urls,semverlib,format}.go`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::eval::{Found, fail};
use super::value::Cel;
use crate::validate::NameRule;
use crate::validate::names;
use crate::validate::quantity::Quantity;

pub(super) const NAMES: [&str; 57] = [
    "quantity",
    "isQuantity",
    "isInteger",
    "asInteger",
    "asApproximateFloat",
    "sign",
    "add",
    "sub",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "ip",
    "isIP",
    "ip.isCanonical",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "cidr",
    "isCIDR",
    "containsIP",
    "containsCIDR",
    "masked",
    "prefixLength",
    "url",
    "isURL",
    "getScheme",
    "getHost",
    "getHostname",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "semver",
    "isSemver",
    "major",
    "minor",
    "patch",
    "validate",
    "format.named",
    "format.dns1123Label",
    "format.dns1123Subdomain",
    "format.dns1035Label",
    "format.qualifiedName",
    "format.labelValue",
    "format.uri",
    "format.uuid",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.dns1123LabelPrefix",
    "format.dns1123SubdomainPrefix",
    "format.dns1035LabelPrefix",
    "string",
    "isZero",
    "isCanonical",
];

/// A URL in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(super) text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// Reads an absolute URL or an absolute path.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.chars().any(|letter| letter.is_control() || letter == ' ') {
            return None;
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.starts_with(|one: char| one.is_ascii_alphabetic()) => {
                (scheme, rest)
            }
            Some(_) => return None,
            None if text.starts_with('/') => ("", text),
            None => return None,
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let at = if scheme.is_empty() { 0 } else { rest.find('/').unwrap_or(rest.len()) };
        let (authority, path) = rest.split_at(at);
        let host = authority.rsplit('@').next().unwrap_or_default();
        Some(Self {
            text: text.into(),
            scheme: scheme.to_ascii_lowercase(),
            host: host.into(),
            path: path.into(),
            query: query.into(),
        })
    }

    /// Splits the host from the port.
    fn host_and_port(&self) -> (&str, &str) {
        match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
            _ => (&self.host, ""),
        }
    }

    fn part(&self, name: &str) -> Option<Cel> {
        Some(match name {
            "getScheme" => self.scheme.as_str().into(),
            "getHost" => self.host.as_str().into(),
            "getHostname" => self.host_and_port().0.trim_matches(['[', ']']).into(),
            "getPort" => self.host_and_port().1.into(),
            "getEscapedPath" => self.path.as_str().into(),
            "getQuery" => {
                let mut query = std::collections::BTreeMap::<_, Vec<Cel>>::new();
                for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    query.entry(super::value::Key::Text(key.into())).or_default().push(value.into());
                }
                let query = query.into_iter().map(|(key, values)| (key, Cel::from(values)));
                Cel::Map(std::sync::Arc::new(query.collect()))
            }
            _ => return None,
        })
    }
}

/// Calls one of Kubernetes' functions; `None` when it is none.
pub(super) fn call(target: Option<&Cel>, name: &str, args: &[Cel]) -> Option<Found> {
    match (target, args) {
        (None, [Cel::Text(text)]) => made(name, text),
        (None, []) => name.strip_prefix("format.").and_then(format_named).map(|name| Ok(Cel::Format(name))),
        (Some(Cel::Quantity(quantity)), _) => of_quantity(*quantity, name, args),
        (Some(Cel::Ip(ip)), []) => of_ip(ip, name),
        (Some(Cel::Cidr(net)), _) => of_cidr(net, name, args),
        (Some(Cel::Url(url)), []) => url.part(name).map(Ok),
        (Some(Cel::Semver(numbers, _)), []) => {
            let at = ["major", "minor", "patch"].iter().position(|part| *part == name)?;
            Some(Ok(Cel::Int(numbers[at] as i64)))
        }
        (Some(one @ Cel::Semver(..)), [other @ Cel::Semver(..)]) => compared(one, other, name),
        (Some(Cel::Format(format)), [Cel::Text(text)]) if name == "validate" => {
            let why = format_fault(format, text).map(|why| Box::new(Cel::from(vec![Cel::from(why)])));
            Some(Ok(Cel::Optional(why)))
        }
        _ => None,
    }
}

/// Makes a value from text, or says whether one could.
fn made(name: &str, text: &str) -> Option<Found> {
    let quantity = || Quantity::parse(text).map(Cel::Quantity);
    let ip = || text.parse::<IpAddr>().map_err(|_| format!("IP Address {text:?} parse error"));
    let cidr = || {
        text.parse::<IpNet>()
            .map_err(|_| format!("network address parse error during conversion from string: {text:?}"))
    };
    let url =
        || Url::parse(text).ok_or_else(|| format!("URL parse error during conversion from string: {text:?}"));
    let semver = || semver(text).ok_or_else(|| format!("no semver: {text:?}"));
    let result = |result: Result<Cel, String>| Some(result.or_else(fail));
    let truth = |value: bool| Some(Ok(Cel::Bool(value)));
    match name {
        "quantity" => result(quantity()),
        "isQuantity" => truth(quantity().is_ok()),
        "ip" => result(ip().map(Cel::Ip)),
        "isIP" => truth(ip().is_ok()),
        "ip.isCanonical" => match ip() {
            Ok(ip) => truth(ip.to_string() == text),
            Err(why) => Some(fail(why)),
        },
        "cidr" => result(cidr().map(Cel::Cidr)),
        "isCIDR" => truth(cidr().is_ok()),
        "url" => result(url().map(|url| Cel::Url(url.into()))),
        "isURL" => truth(url().is_ok()),
        "semver" => result(semver()),
        "isSemver" => truth(semver().is_ok()),
        "format.named" => Some(Ok(Cel::Optional(format_named(text).map(|name| Box::new(Cel::Format(name)))))),
        _ => None,
    }
}

fn semver(text: &str) -> Option<Cel> {
    let text = text.split('+').next()?;
    let (numbers, rest) = text.split_once('-').unwrap_or((text, ""));
    let mut found = [0; 3];
    let mut parts = numbers.split('.');
    for number in &mut found {
        let part = parts.next()?;
        *number = part.parse().ok().filter(|_| part == "0" || !part.starts_with(['0', '+']))?;
    }
    parts.next().is_none().then(|| Cel::Semver(found, rest.into()))
}

fn compared(one: &Cel, other: &Cel, name: &str) -> Option<Found> {
    let order = one.compare(other)?;
    Some(Ok(match name {
        "compareTo" => Cel::Int(order as i64),
        "isGreaterThan" => Cel::Bool(order.is_gt()),
        "isLessThan" => Cel::Bool(order.is_lt()),
        _ => return None,
    }))
}

fn of_quantity(quantity: Quantity, name: &str, args: &[Cel]) -> Option<Found> {
    let other = match args {
        [] => None,
        [Cel::Quantity(other)] => Some(*other),
        [Cel::Int(other)] => Some(Quantity::from_units(*other)),
        _ => return None,
    };
    let unit = Quantity::from_units(1);
    Some(match (name, other) {
        ("add", Some(other)) => Ok(Cel::Quantity(quantity.plus(other))),
        ("sub", Some(other)) => Ok(Cel::Quantity(quantity.minus(other))),
        (_, Some(other)) => return compared(&Cel::Quantity(quantity), &Cel::Quantity(other), name),
        ("isInteger", None) => Ok(Cel::Bool(quantity.whole().is_some())),
        ("asInteger", None) => match quantity.whole() {
            Some(number) => Ok(Cel::Int(number)),
            None => fail("cannot convert value to integer"),
        },
        ("asApproximateFloat", None) => Ok(Cel::Double(quantity.ratio(unit))),
        ("sign", None) => Ok(Cel::Int(quantity.cmp(&Quantity::ZERO) as i64)),
        _ => return None,
    })
}

fn of_ip(ip: &IpAddr, name: &str) -> Option<Found> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.octets()[0] == 0xff && ip.octets()[1] & 0x0f == 2,
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    Some(Ok(match name {
        "family" => Cel::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Cel::Bool(ip.is_unspecified()),
        "isLoopback" => Cel::Bool(ip.is_loopback()),
        "isLinkLocalUnicast" => Cel::Bool(link_local),
        "isLinkLocalMulticast" => Cel::Bool(multicast),
        "isGlobalUnicast" => Cel::Bool(
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast),
        ),
        _ => return None,
    }))
}

fn of_cidr(net: &IpNet, name: &str, args: &[Cel]) -> Option<Found> {
    Some(Ok(match (name, args) {
        ("ip", []) => Cel::Ip(net.addr()),
        ("masked", []) => Cel::Cidr(net.trunc()),
        ("prefixLength", []) => Cel::Int(net.prefix_len().into()),
        ("containsIP", [Cel::Ip(ip)]) => Cel::Bool(net.contains(ip)),
        ("containsCIDR", [Cel::Cidr(other)]) => Cel::Bool(net.contains(other)),
        ("containsIP", [Cel::Text(text)]) => match text.parse::<IpAddr>() {
            Ok(ip) => Cel::Bool(net.contains(&ip)),
            Err(_) => return Some(fail(format!("IP Address {text:?} parse error"))),
        },
        ("containsCIDR", [Cel::Text(text)]) => match text.parse::<IpNet>() {
            Ok(other) => Cel::Bool(net.contains(&other)),
            Err(_) => return Some(fail(format!("CIDR {text:?} parse error"))),
        },
        _ => return None,
    }))
}

fn format_named(name: &str) -> Option<&'static str> {
    let known = [
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
    ];
    known.into_iter().find(|known| *known == name)
}

/// Says what is wrong with a text of a format.
fn format_fault(format: &str, text: &str) -> Option<String> {
    let structural =
        |format: &str| crate::structural::format_fits(format, text).then_some(()).ok_or("invalid".to_owned());
    let stem = text.trim_end_matches('-');
    let result = match format {
        "dns1123Label" => NameRule::Label.check(text),
        "dns1123Subdomain" => NameRule::Subdomain.check(text),
        "dns1035Label" => NameRule::Label1035.check(text),
        "dns1123LabelPrefix" => NameRule::Label.check(stem),
        "dns1123SubdomainPrefix" => NameRule::Subdomain.check(stem),
        "dns1035LabelPrefix" => NameRule::Label1035.check(stem),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        "datetime" => structural("date-time"),
        other => structural(other),
    };
    result.err()
}
