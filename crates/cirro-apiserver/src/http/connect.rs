//! What is told of a connection to a pod, a service or a node: its options as an object.

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use super::Call;
use crate::admission::outside::{Operation, Part};
use crate::registry::Subresource;

const FLAGS: [&str; 4] = ["stdin", "stdout", "stderr", "tty"];

impl Call {
    /// Asks those who are to be asked about a connection; what they change of its options holds.
    pub(super) async fn admitted(mut self, subresource: Subresource) -> Result<Self, ApiError> {
        if !self.server.storage.asks_outside().await? {
            return Ok(self);
        }
        let options = self.connect_options(subresource);
        let part = Part {
            place: self.place(),
            subresource,
            operation: Operation::Connect,
            old: None,
            dry_run: false,
        };
        let admitted = self.server.storage.admit_sent(part, options.clone()).await?;
        if admitted != options && matches!(subresource, Subresource::Exec | Subresource::Attach) {
            self.take_options(&admitted);
        }
        Ok(self)
    }

    /// Asks those who are to be asked about a token.
    pub(super) async fn admit_token(&self, mut asked: Value) -> Result<Value, ApiError> {
        asked["apiVersion"] = "authentication.k8s.io/v1".into();
        asked["kind"] = "TokenRequest".into();
        self.admit_write(Subresource::Token, Operation::Create, None, asked).await
    }

    /// Asks those who are to be asked about the write of a part.
    pub(super) async fn admit_write(
        &self,
        subresource: Subresource,
        operation: Operation,
        old: Option<&Value>,
        new: Value,
    ) -> Result<Value, ApiError> {
        let part = Part { place: self.place(), subresource, operation, old, dry_run: self.query.dry_run()? };
        self.server.storage.admit_sent(part, new).await
    }

    /// Asks those who are to be asked about a change of the object itself through one of its subresources.
    pub(super) async fn admit_change(
        &self,
        subresource: Subresource,
        change: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<(), ApiError> {
        let storage = &self.server.storage;
        if storage.asks_outside().await? {
            let old = storage.get(self.place()).await?;
            let new = change(&old)?;
            self.admit_write(subresource, Operation::Update, Some(&old), new).await?;
        }
        Ok(())
    }

    /// Writes the query of a request as the object that upstream decodes it into.
    fn connect_options(&self, subresource: Subresource) -> Value {
        let kind = subresource.speaks().map_or("", |(_, _, kind)| kind);
        let mut options = json!({"kind": kind, "apiVersion": "v1"});
        match subresource {
            Subresource::Exec | Subresource::Attach => {
                for flag in FLAGS.into_iter().filter(|flag| self.query.flag(flag)) {
                    options[flag] = true.into();
                }
                if !self.query.get("container").is_empty() {
                    options["container"] = self.query.get("container").into();
                }
                let command = self.query.all("command");
                if subresource == Subresource::Exec && !command.is_empty() {
                    options["command"] = command.into();
                }
            }
            Subresource::PortForward => {
                let ports = self.query.all("ports");
                let ports = ports.iter().flat_map(|text| text.split(',')).filter_map(|one| one.parse().ok());
                let ports: Vec<i32> = ports.collect();
                if !ports.is_empty() {
                    options["ports"] = ports.into();
                }
            }
            Subresource::Proxy(_) if !self.behind.is_empty() => options["path"] = self.behind.clone().into(),
            _ => {}
        }
        options
    }

    /// Takes options that somebody changed.
    fn take_options(&mut self, options: &Value) {
        for flag in FLAGS {
            self.query.set(flag, [if options[flag] == true { "true" } else { "false" }.to_owned()]);
        }
        self.query.set("container", options["container"].as_str().map(str::to_owned));
        let command = options["command"].as_array().into_iter().flatten();
        self.query.set("command", command.filter_map(|word| word.as_str().map(str::to_owned)));
    }
}
