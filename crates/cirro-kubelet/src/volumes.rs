//! Volumes of pods: emptyDir, hostPath, config maps and secrets, projected ones, as directories that are bound in.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cirro_client::{namespace, text, uid};
use cirro_seams::container::{Mount, MountSource};
use cirro_types::Quantity;
use serde_json::Value;

use crate::Kubelet;

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume \"{volume}\": {kind} \"{name}\" not found")]
    NotFound { volume: String, kind: &'static str, name: String },
    #[error("volume \"{0}\": this type is not supported yet")]
    NotSupported(String),
    #[error("volume \"{volume}\": {problem}")]
    Invalid { volume: String, problem: String },
    #[error("volume \"{volume}\"")]
    Io {
        volume: String,
        #[source]
        source: io::Error,
    },
}

/// Makes the volumes that a container mounts and returns the mounts.
pub(crate) fn mounts(kubelet: &Kubelet, pod: &Value, container: &Value) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let wanted = text(mount, "/name");
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let Some(volume) = volumes.into_iter().find(|volume| volume["name"] == wanted) else {
            return Err(invalid(wanted, "the pod has no such volume"));
        };
        if !text(mount, "/subPath").is_empty() || !text(mount, "/subPathExpr").is_empty() {
            return Err(invalid(wanted, "subPath is not supported yet"));
        }
        let (source, read_only) = source(kubelet, pod, volume)?;
        mounts.push(Mount {
            source,
            target: text(mount, "/mountPath").to_owned(),
            read_only: read_only || mount["readOnly"] == true,
            options: Default::default(),
        });
    }
    Ok(mounts)
}

