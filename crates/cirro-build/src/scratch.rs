//! Scratch space for a layer that never outlives the build.
//!
//! A [`Scratch`] is shared by the step and its blocking work; when the last of them lets go of a layer that was not
//! committed, the library is told to drop it: at once if somebody waits ([`Scratch::discard`]), else in a task of its
//! own on the runtime. Should the daemon die before that, the library drops it when it is next opened.

use std::sync::{Arc, Mutex, PoisonError};

use cirro_seams::build::{BuildFault, BuildLibrary, WorkingLayer};
use cirro_types::Digest;

/// A working layer with its end assured.
pub(crate) struct Scratch {
    library: Arc<dyn BuildLibrary>,
    layer: WorkingLayer,
    /// Whether the library has the layer back.
    settled: Mutex<bool>,
}

impl Scratch {
    /// Opens a working layer over these layers, the lowest first.
    pub(crate) async fn open(
        library: &Arc<dyn BuildLibrary>,
        below: &[Digest],
    ) -> Result<Arc<Self>, BuildFault> {
        let layer = library.open_layer(below.to_vec()).await?;
        Ok(Arc::new(Self { library: library.clone(), layer, settled: Mutex::new(false) }))
    }

    /// Returns where to read and write.
    pub(crate) fn layer(&self) -> &WorkingLayer {
        &self.layer
    }

    /// Makes it a layer of the library.
    pub(crate) async fn commit(&self) -> Result<Digest, BuildFault> {
        self.settle();
        self.library.commit_layer(self.layer.clone()).await
    }

    /// Throws it away. Nobody else may use it any more.
    pub(crate) async fn discard(&self) -> Result<(), BuildFault> {
        self.settle();
        self.library.drop_layer(self.layer.clone()).await
    }

    fn settle(&self) {
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if *self.settled.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (library, layer) = (self.library.clone(), self.layer.clone());
        // Nobody can wait in a destructor. The task ends by itself.
        runtime.spawn(async move {
            let key = layer.key.clone();
            if let Err(fault) = library.drop_layer(layer).await {
                tracing::warn!(layer = %key, error = %fault, "scratch layer left to the library");
            }
        });
    }
}
