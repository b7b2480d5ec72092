//! Generates the checked-in API description; README.md says from what and into what.

mod literal;
mod openapi;
mod protobuf;
mod types;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = here.join("../../crates/cirro-apiserver/data");
    let metadata = metadata(here)?;
    let mut definitions = openapi::read(&source(&metadata, "k8s-openapi")?.join("v1_33"))?;
    let messages = protobuf::read(&source(&metadata, "k8s-pb")?)?;
    openapi::mark(&mut definitions, &messages);
    let own: Map<String, Value> = serde_json::from_slice(&std::fs::read(data.join("own-kinds.json"))?)?;
    definitions.extend(own);
    let types = types::compact(&definitions, &messages)?;
    write(&data.join("definitions.json.gz"), &Value::Object(definitions))?;
    write(&data.join("types.json.gz"), &Value::Object(types))
}

fn metadata(here: &Path) -> Result<Value, Box<dyn Error>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--features=sources", "--manifest-path"])
        .arg(here.join("Cargo.toml"))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns the `src` directory of a package.
fn source(metadata: &Value, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let packages = metadata["packages"].as_array().ok_or("cargo metadata has no packages")?;
    let package = packages.iter().find(|package| package["name"] == name).ok_or("package not found")?;
    let manifest = package["manifest_path"].as_str().ok_or("package without manifest")?;
    Ok(Path::new(manifest).with_file_name("src"))
}

fn write(path: &Path, value: &Value) -> Result<(), Box<dyn Error>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&serde_json::to_vec(value)?)?;
    std::fs::write(path, encoder.finish()?)?;
    Ok(())
}

/// Returns every Rust file below a directory, sorted.
fn rust_files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
