//! `POST /networks/{name}/connect` and `disconnect`.

use axum::body::Body;
use axum::extract::{Path, State};
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::find;
use crate::Face;
use crate::body;
use crate::containers::network::parse_endpoint;
use crate::error::ApiError;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConnectRequest {
    container: String,
    endpoint_config: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DisconnectRequest {
    container: String,
    force: bool,
}

const HOST: &str = "container cannot be disconnected from host network or connected to host network";

/// Puts a container on a network.
pub(crate) async fn connect(
    State(face): State<Face>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Result<StatusCode, ApiError> {
    let request: ConnectRequest = body::read(request.into_body()).await?;
    // A subnet of a VPC is none of docker's networks.
    let network = if name.contains('/') { name } else { bridge_name(&face, &name)? };
    let attachment = parse_endpoint(&network, &request.endpoint_config)?;
    face.engine.connect_container(&request.container, attachment).await?;
    Ok(StatusCode::OK)
}

/// Takes a container off a network.
pub(crate) async fn disconnect(
    State(face): State<Face>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Result<StatusCode, ApiError> {
    let request: DisconnectRequest = body::read(request.into_body()).await?;
    let network = match bridge_name(&face, &name) {
        Ok(network) => network,
        // One that is gone may still be wanted by a container.
        Err(error) if error.status == StatusCode::NOT_FOUND && request.force => name,
        Err(_) if name.contains('/') => name,
        Err(error) => return Err(error),
    };
    face.engine.disconnect_container(&network, &request.container, request.force).await?;
    Ok(StatusCode::OK)
}

fn bridge_name(face: &Face, name: &str) -> Result<String, ApiError> {
    let network = find(face, name)?;
    match network.bridge {
        Some(_) => Ok(network.name),
        None if network.name == "host" => Err(ApiError::invalid(HOST)),
        None => Err(ApiError::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        )),
    }
}
