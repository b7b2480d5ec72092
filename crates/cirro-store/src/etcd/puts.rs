//! Bare puts: what etcd itself does, to measure it beside our stores.

use std::sync::Arc;

use bytes::Bytes;

use super::client::Client;
use super::connection::Endpoint;
use super::messages::{Done, PutRequest};
use crate::StoreError;

/// A client of etcd that writes plain keys.
pub struct EtcdClient(Client);

impl EtcdClient {
    /// A client of these members; it connects when it is used.
    pub fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self(Client::new(endpoints, tls))
    }

    /// Writes a key durably.
    ///
    /// # Errors
    /// As [`crate::ObjectStore::commit`] of an [`crate::EtcdStore`].
    pub async fn put(&self, key: &str, value: Bytes) -> Result<(), StoreError> {
        let request = PutRequest { key: key.to_owned().into(), value };
        self.0.call::<Done>("/etcdserverpb.KV/Put", &request).await?;
        Ok(())
    }
}
