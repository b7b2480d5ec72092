//! Moves all objects of an embedded store into etcd.
//!
//! The store in etcd is marked as being filled before the first object, and as ready after the last: until then
//! nobody opens it, and a move that was interrupted begins anew. Its revisions go on above those of the embedded
//! store, so that whoever watched or listed there is told to begin again.

use super::client::Client;
use super::layout::{self, Layout, Meta};
use super::messages::*;
use super::{EtcdOptions, offset_for};
use crate::{EmbeddedStore, ObjectStore as _, Record, StoreError};

/// Objects, and bytes, of one transaction.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 1024 * 1024;

/// Moves everything; returns how many objects there are in etcd. What is done already is not done again.
///
/// # Errors
/// [`StoreError::Invalid`] if there is another store's data under the prefix; [`StoreError::Damaged`] if an
/// object of the embedded store is. After an error the embedded store is as it was and the move can be begun again.
pub async fn fill(options: &EtcdOptions, from: &EmbeddedStore) -> Result<usize, StoreError> {
    let client = Client::new(options.endpoints.clone(), options.tls.clone());
    let listing = from.list("", None, 0, 0).await?;
    let (found, mut seen, newest) = layout::load_meta(&client, &options.prefix).await?;
    match found {
        Some(Meta { filling: false, .. }) if done(&client, options, &found, &listing.records).await? => {
            return Ok(listing.records.len());
        }
        Some(Meta { filling: false, .. }) => {
            return Err(StoreError::Invalid(format!(
                "`{}` in etcd has a store already, which is not this one",
                options.prefix
            )));
        }
        Some(_) => {}
        None if is_empty(&client, &options.prefix).await? => {}
        None => {
            return Err(StoreError::Invalid(format!(
                "`{}` in etcd has keys of somebody else",
                options.prefix
            )));
        }
    }
    let offset = offset_for(listing.revision + 1, newest);
    let meta = Meta { offset, filling: true };
    let taken =
        || StoreError::Invalid(format!("`{}` in etcd is being changed by somebody else", options.prefix));
    if !layout::write_meta(&client, &options.prefix, meta, seen).await? {
        return Err(taken());
    }
    let layout = Layout::new(&options.prefix, offset);
    clear(&client, &layout).await?;
    for batch in batches(&listing.records) {
        put(&client, &layout, batch).await?;
    }
    (_, seen, _) = layout::load_meta(&client, &options.prefix).await?;
    let ready = Meta { offset, filling: false };
    if !layout::write_meta(&client, &options.prefix, ready, seen).await? {
        return Err(taken());
    }
    Ok(listing.records.len())
}

/// Whether a store that is ready is what an earlier move made of these records, not used since.
async fn done(
    client: &Client,
    options: &EtcdOptions,
    meta: &Option<Meta>,
    records: &[Record],
) -> Result<bool, StoreError> {
    let Some(meta) = meta else { return Ok(false) };
    let (_, found) = super::follow::load(client, &Layout::new(&options.prefix, meta.offset)).await?;
    let same = |(one, other): (&Record, &Record)| one.key == other.key && one.value == other.value;
    Ok(found.len() == records.len() && found.iter().zip(records).all(same))
}

async fn is_empty(client: &Client, prefix: &str) -> Result<bool, StoreError> {
    let (key, range_end) = Layout::new(prefix, 0).range();
    let request = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
    let answer: RangeResponse = client.call("/etcdserverpb.KV/Range", &request).await?;
    Ok(answer.count == 0)
}

async fn clear(client: &Client, layout: &Layout) -> Result<(), StoreError> {
    let (key, range_end) = layout.range();
    let request = DeleteRangeRequest { key, range_end };
    client.call::<Done>("/etcdserverpb.KV/DeleteRange", &request).await?;
    Ok(())
}

async fn put(client: &Client, layout: &Layout, batch: &[Record]) -> Result<(), StoreError> {
    let put = |record: &Record| {
        Request::Put(PutRequest { key: layout.key(&record.key), value: record.value.clone() }).into()
    };
    let request = TxnRequest { success: batch.iter().map(put).collect(), ..TxnRequest::default() };
    client.call::<TxnResponse>("/etcdserverpb.KV/Txn", &request).await?;
    Ok(())
}

/// Cuts the records into transactions; an object that is larger than one goes alone.
fn batches(mut records: &[Record]) -> impl Iterator<Item = &[Record]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = records.iter().take(BATCH).take_while(|record| {
            bytes += record.key.len() + record.value.len();
            bytes <= BATCH_BYTES
        });
        let count = fitting.count().max(1).min(records.len());
        let (batch, rest) = records.split_at(count);
        records = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn batches_are_bounded_and_leave_nothing_out() {
        let record = |size: usize| Record {
            key: "/k".into(),
            value: Bytes::from(vec![0; size]),
            revision: 1,
            create_revision: 1,
            version: 1,
        };
        let mut records = vec![record(10); 250];
        records.push(record(BATCH_BYTES * 2));
        records.extend(vec![record(BATCH_BYTES / 2 - 10); 3]);
        let sizes: Vec<_> = batches(&records).map(<[Record]>::len).collect();
        assert_eq!(sizes, [100, 100, 50, 1, 2, 1]);
        assert_eq!(batches(&[]).count(), 0);
    }
}
