//! The daemon's side of `cirro build`.

use std::collections::BTreeMap;

use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use cirro_build::{BuildEvent, BuildRequest};
use cirro_engine::BuildContext;
use cirro_seams::build::StepLimits;
use cirro_seams::container::Resources;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use tokio::sync::mpsc;

use super::order::{MAX_ORDER, Order, Told};
use crate::control::Controls;

/// Pieces of a context that wait for the engine.
const PIECES: usize = 16;

type Fault = (StatusCode, String);

/// Builds an image. When the client leaves, the build stops.
pub(crate) async fn build(
    State(controls): State<Controls>,
    request: Request<Body>,
) -> Result<Response, Fault> {
    let mut body = request.into_body().into_data_stream();
    let (order, rest) = read_order(&mut body).await?;
    let remote = order.remote.clone();
    let context = match remote {
        Some(address) => BuildContext::Remote(address),
        None => {
            let (sender, pieces) = mpsc::channel(PIECES);
            tokio::spawn(pass_on(rest, body, sender));
            BuildContext::Upload(pieces)
        }
    };
    let request = request_of(order)?;
    let events =
        controls.engine.build_image(context, request).await.map_err(|error| refused(error.to_string()))?;
    let lines =
        futures_util::stream::unfold(events, |mut events| async { Some((events.recv().await?, events)) });
    let lines = lines.filter_map(|event| std::future::ready(told(event).map(line)));
    Ok(Response::new(Body::from_stream(lines)))
}

fn refused(reason: impl Into<String>) -> Fault {
    (StatusCode::BAD_REQUEST, reason.into())
}

/// Reads the order at the head of the body; returns it with what was read of the context.
async fn read_order(body: &mut BodyDataStream) -> Result<(Order, Bytes), Fault> {
    let mut head = BytesMut::new();
    fill(&mut head, body, 4).await?;
    let length = u32::from_be_bytes(head.split_to(4)[..].try_into().expect("four bytes were read")) as usize;
    if length > MAX_ORDER {
        return Err(refused(format!("an order of more than {MAX_ORDER} bytes")));
    }
    fill(&mut head, body, length).await?;
    let document = head.split_to(length);
    let order = serde_json::from_slice(&document).map_err(|error| refused(format!("the order: {error}")))?;
    Ok((order, head.freeze()))
}

async fn fill(head: &mut BytesMut, body: &mut BodyDataStream, length: usize) -> Result<(), Fault> {
    while head.len() < length {
        match body.next().await {
            Some(Ok(bytes)) => head.extend_from_slice(&bytes),
            Some(Err(error)) => return Err(refused(format!("the request was broken off: {error}"))),
            None => return Err(refused("the request ends before its order does")),
        }
    }
    Ok(())
}

async fn pass_on(first: Bytes, mut body: BodyDataStream, sender: mpsc::Sender<Result<Bytes, String>>) {
    if sender.send(Ok(first)).await.is_err() {
        return;
    }
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| format!("the context was broken off: {error}"));
        let broken = piece.is_err();
        if sender.send(piece).await.is_err() || broken {
            return;
        }
    }
}

fn request_of(order: Order) -> Result<BuildRequest, Fault> {
    let tag = |tag: &String| tag.parse().map_err(|_| refused(format!("{tag}: invalid reference format")));
    Ok(BuildRequest {
        dockerfile: order.dockerfile,
        dockerfile_text: order.dockerfile_text,
        ignore_text: order.ignore_text,
        origin: order.origin,
        tags: order.tags.iter().map(tag).collect::<Result<_, _>>()?,
        build_args: order.build_args,
        labels: order.labels,
        target: order.target,
        pull: order.pull,
        no_cache: order.no_cache,
        network: order.network,
        extra_hosts: order.extra_hosts,
        limits: StepLimits {
            resources: Resources { memory: order.memory, ..Resources::default() },
            ..StepLimits::default()
        },
        secrets: order
            .secrets
            .into_iter()
            .map(|(id, secret)| (id, secret.0.into()))
            .collect::<BTreeMap<_, _>>(),
        agents: order.ssh,
        ..BuildRequest::default()
    })
}

/// Returns what a client is told of an event; nothing of what it is told in another way.
fn told(event: Result<BuildEvent, String>) -> Option<Told> {
    Some(match event {
        Ok(BuildEvent::Line(text)) if text.starts_with("[Warning]") => Told::Warning { text },
        Ok(BuildEvent::Line(_) | BuildEvent::Outline(_) | BuildEvent::Looking(_) | BuildEvent::Found(_)) => {
            return None;
        }
        Ok(BuildEvent::Output(bytes)) => Told::Output { text: String::from_utf8_lossy(&bytes).into_owned() },
        Ok(BuildEvent::Step(event)) => Told::Step(event),
        Ok(BuildEvent::Image(id)) => Told::Image { id: id.to_string() },
        Err(message) => Told::Error { message },
    })
}

fn line(told: Told) -> Result<Bytes, std::convert::Infallible> {
    let mut line = serde_json::to_vec(&told).unwrap_or_default();
    line.push(b'\n');
    Ok(line.into())
}
