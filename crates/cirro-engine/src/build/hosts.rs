//! `--add-host` of a build: `host-gateway` stands for the address by which containers reach this host.

use std::net::IpAddr;

use crate::Engine;
use crate::error::EngineError;

const HOST_GATEWAY: &str = "host-gateway";

impl Engine {
    /// Returns the address of this host on the default network.
    pub fn host_gateway(&self) -> Option<IpAddr> {
        self.network("bridge").ok().map(|network| IpAddr::V4(network.gateway))
    }

    /// Puts this host's address into `name:host-gateway` lines.
    pub(super) fn resolve_hosts(&self, lines: &mut [String]) -> Result<(), EngineError> {
        resolve(lines, || self.host_gateway())
    }
}

fn resolve(lines: &mut [String], gateway: impl Fn() -> Option<IpAddr>) -> Result<(), EngineError> {
    for line in lines {
        let Some((name, HOST_GATEWAY)) = line.split_once([':', '=']) else { continue };
        let address = gateway()
            .ok_or_else(|| EngineError::Failed("unable to derive the IP value for host-gateway".into()))?;
        *line = format!("{name}:{address}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_is_replaced() {
        let mut lines = ["a:10.0.0.1", "b:host-gateway", "c=host-gateway", "d:::1"].map(str::to_owned);
        resolve(&mut lines, || Some([172, 17, 0, 1].into())).unwrap();
        assert_eq!(lines, ["a:10.0.0.1", "b:172.17.0.1", "c:172.17.0.1", "d:::1"]);
        assert!(resolve(&mut ["b:host-gateway".to_owned()], || None).is_err());
    }
}
