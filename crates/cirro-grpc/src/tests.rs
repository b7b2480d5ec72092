//! A client and a server over a pipe.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::mpsc;

use super::client::{Channel, connect};
use super::server::{Call, Service, serve};
use super::*;

const LIMITS: Limits =
    Limits { message: 16 << 20, stream_window: 1 << 20, connection_window: 8 << 20, headers: 1 << 20 };

#[derive(Clone, PartialEq, Message)]
struct BytesMessage {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

struct Echo(mpsc::UnboundedSender<()>);

/// Tells when the call that holds it is dropped.
struct Guard(mpsc::UnboundedSender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Service for Echo {
    fn call(&self, mut call: Call) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async move {
            match call.path.as_str() {
                "/echo" => {
                    while let Some(message) = call.messages.next::<BytesMessage>().await? {
                        call.answers.send(&message).await?;
                    }
                    Ok(())
                }
                "/twice" => {
                    let message: BytesMessage = call.question().await?;
                    call.answers.send(&message).await?;
                    match message.data.is_empty() {
                        true => call.answers.send(&message).await,
                        false => Err(Status::unknown("after the answer")),
                    }
                }
                "/hang" => {
                    let _guard = Guard(self.0.clone());
                    std::future::pending().await
                }
                _ => {
                    let details = vec![Any { type_url: "x".into(), value: Bytes::from_static(b"{}") }];
                    Err(Status { code: 2, message: "grün 100%\n".into(), details })
                }
            }
        })
    }
}

async fn echo() -> (Channel, mpsc::UnboundedReceiver<()>, tokio::task::JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (dropped, receiver) = mpsc::unbounded_channel();
    tokio::spawn(serve(far, Arc::new(Echo(dropped)), LIMITS));
    let (channel, connection) = connect(near, LIMITS).await.unwrap();
    let task = tokio::spawn(async move { drop(connection.await) });
    (channel, receiver, task)
}

#[tokio::test]
async fn large_messages_flow_both_ways_and_too_large_ones_do_not() {
    let (channel, _dropped, _task) = echo().await;
    let mut exchange = channel.start("/echo", &[]).await.unwrap();
    for size in [0, 1, 100_000, 5 << 20] {
        let sent = BytesMessage { data: vec![7; size].into() };
        exchange.questions.send(&sent).await.unwrap();
        let echoed: BytesMessage = exchange.answers.next().await.unwrap().unwrap();
        assert_eq!(echoed.data.len(), size);
    }
    exchange.questions.end();
    assert_eq!(exchange.answers.next::<BytesMessage>().await.unwrap(), None);

    let huge = BytesMessage { data: vec![0; LIMITS.message + 1].into() };
    let refused = channel.ask::<_, BytesMessage>("/echo", &[], &huge).await.unwrap_err();
    assert!(refused.is(Code::ResourceExhausted) || refused.is(Code::Unavailable), "{refused:?}");
}

#[tokio::test]
async fn an_error_arrives_with_its_text_and_details() {
    let (channel, _dropped, _task) = echo().await;
    let error = channel.ask::<_, Empty>("/nothing", &[], &Empty::default()).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (2, "grün 100%\n"));
    assert_eq!(error.details[0].value.as_ref(), b"{}");
}

#[tokio::test]
async fn a_call_ends_when_its_caller_gives_up_or_is_gone() {
    let (channel, mut dropped, task) = echo().await;
    let seconds = Duration::from_secs(30);
    for abort in [false, true] {
        let mut exchange = channel.start("/hang", &[]).await.unwrap();
        exchange.questions.send(&Empty::default()).await.unwrap();
        // The call is under way once the server has answered something else.
        channel.ask::<_, BytesMessage>("/echo", &[], &BytesMessage::default()).await.unwrap();
        if abort {
            task.abort();
        }
        drop(exchange);
        tokio::time::timeout(seconds, dropped.recv()).await.expect("the call was dropped").unwrap();
    }
}

#[tokio::test]
async fn an_answer_counts_only_if_the_call_ends_well_after_it() {
    let (channel, _dropped, _task) = echo().await;
    let question = BytesMessage { data: Bytes::from_static(b"x") };
    let failed = channel.ask::<_, BytesMessage>("/twice", &[], &question).await;
    assert_eq!(failed.unwrap_err(), Status::unknown("after the answer"));
    let twice = channel.ask::<_, BytesMessage>("/twice", &[], &BytesMessage::default()).await;
    assert!(twice.unwrap_err().is(Code::Internal));
}
