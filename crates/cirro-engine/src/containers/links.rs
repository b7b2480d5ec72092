//! Containers on the default bridge that know each other by name: lines of the hosts file and variables.

use std::net::IpAddr;

use cirro_seams::container::{Container, NetworkMode};

use super::is_active;
use crate::Engine;
use crate::error::EngineError;
use crate::spec::links;

/// What links bring.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub env: Vec<String>,
    /// Names and addresses.
    pub hosts: Vec<(String, IpAddr)>,
}

impl Engine {
    /// Refuses links to containers that do not exist.
    pub(super) fn check_links(&self, links: &[(String, String)]) -> Result<(), EngineError> {
        for (name, _) in links {
            let other = self.container(name).map_err(|error| {
                EngineError::Invalid(format!("could not get container for {name}: {error}"))
            })?;
            if other.spec.network == NetworkMode::Host {
                return Err(EngineError::Invalid(
                    "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
                        .into(),
                ));
            }
        }
        Ok(())
    }

    /// Takes a link from a container; its next start does without it.
    pub async fn remove_link(&self, name: &str, alias: &str) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        let _guard = self.lock_container(&id).await?;
        let known = self.container(&id)?.spec.links.iter().any(|(_, own)| own == alias);
        if !known {
            return Err(EngineError::NotFound(format!("Cannot get parent {name} for name {alias}")));
        }
        self.change(&id, |entry| entry.record.container.spec.links.retain(|(_, own)| own != alias))?;
        self.shared.journal.flush().await
    }

    /// Finds what the links of a container bring; those that it names must run.
    pub(super) fn links_of(&self, container: &Container) -> Result<Links, EngineError> {
        let mut links = Links::default();
        for (name, alias) in &container.spec.links {
            let other = self.container(name)?;
            if !is_active(other.phase) {
                return Err(EngineError::Conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    other.name, container.name
                )));
            }
            let Some(endpoint) = other.endpoints.first() else { continue };
            let address = endpoint.address;
            links.env.extend(links::environment(&container.name, alias, &address.to_string(), &other));
            let short: String = other.id.chars().take(12).collect();
            let mut names = vec![alias.clone(), short, other.name.clone()];
            names.dedup();
            links.hosts.push((names.join(" "), address.into()));
        }
        Ok(links)
    }
}
