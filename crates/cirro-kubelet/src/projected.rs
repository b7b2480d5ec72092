//! Projected volumes: tokens, config maps, secrets and the pod's own fields in one directory.
//!
//! They are written before the containers that mount them start. A token is written again when four
//! fifths of its time are over; the file's time says how old it is, so that a restart loses nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cirro_client::{name, namespace, text, uid};
use cirro_seams::node::Sandbox;
use serde_json::{Value, json};

use crate::Kubelet;
use crate::environment;
use crate::volumes::{self, VolumeError};

/// Seconds that a token is good for when the pod does not say.
const HOUR: u64 = 3600;
/// When a token that cannot be had again is asked for again.
const RETRY: Duration = Duration::from_secs(30);

/// Writes what a pod's projected volumes hold; `starting` when containers are about to be started, else
/// only tokens that age are renewed. Returns when to look again.
pub(crate) async fn prepare(
    kubelet: &Kubelet,
    pod: &Arc<Value>,
    sandbox: &Sandbox,
    starting: bool,
) -> Result<Option<Duration>, VolumeError> {
    let mut again = None;
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let Some(projected) = volume.get("projected") else { continue };
        let wanted = text(volume, "/name");
        let path = volumes::path(kubelet, pod, wanted);
        if starting {
            volumes::make_directory(&path, 0o755)
                .map_err(|source| VolumeError::Io { volume: wanted.to_owned(), source })?;
        }
        let files =
            Files { kubelet, pod, sandbox, volume: wanted, path: &path, mode: &projected["defaultMode"] };
        for source in projected["sources"].as_array().into_iter().flatten() {
            if let Some(token) = source.get("serviceAccountToken") {
                let next = files.token(token).await?;
                again = Some(again.map_or(next, |other: Duration| other.min(next)));
            } else if starting {
                files.plain(source)?;
            }
        }
    }
    Ok(again)
}

/// Where files go, and what they are made from.
struct Files<'a> {
    kubelet: &'a Kubelet,
    pod: &'a Arc<Value>,
    sandbox: &'a Sandbox,
    volume: &'a str,
    path: &'a Path,
    mode: &'a Value,
}

impl Files<'_> {
    async fn token(&self, source: &Value) -> Result<Duration, VolumeError> {
        let seconds = source["expirationSeconds"].as_u64().unwrap_or(HOUR);
        let life = Duration::from_secs(seconds) * 4 / 5;
        let file = text(source, "/path");
        // A path that leaves the volume is refused where it is written.
        let age = age(&self.path.join(file));
        if let Some(left) = age.and_then(|age| life.checked_sub(age)).filter(|left| !left.is_zero()) {
            return Ok(left);
        }
        let audience = text(source, "/audience");
        let audiences = if audience.is_empty() { json!([]) } else { json!([audience]) };
        let request = json!({"spec": {"audiences": audiences, "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name(self.pod), "uid": uid(self.pod)}}});
        let account = match text(self.pod, "/spec/serviceAccountName") {
            "" => "default",
            account => account,
        };
        match self.kubelet.api.request_token(namespace(self.pod), account, request).await {
            Ok(answer) => {
                self.write(
                    "configmap",
                    &json!({"data": {(file): answer["status"]["token"]}}),
                    &keyed(&[file]),
                )?;
                Ok(life)
            }
            // The old one may still be good.
            Err(error) if age.is_some() => {
                tracing::warn!(pod = uid(self.pod), %error, "a token is not renewed");
                Ok(RETRY)
            }
            Err(error) => Err(volumes::invalid(self.volume, &format!("failed to fetch token: {error}"))),
        }
    }

    fn plain(&self, source: &Value) -> Result<(), VolumeError> {
        if let Some(fields) = source.get("downwardAPI") {
            return self.fields(fields);
        }
        let (kind, cache, reference) = match (source.get("configMap"), source.get("secret")) {
            (Some(config_map), _) => ("configmap", &self.kubelet.config_maps, config_map),
            (None, Some(secret)) => ("secret", &self.kubelet.secrets, secret),
            (None, None) => return Err(VolumeError::NotSupported(self.volume.to_owned())),
        };
        match cache.get(namespace(self.pod), text(reference, "/name")) {
            Some(object) => self.write(kind, &object, reference),
            None if reference["optional"] == true => Ok(()),
            None => {
                let (volume, name) = (self.volume.to_owned(), text(reference, "/name").to_owned());
                Err(VolumeError::NotFound { volume, kind, name })
            }
        }
    }

    fn fields(&self, source: &Value) -> Result<(), VolumeError> {
        for item in source["items"].as_array().into_iter().flatten() {
            let file = text(item, "/path");
            let field = text(item, "/fieldRef/fieldPath");
            let value =
                match field.strip_prefix("metadata.").filter(|map| ["labels", "annotations"].contains(map)) {
                    Some(map) => Some(lines(&self.pod["metadata"][map])),
                    None => environment::field(self.kubelet, self.pod, self.sandbox, field),
                };
            let Some(value) = value else { return Err(VolumeError::NotSupported(self.volume.to_owned())) };
            self.write("configmap", &json!({"data": {(file): value}}), &keyed(&[file]))?;
        }
        Ok(())
    }

    fn write(&self, kind: &str, object: &Value, source: &Value) -> Result<(), VolumeError> {
        let mut source = source.clone();
        source["defaultMode"] = self.mode.clone();
        volumes::write_keys(self.volume, kind, object, &source, self.path)
    }
}

/// How long ago a file was written.
fn age(file: &Path) -> Option<Duration> {
    Some(std::fs::metadata(file).ok()?.modified().ok()?.elapsed().unwrap_or_default())
}

fn keyed(files: &[&str]) -> Value {
    let items: Vec<_> = files.iter().map(|file| json!({"key": file, "path": file})).collect();
    json!({"items": items})
}

/// Writes a map as upstream's downward API does: `key="value"`, a line each.
fn lines(map: &Value) -> String {
    let entries = map.as_object().into_iter().flatten();
    let lines: Vec<_> =
        entries.map(|(key, value)| format!("{key}={:?}", value.as_str().unwrap_or_default())).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_a_line_each() {
        assert_eq!(lines(&json!({"a": "1", "b": "x y"})), "a=\"1\"\nb=\"x y\"");
        assert_eq!(lines(&Value::Null), "");
    }
}
