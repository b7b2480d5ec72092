//! Drives the Kubernetes API that `KUBECONFIG` names with kube-rs; prints `PART ok` for each part that holds.
//! With `FORWARD` in the environment it also asks through a forwarded port.

mod objects;
mod operator;
mod watching;
mod workload;

use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;

/// How long anything may take that the cloud does by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// Looks again and again until `look` finds something.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.with_context(|| format!("waited for {what}"))?
}

/// What a call says that must be refused.
fn refused<T>(result: Result<T, kube::Error>) -> Result<kube::core::Status> {
    match result {
        Ok(_) => anyhow::bail!("it was not refused"),
        Err(kube::Error::Api(status)) => Ok(*status),
        Err(error) => Err(error.into()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::try_default().await?;
    objects::discovery(&client).await.context("discovery")?;
    println!("discovery ok");
    objects::objects(&client).await.context("objects")?;
    println!("objects ok");
    watching::watching(&client).await.context("watching")?;
    println!("watching ok");
    watching::reflecting(&client).await.context("reflecting")?;
    println!("reflecting ok");
    operator::operator(&client).await.context("operator")?;
    println!("operator ok");
    workload::workload(&client).await.context("workload")?;
    println!("workload ok");
    if std::env::var_os("FORWARD").is_some() {
        workload::forwarding(&client).await.context("forwarding")?;
        println!("forwarding ok");
    }
    workload::evicting(&client).await.context("evicting")?;
    println!("evicting ok");
    Ok(())
}
