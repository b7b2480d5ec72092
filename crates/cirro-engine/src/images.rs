//! The image library, for callers that do not block.

pub(crate) mod registry;

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use cirro_image::{Image, ImageError, Library, Loaded, Removed};
use cirro_types::{Digest, ImageConfig, ImageReference};
use tokio::sync::mpsc;

use crate::Engine;
use crate::error::{EngineError, blocking, chain};

const CHUNK: usize = 256 << 10;
pub(crate) const CHANNEL: usize = 8;

impl Engine {
    async fn on_library<T, F>(&self, work: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&Library) -> Result<T, cirro_image::ImageError> + Send + 'static,
    {
        let library = self.shared.library.clone();
        blocking(move || Ok(work(&library)?)).await
    }

    fn emit_image(&self, action: &str, id: &str, name: &str) {
        self.shared.events.emit("image", action, id, &[("name", name)]);
    }

    /// Lists images.
    pub async fn images(&self) -> Result<Vec<Image>, EngineError> {
        self.on_library(Library::list).await
    }

    /// Finds an image.
    pub async fn image(&self, name: &str) -> Result<Image, EngineError> {
        let name = name.to_owned();
        self.on_library(move |library| library.find(&name)).await
    }

    /// Returns the size of each layer of an image, the lowest first.
    pub async fn layer_sizes(&self, image: &Image) -> Result<Vec<u64>, EngineError> {
        let config = image.config.clone();
        self.on_library(move |library| library.layer_sizes(&config.rootfs.diff_ids)).await
    }

    /// Lists the layers in the build cache.
    pub async fn build_cache(&self) -> Result<Vec<cirro_image::CachedLayer>, EngineError> {
        self.on_library(Library::cached_layers).await
    }

    /// Names an image.
    pub async fn tag_image(&self, name: &str, tag: &ImageReference) -> Result<(), EngineError> {
        let (name, reference) = (name.to_owned(), tag.clone());
        let id = self
            .on_library(move |library| {
                let image = library.find(&name)?;
                library.tag(&image.id, &reference)?;
                Ok(image.id)
            })
            .await?;
        self.emit_image("tag", &id.to_string(), &tag.familiar());
        Ok(())
    }

    /// Says which container or machine uses an image.
    fn image_users(&self) -> impl Fn(&Digest) -> Option<String> + use<> {
        let containers = self.containers();
        let instances = self.instance_images();
        move |id| {
            let id = id.to_string();
            let container = containers.iter().find(|container| container.image_id == id);
            let machine = || instances.iter().find(|(_, image)| *image == id);
            match container {
                Some(container) => {
                    let short: String = container.id.chars().take(12).collect();
                    Some(if container.pid.is_some() { format!("running {short}") } else { short })
                }
                None => machine().map(|(uid, _)| uid.clone()),
            }
        }
    }

    /// Removes a name or image.
    pub async fn remove_image(&self, name: &str, force: bool) -> Result<Vec<Removed>, EngineError> {
        let (name, in_use) = (name.to_owned(), self.image_users());
        let removed = self.on_library(move |library| library.remove(&name, force, &in_use)).await?;
        self.emit_removed(&removed);
        self.collect_soon();
        Ok(removed)
    }

    /// Removes images nobody needs that `wanted` takes; returns what went and bytes given back.
    pub async fn prune_images(
        &self,
        all: bool,
        wanted: impl Fn(&Image) -> bool + Send + 'static,
    ) -> Result<(Vec<Removed>, u64), EngineError> {
        let in_use = self.image_users();
        let (removed, bytes) = self.on_library(move |library| library.prune(all, &wanted, &in_use)).await?;
        self.emit_removed(&removed);
        self.collect_soon();
        Ok((removed, bytes))
    }

    fn emit_removed(&self, removed: &[Removed]) {
        for item in removed {
            match item {
                Removed::Untagged(name) => self.emit_image("untag", name, name),
                Removed::Deleted(id) => self.emit_image("delete", &id.to_string(), &id.to_string()),
            }
        }
    }

    /// Loads an archive from a stream of bytes; lines for the person who waits go to `progress`.
    pub async fn load_images(
        &self,
        archive: mpsc::Receiver<Result<Bytes, String>>,
        progress: mpsc::Sender<String>,
    ) -> Result<Vec<Loaded>, EngineError> {
        let loaded = self
            .on_library(move |library| {
                let mut archive = ChannelReader::new(archive);
                // Somebody who does not listen any more still gets the images.
                library.load(&mut archive, &mut |line| drop(progress.blocking_send(line)))
            })
            .await
            .inspect_err(|_| self.collect_soon())?;
        for image in &loaded {
            let name = image.tags.first().map(ImageReference::familiar);
            self.emit_image("load", &image.id.to_string(), &name.unwrap_or_else(|| image.id.to_string()));
        }
        Ok(loaded)
    }

