//! Reading containers' logs.

use cirro_container::{LogEntry, LogQuery, read_log};
use tokio::sync::mpsc;

use crate::Engine;
use crate::error::EngineError;

impl Engine {
    /// Reads its log.
    pub async fn container_logs(
        &self,
        name: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogEntry>, EngineError> {
        let (path, ended) = {
            let table = self.table();
            let id = table.find(name)?;
            let entry = table.get(id).ok_or_else(|| EngineError::no_container(name))?;
            let container = &entry.record.container;
            if !container.spec.log.keep {
                let text = "configured logging driver does not support reading";
                return Err(EngineError::NotSupported(text.into()));
            }
            (container.log_path.clone(), entry.ended.subscribe())
        };
        Ok(read_log(&path, query, ended))
    }
}