/// Removes the volumes of a pod that is gone.
pub(crate) fn remove(kubelet: &Kubelet, pod_uid: &str) -> io::Result<()> {
    match fs::remove_dir_all(directory(kubelet, pod_uid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns where a volume's files are.
pub(crate) fn path(kubelet: &Kubelet, pod: &Value, volume: &str) -> PathBuf {
    directory(kubelet, uid(pod)).join("volumes").join(volume)
}

fn directory(kubelet: &Kubelet, pod_uid: &str) -> PathBuf {
    kubelet.options.data_dir.join("pods").join(pod_uid)
}

/// Refuses a volume.
pub(crate) fn invalid(volume: &str, problem: &str) -> VolumeError {
    VolumeError::Invalid { volume: volume.to_owned(), problem: problem.to_owned() }
}

fn source(kubelet: &Kubelet, pod: &Value, volume: &Value) -> Result<(MountSource, bool), VolumeError> {
    let wanted = text(volume, "/name");
    let io = |source| VolumeError::Io { volume: wanted.to_owned(), source };
    let path = path(kubelet, pod, wanted);
    if volume.get("projected").is_some() {
        // Its files are there before the pod's containers start.
        return Ok((MountSource::Bind { path, create: false }, true));
    }
    if let Some(empty) = volume.get("emptyDir") {
        if empty["medium"] == "Memory" {
            let size = text(empty, "/sizeLimit").parse::<Quantity>().ok();
            let size = size.map(|size| size.units().unsigned_abs());
            return Ok((MountSource::Tmpfs { size, mode: Some(0o777) }, false));
        }
        make_directory(&path, 0o777).map_err(io)?;
        return Ok((MountSource::Bind { path, create: false }, false));
    }
    if let Some(host) = volume.get("hostPath") {
        return host_path(wanted, host).map(|source| (source, false));
    }
    let (kind, cache, reference) = match (volume.get("configMap"), volume.get("secret")) {
        (Some(config_map), _) => ("configmap", &kubelet.config_maps, (config_map, "/name")),
        (None, Some(secret)) => ("secret", &kubelet.secrets, (secret, "/secretName")),
        (None, None) => return Err(VolumeError::NotSupported(wanted.to_owned())),
    };
    let object = cache.get(namespace(pod), text(reference.0, reference.1));
    make_directory(&path, 0o755).map_err(io)?;
    match object {
        Some(object) => write_keys(wanted, kind, &object, reference.0, &path)?,
        None if reference.0["optional"] == true => {}
        None => {
            let name = text(reference.0, reference.1).to_owned();
            return Err(VolumeError::NotFound { volume: wanted.to_owned(), kind, name });
        }
    }
    Ok((MountSource::Bind { path, create: false }, true))
}

fn host_path(volume: &str, host: &Value) -> Result<MountSource, VolumeError> {
    let path = PathBuf::from(text(host, "/path"));
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(invalid(volume, "hostPath must be absolute and without `..`"));
    }
    let kind = text(host, "/type");
    let fits = match kind {
        "" | "DirectoryOrCreate" | "FileOrCreate" => true,
        "Directory" => path.is_dir(),
        "File" => path.is_file(),
        _ => path.exists(),
    };
    if !fits {
        return Err(invalid(
            volume,
            &format!("hostPath type check failed: {} is not a {kind}", path.display()),
        ));
    }
    if kind == "FileOrCreate" && !path.exists() {
        fs::File::create(&path).map_err(|source| VolumeError::Io { volume: volume.to_owned(), source })?;
    }
    Ok(MountSource::Bind { path, create: kind == "DirectoryOrCreate" })
}

/// Writes the keys of a config map or secret as files; `items` chooses and renames.
pub(crate) fn write_keys(
    volume: &str,
    kind: &str,
    object: &Value,
    source: &Value,
    path: &Path,
) -> Result<(), VolumeError> {
    let mode = source["defaultMode"].as_u64().and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
    let data = object["data"].as_object().into_iter().flatten();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (key, value) in data {
        let value = value.as_str().unwrap_or_default();
        let bytes = if kind == "secret" { STANDARD.decode(value).unwrap_or_default() } else { value.into() };
        files.push((key.clone(), bytes));
    }
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        files.push((key.clone(), STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()));
    }
    let items = source["items"].as_array();
    for (key, bytes) in files {
        let target = match items {
            None => Some(key.clone()),
            Some(items) => items
                .iter()
                .find(|item| item["key"] == key.as_str())
                .map(|item| text(item, "/path").to_owned()),
        };
        let Some(target) = target else { continue };
        let inside = Path::new(&target).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || target.is_empty() {
            return Err(invalid(volume, &format!("path `{target}` must be relative and without `..`")));
        }
        let io = |source| VolumeError::Io { volume: volume.to_owned(), source };
        let file = path.join(&target);
        if let Some(parent) = file.parent() {
            make_directory(parent, 0o755).map_err(io)?;
        }
        let draft = file.with_extension("cirro-part");
        fs::write(&draft, bytes).map_err(io)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(mode)).map_err(io)?;
        fs::rename(&draft, &file).map_err(io)?;
    }
    Ok(())
}

/// Makes a directory of a volume, whatever the umask.
pub(crate) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_become_files_and_never_leave_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        let object = json!({"data": {"a": "one", "b": "two"}});
        write_keys(
            "v",
            "configmap",
            &object,
            &json!({"items": [{"key": "a", "path": "sub/x"}]}),
            directory.path(),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("sub/x")).unwrap(), "one");
        assert!(!directory.path().join("b").exists());
        for path in ["../x", "/etc/x", ""] {
            let source = json!({"items": [{"key": "a", "path": path}]});
            assert!(write_keys("v", "configmap", &object, &source, directory.path()).is_err(), "{path}");
        }
    }

    #[test]
    fn secrets_are_decoded() {
        let directory = tempfile::tempdir().unwrap();
        write_keys(
            "v",
            "secret",
            &json!({"data": {"k": "aGk="}}),
            &json!({"defaultMode": 0o400}),
            directory.path(),
        )
        .unwrap();
        let file = directory.path().join("k");
        assert_eq!(fs::read_to_string(&file).unwrap(), "hi");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn host_paths_are_checked() {
        assert!(host_path("v", &json!({"path": "relative"})).is_err());
        assert!(host_path("v", &json!({"path": "/a/../b"})).is_err());
        assert!(host_path("v", &json!({"path": "/proc/cpuinfo", "type": "Directory"})).is_err());
        assert!(host_path("v", &json!({"path": "/tmp", "type": "Directory"})).is_ok());
    }
}
