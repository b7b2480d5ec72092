//! Where an object's server is.

use std::net::{IpAddr, SocketAddr};

use cirro_seams::api::ApiError;
use serde_json::Value;

use super::{Location, Scheme};
use crate::admission::outside::endpoint;
use crate::error;
use crate::http::Call;
use crate::json;
use crate::storage::Place;

/// The port that a kubelet serves on elsewhere.
const KUBELET_PORT: u16 = 10250;

/// A name of a path: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: Scheme,
    name: &'a str,
    /// Empty when it is left to the object.
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let words: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match *words.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }

    /// Returns the port as a number, or that of its scheme when there is none.
    fn number(&self, kind: &str) -> Result<u16, ApiError> {
        match (self.port, self.scheme) {
            ("", Scheme::Http) => Ok(80),
            ("", Scheme::Https) => Ok(443),
            (port, _) => port.parse().map_err(|_| invalid(kind, port)),
        }
    }
}

fn invalid(kind: &str, text: &str) -> ApiError {
    error::bad_request(format!("invalid {kind} request {text:?}"))
}

impl Call {
    /// Finds the server that the path names.
    pub(super) async fn locate(&self) -> Result<Location, ApiError> {
        let kind = &self.served.kind;
        let word = kind.singular.as_str();
        let text = self.path.name.as_deref().unwrap_or_default();
        let named = Named::parse(text).ok_or_else(|| invalid(word, text))?;
        let place = Place { kind, namespace: self.namespace(), name: named.name };
        let object = self.server.storage.get(place).await?;
        match kind.plural.as_str() {
            "pods" => pod(&object, &named),
            "services" => self.service(&object, &named).await,
            _ => node(&object, &named),
        }
    }

    async fn service(&self, service: &Value, named: &Named<'_>) -> Result<Location, ApiError> {
        let port = service_port(service, named)?;
        let found = endpoint(&self.server.storage, self.namespace(), named.name, port).await;
        let address = found.map_err(error::unavailable)?;
        reachable(address.ip())?;
        Ok(Location::Address(address, named.scheme))
    }
}

/// Finds the port of a service by its number or name; a service with one port need not be told it.
fn service_port(service: &Value, named: &Named<'_>) -> Result<i64, ApiError> {
    let ports = json::array(service, "spec.ports");
    let is_named = |one: &&Value| match named.port.parse::<i64>() {
        Ok(number) => json::number(one, "port") == Some(number),
        Err(_) => json::text(one, "name") == named.port,
    };
    let found = match (named.port, ports) {
        ("", [only]) => Some(only),
        _ => ports.iter().find(is_named),
    };
    let number = found.and_then(|one| json::number(one, "port"));
    number.ok_or_else(|| {
        let (name, port) = (named.name, named.port);
        error::unavailable(match port.parse::<i64>() {
            Ok(port) => format!("no service port {port} found for service {name:?}"),
            Err(_) => format!("no endpoints available for service {name:?}"),
        })
    })
}

fn pod(pod: &Value, named: &Named<'_>) -> Result<Location, ApiError> {
    let port = match named.port {
        "" => first_port(pod).unwrap_or(named.number("pod")?),
        _ => named.number("pod")?,
    };
    let ip = json::text(pod, "status.podIP");
    let ip: IpAddr =
        ip.parse().map_err(|_| error::bad_request(format!("pod {} has no address yet", json::name(pod))))?;
    reachable(ip)?;
    Ok(Location::Address(SocketAddr::new(ip, port), named.scheme))
}

/// Returns the first port that a container of a pod declares.
fn first_port(pod: &Value) -> Option<u16> {
    let containers = json::array(pod, "spec.containers");
    let first = containers.iter().find_map(|one| json::array(one, "ports").first())?;
    json::number(first, "containerPort").and_then(|port| u16::try_from(port).ok())
}

fn node(node: &Value, named: &Named<'_>) -> Result<Location, ApiError> {
    if named.port.is_empty() || named.number("node")? == KUBELET_PORT {
        return Ok(Location::Kubelet(named.name.to_owned()));
    }
    let addresses = json::array(node, "status.addresses");
    let internal = addresses.iter().find(|one| json::text(one, "type") == "InternalIP");
    let ip = internal.and_then(|one| json::text(one, "address").parse().ok());
    let ip: IpAddr = ip.ok_or_else(|| {
        error::internal(format!("no preferred addresses found; known addresses: {}", addresses.len()))
    })?;
    reachable(ip)?;
    Ok(Location::Address(SocketAddr::new(ip, named.number("node")?), named.scheme))
}

/// Refuses addresses that would mean this host itself or its link, whoever wrote them into an object.
pub(in crate::http) fn reachable(ip: IpAddr) -> Result<(), ApiError> {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
        return Err(error::bad_request("address not allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        let named = |scheme, name, port| Some(Named { scheme, name, port });
        assert_eq!(Named::parse("a"), named(Scheme::Http, "a", ""));
        assert_eq!(Named::parse("a:80"), named(Scheme::Http, "a", "80"));
        assert_eq!(Named::parse("https:a:web"), named(Scheme::Https, "a", "web"));
        assert_eq!(Named::parse("https:a:"), named(Scheme::Https, "a", ""));
        for wrong in ["", ":80", "ftp:a:1", "a:b:c:d"] {
            assert_eq!(Named::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ports_come_from_the_object_when_the_name_has_none() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]}});
        let find = |text| service_port(&service, &Named::parse(text).unwrap()).map_err(|why| why.message);
        assert_eq!(find("s:tls"), Ok(443));
        assert_eq!(find("s:80"), Ok(80));
        assert_eq!(find("s:81").unwrap_err(), "no service port 81 found for service \"s\"");
        assert_eq!(find("s").unwrap_err(), "no endpoints available for service \"s\"");
        let one = json!({"metadata": {"name": "p"}, "status": {"podIP": "10.0.0.1"},
            "spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}});
        let address = |text| match pod(&one, &Named::parse(text).unwrap()) {
            Ok(Location::Address(address, _)) => address.to_string(),
            _ => panic!("{text}"),
        };
        assert_eq!(address("p"), "10.0.0.1:8080");
        assert_eq!(address("p:90"), "10.0.0.1:90");
    }

    #[test]
    fn nobody_reaches_this_host_by_a_pods_address() {
        for ip in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "fe80::1"] {
            assert_eq!(reachable(ip.parse().unwrap()).unwrap_err().message, "address not allowed");
        }
        assert!(reachable("10.1.2.3".parse().unwrap()).is_ok());
    }
}
