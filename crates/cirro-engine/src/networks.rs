//! Docker's networks.

use cirro_net::{CreateDockerNetwork, DockerNetwork, NetError};

use crate::Engine;
use crate::containers::network::not_found;
use crate::error::EngineError;

/// The network that containers are on unless they say otherwise.
const DEFAULT: &str = "bridge";
const RESERVED: [&str; 4] = ["bridge", "host", "none", "default"];

impl Engine {
    /// Lists docker networks with their containers' endpoints (see
    /// [`Container::endpoints`](cirro_seams::container::Container::endpoints)).
    pub fn networks(&self) -> Vec<DockerNetwork> {
        self.shared.network.docker_networks()
    }

    /// Finds a docker network by name, id or id prefix.
    pub fn network(&self, name: &str) -> Result<DockerNetwork, EngineError> {
        let all = self.networks();
        let exact = all
            .iter()
            .find(|network| network.id == name)
            .or_else(|| all.iter().find(|network| network.name == name));
        if let Some(network) = exact {
            return Ok(network.clone());
        }
        let mut fitting = all.iter().filter(|network| !name.is_empty() && network.id.starts_with(name));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network.clone()),
            (Some(_), Some(_)) => {
                Err(EngineError::Invalid(format!("network {name} is ambiguous (several ids begin so)")))
            }
            (None, _) => Err(not_found(name)),
        }
    }

    /// Makes a docker network.
    pub async fn create_network(&self, request: CreateDockerNetwork) -> Result<DockerNetwork, EngineError> {
        let name = request.name.clone();
        if RESERVED.contains(&name.as_str()) {
            let text = format!("operation is not permitted on predefined {name} network");
            return Err(EngineError::Forbidden(text));
        }
        let _guard = self.shared.keyed.lock(&format!("network {name}")).await;
        if self.networks().iter().any(|network| network.name == name) {
            return Err(EngineError::Conflict(format!("network with name {name} already exists")));
        }
        let network = self.shared.network.create_docker_network(request).await?;
        self.emit_network("create", &network);
        Ok(network)
    }

    /// Removes it; refused while containers are on it.
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        let network = self.network(name)?;
        if network.name == DEFAULT {
            let text = format!("{} is a pre-defined network and cannot be removed", network.name);
            return Err(EngineError::Forbidden(text));
        }
        let users = self.on_network(&network);
        let in_use = |users: &[(String, String)]| {
            let users: Vec<_> =
                users.iter().map(|(name, id)| format!("name:{name:?} id:\"{}\"", &id[..12])).collect();
            EngineError::Forbidden(format!(
                "error while removing network: network {} has active endpoints ({})",
                network.name,
                users.join(", ")
            ))
        };
        if !users.is_empty() {
            return Err(in_use(&users));
        }
        match self.shared.network.delete_docker_network(&network.id).await {
            Ok(()) => {}
            // A build step, or a container that is just starting.
            Err(NetError::Forbidden(_)) => return Err(in_use(&[])),
            Err(NetError::NotFound(_)) => return Err(not_found(name)),
            Err(error) => return Err(error.into()),
        }
        self.emit_network("destroy", &network);
        Ok(())
    }

    fn emit_network(&self, action: &str, network: &DockerNetwork) {
        let attributes = [("name", network.name.as_str()), ("type", "bridge")];
        self.shared.events.emit("network", action, &network.id, &attributes);
    }
}