    /// Imports a root filesystem tar.
    pub async fn import_image(
        &self,
        tar: mpsc::Receiver<Result<Bytes, String>>,
        config: ImageConfig,
        tag: Option<ImageReference>,
    ) -> Result<Digest, EngineError> {
        let work =
            move |library: &Library| library.import(&mut ChannelReader::new(tar), config, tag.as_ref());
        let id = self.on_library(work).await.inspect_err(|_| self.collect_soon())?;
        self.emit_image("import", &id.to_string(), &id.to_string());
        Ok(id)
    }

    /// Saves images; unknown names fail before the first byte.
    pub async fn save_images(
        &self,
        names: Vec<String>,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, EngineError> {
        let names = Arc::new(names);
        let checked = names.clone();
        self.on_library(move |library| library.check_names(&checked)).await?;
        Ok(self.pieces(move |library, archive| library.save(&names, archive)))
    }

    /// Saves one image under these names, whether it has them or not.
    pub fn save_image_as(
        &self,
        image: Digest,
        names: Vec<ImageReference>,
    ) -> mpsc::Receiver<Result<Bytes, String>> {
        self.pieces(move |library, archive| library.save_as(&image, &names, archive))
    }

    /// Returns the unpacked layers of an image, the top one first.
    pub async fn image_layers(&self, image: &Image) -> Result<Vec<std::path::PathBuf>, EngineError> {
        let diff_ids = image.config.rootfs.diff_ids.clone();
        self.on_library(move |library| library.layer_dirs(&diff_ids)).await
    }

    /// Passes on what is written to an archive.
    fn pieces(
        &self,
        write: impl FnOnce(&Library, &mut dyn Write) -> Result<(), ImageError> + Send + 'static,
    ) -> mpsc::Receiver<Result<Bytes, String>> {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let library = self.shared.library.clone();
        self.shared.tasks.spawn_blocking(move || {
            let mut writer = ChannelWriter::new(sender.clone());
            let saved = write(&library, &mut writer).map_err(|error| chain(&error));
            let flushed = saved.and_then(|()| writer.flush().map_err(|error| error.to_string()));
            if let Err(error) = flushed {
                let _ = sender.blocking_send(Err(error));
            }
        });
        receiver
    }
}

/// Reads what comes through a channel; for blocking readers. An error in it is one of the reader, and the last.
pub(crate) struct ChannelReader {
    channel: mpsc::Receiver<Result<Bytes, String>>,
    rest: Bytes,
    broken: Option<String>,
}

impl ChannelReader {
    pub(crate) fn new(channel: mpsc::Receiver<Result<Bytes, String>>) -> Self {
        Self { channel, rest: Bytes::new(), broken: None }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            if let Some(reason) = &self.broken {
                return Err(std::io::Error::other(reason.clone()));
            }
            match self.channel.blocking_recv() {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(reason)) => self.broken = Some(reason),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Sends what is written through a channel, in large pieces.
pub(crate) struct ChannelWriter {
    sender: mpsc::Sender<Result<Bytes, String>>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    pub(crate) fn new(sender: mpsc::Sender<Result<Bytes, String>>) -> Self {
        Self { sender, buffer: Vec::with_capacity(CHUNK) }
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)));
        self.sender.blocking_send(Ok(bytes)).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_through_the_channels_whole() {
        let (sender, receiver) = mpsc::channel(2);
        let reader = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            ChannelReader::new(receiver).read_to_end(&mut all).unwrap();
            all
        });
        for chunk in ["ab", "", "cde"] {
            sender.send(Ok(Bytes::from(chunk))).await.unwrap();
        }
        drop(sender);
        assert_eq!(reader.await.unwrap(), b"abcde");

        let (sender, receiver) = mpsc::channel(2);
        sender.send(Ok(Bytes::from("ab"))).await.unwrap();
        sender.send(Err("reset".into())).await.unwrap();
        drop(sender);
        let broken = tokio::task::spawn_blocking(move || {
            let mut reader = ChannelReader::new(receiver);
            let first = reader.read_to_end(&mut Vec::new()).unwrap_err();
            // A reader that tries again must not take the break for the end.
            (first.to_string(), reader.read(&mut [0]).is_err())
        });
        assert_eq!(broken.await.unwrap(), ("reset".to_owned(), true));

        let (sender, mut receiver) = mpsc::channel(2);
        let data = vec![7; CHUNK + 10];
        let writer = tokio::task::spawn_blocking(move || {
            let mut writer = ChannelWriter::new(sender);
            writer.write_all(&data).unwrap();
            writer.write_all(b"end").unwrap();
            writer.flush().unwrap();
        });
        let mut total = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            total.extend_from_slice(&chunk.unwrap());
        }
        writer.await.unwrap();
        assert_eq!(total.len(), CHUNK + 13);
        assert!(total.ends_with(b"end"));
    }
}
