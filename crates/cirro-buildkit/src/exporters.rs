//! What becomes of the image: names in the library, a push, or files at the client's.

mod files;

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_grpc::{Code, Status};
use cirro_types::{Digest, ImageReference};

use crate::backend::Backend;
use crate::messages::Exporter;
use crate::progress::Task;
use crate::session::Session;
use crate::status::Record;

/// Outputs of one build.
const MAX_EXPORTERS: usize = 16;

/// An output.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Output {
    /// Into the library, and to the registries of its names if it is to be pushed.
    Image { push: bool },
    /// The files of the image, in a directory of the client's.
    Local,
    /// The files of the image as a tar.
    Tar,
    /// The image as an archive.
    Archive,
}

/// The outputs of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    outputs: Vec<(usize, Output)>,
    /// Names of the image.
    pub(crate) names: Vec<ImageReference>,
}

/// What exporting works with.
pub(crate) struct Export<'a> {
    /// Does the work.
    pub(crate) backend: &'a Arc<dyn Backend>,
    /// Where it tells how far it is.
    pub(crate) record: &'a Arc<Record>,
    /// Who gets files.
    pub(crate) session: Option<&'a Session>,
}

impl Outputs {
    /// Reads what a client asks for.
    ///
    /// # Errors
    /// For kinds and options that are not there.
    pub(crate) fn read(exporters: &[Exporter]) -> Result<Self, Status> {
        if exporters.len() > MAX_EXPORTERS {
            return Err(Status::new(Code::InvalidArgument, format!("more than {MAX_EXPORTERS} outputs")));
        }
        let mut outputs = Self::default();
        for (index, exporter) in exporters.iter().enumerate() {
            let Some(output) = output(exporter)? else { continue };
            for name in exporter.attributes.get("name").into_iter().flat_map(|names| names.split(',')) {
                let invalid =
                    |_| Status::new(Code::InvalidArgument, format!("invalid reference format: {name}"));
                if !name.is_empty() && output != Output::Local && output != Output::Tar {
                    let name: ImageReference = name.parse().map_err(invalid)?;
                    if !outputs.names.contains(&name) {
                        outputs.names.push(name);
                    }
                }
            }
            outputs.outputs.push((index, output));
        }
        Ok(outputs)
    }

    /// Says whether the image stays in the library.
    fn keeps_image(&self) -> bool {
        self.outputs.iter().any(|(_, output)| matches!(output, Output::Image { .. }))
    }

    /// Returns the names that the image gets in the library.
    pub(crate) fn library_names(&self) -> Vec<ImageReference> {
        if self.keeps_image() { self.names.clone() } else { Vec::new() }
    }

    /// Gives the image out; returns what clients are told of it.
    ///
    /// # Errors
    /// As the client is to read it.
    pub(crate) async fn write(
        &self,
        export: &Export<'_>,
        image: Digest,
    ) -> Result<BTreeMap<String, String>, Status> {
        let mut told = BTreeMap::new();
        let written = async {
            for (index, output) in &self.outputs {
                match output {
                    Output::Image { push } => {
                        told.extend(self.image(export, image));
                        if *push {
                            self.push(export).await?;
                        }
                    }
                    Output::Local => export.local(*index, image).await?,
                    Output::Tar => export.tar(*index, image).await?,
                    Output::Archive => export.archive(*index, image, &self.names).await?,
                }
            }
            Ok(())
        };
        let written = written.await;
        if !self.keeps_image() {
            export.backend.forget(image).await;
        }
        written.map(|()| told)
    }

    /// Tells of an image that is in the library already: the builder puts it there.
    fn image(&self, export: &Export<'_>, image: Digest) -> BTreeMap<String, String> {
        let task = Task::start(export.record, "exporting to image");
        task.part("exporting layers", 0, true);
        task.part(&format!("writing image {image}"), 0, true);
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        for name in &names {
            task.part(&format!("naming to {name}"), 0, true);
        }
        task.done();
        let mut told = BTreeMap::from([
            ("containerimage.config.digest".to_owned(), image.to_string()),
            ("containerimage.digest".to_owned(), image.to_string()),
        ]);
        if !names.is_empty() {
            told.insert("image.name".into(), names.join(","));
        }
        told
    }

    async fn push(&self, export: &Export<'_>) -> Result<(), Status> {
        for name in &self.names {
            let task = Task::start(export.record, &format!("pushing {name} with docker"));
            let credentials = match export.session {
                Some(session) => session.credentials(&name.domain).await?,
                None => None,
            };
            let pushed = export.backend.push(name.clone(), credentials).await.map_err(Status::unknown);
            task.end(pushed)?;
        }
        Ok(())
    }
}

fn output(exporter: &Exporter) -> Result<Option<Output>, Status> {
    let flag = |name: &str| {
        let text = exporter.attributes.get(name).map(String::as_str).unwrap_or_default();
        ["1", "t", "true", "True", "TRUE"].contains(&text)
    };
    if flag("push-by-digest") {
        return Err(Status::unsupported("pushing by digest"));
    }
    if let Some(compression) = exporter.attributes.get("compression")
        && !["", "gzip"].contains(&compression.as_str())
    {
        return Err(Status::unsupported(format!("the compression {compression}")));
    }
    Ok(Some(match exporter.kind.as_str() {
        "" | "cacheonly" => return Ok(None),
        "moby" | "image" => Output::Image { push: flag("push") },
        "local" => Output::Local,
        "tar" => Output::Tar,
        "docker" => Output::Archive,
        "oci" if exporter.attributes.get("tar").is_some_and(|text| text == "false") => {
            return Err(Status::unsupported("a directory as the oci output"));
        }
        "oci" => Output::Archive,
        kind => return Err(Status::unsupported(format!("the output {kind}"))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter(kind: &str, attributes: &[(&str, &str)]) -> Exporter {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Exporter { kind: kind.into(), attributes: attributes.collect() }
    }

    #[test]
    fn names_go_to_the_library_with_an_image_only() {
        let names = [("name", "a,b:1,a")];
        let image = Outputs::read(&[exporter("moby", &names)]).unwrap();
        assert_eq!(image.library_names().len(), 2);
        let archive = Outputs::read(&[exporter("docker", &names)]).unwrap();
        assert_eq!((archive.library_names().len(), archive.names.len()), (0, 2));
        assert_eq!(Outputs::read(&[exporter("cacheonly", &[])]).unwrap(), Outputs::default());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for wrong in [
            exporter("moby", &[("name", "UPPER")]),
            exporter("image", &[("push", "true"), ("push-by-digest", "true")]),
            exporter("oci", &[("tar", "false")]),
            exporter("image", &[("compression", "estargz")]),
            exporter("gha", &[]),
        ] {
            assert!(Outputs::read(std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
