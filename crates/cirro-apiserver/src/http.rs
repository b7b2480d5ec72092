//! The API over HTTP: authenticate, route, authorise, one call, answer.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, Response};
use cirro_seams::Pending;
use cirro_seams::api::ApiError;

use crate::asker;
use crate::auth::User;
use crate::authorize;
use crate::error;
use crate::rbac::Access;
use crate::server::ApiServer;
use crate::tokens;

mod access;
mod aggregate;
mod answer;
mod apply;
mod approval;
mod compute;
mod connect;
mod console;
mod delete;
mod discovery;
mod encode;
mod evict;
mod exec;
mod log;
pub(crate) mod metrics;
mod negotiate;
mod openapi;
mod portforward;
mod proxy;
mod query;
mod read;
mod route;
mod scale;
mod serve;
mod swagger;
mod tunnel;
mod upgrade;
mod watch;
mod write;

use aggregate::Remote;
pub(crate) use aggregate::{Aggregator, NodeSeam};
use answer::Answer;
use metrics::Asked;
use negotiate::Accept;
use query::Query;
use route::{ResourcePath, Route};
pub(crate) use watch::SharedLines;

use crate::registry::{Served, Subresource};
use crate::storage::Place;

impl ApiServer {
    /// Answers one request of the user that the connection authenticated; refusals are answers too.
    pub async fn respond(&self, user: &User, mut request: Request<Body>) -> Response<Body> {
        let wishes = encode::Wishes::of(&request);
        let route = match self.aggregator.remote_of(request.uri().path()) {
            None => route::parse(request.uri().path()),
            Some(remote) => {
                request.extensions_mut().insert(remote);
                route::parse_remote(request.uri().path())
            }
        };
        let wanted = access::of(&request, &route);
        let asked = Asked::of(request.method(), &wanted, &self.storage.definitions.registry());
        let mut running = self.metrics.begin(asked);
        // Kilobytes, that a connection that only waits need not hold.
        let result = Box::pin(self.admit(user, route, wanted, request)).await;
        let response = result.unwrap_or_else(|refusal| answer::refusal(&refusal));
        running.code = response.status().as_u16();
        drop(running);
        wishes.grant(response).await
    }

    async fn admit(
        &self,
        connection: &User,
        route: Route,
        wanted: Access,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if route == Route::Health {
            return Ok(answer::text("ok"));
        }
        let who = self.storage.authenticate(connection, request.headers()).await?;
        let Some(audit) = &self.storage.audit else {
            let mut said = asker::Said::default();
            return self.admitted(&who.user, &wanted, route, request, &mut said).await;
        };
        let Some(mut trail) = audit.begin(&who, &wanted, route.version(), &request) else {
            let mut said = asker::Said::default();
            return self.admitted(&who.user, &wanted, route, request, &mut said).await;
        };
        let request = trail.received(request).await;
        let mut said = asker::Said::default();
        let answered = self.admitted(&who.user, &wanted, route, request, &mut said).await;
        trail.annotate(said.annotations);
        Ok(trail.answered(answered.unwrap_or_else(|refusal| answer::refusal(&refusal))).await)
    }

    /// Answers a request of a user who is known; `said` gets what there is to say beside the answer.
    async fn admitted(
        &self,
        user: &Arc<User>,
        wanted: &Access,
        route: Route,
        request: Request<Body>,
        said: &mut asker::Said,
    ) -> Result<Response<Body>, ApiError> {
        let flow = self.storage.fairness.flow(user, wanted).await?;
        let answered = match self.storage.fairness.seat(&flow).await {
            Ok(_seat) => self.seated(user, wanted, route, request, said).await,
            Err(refusal) => Err(refusal),
        };
        let mut response = answered.unwrap_or_else(|refusal| answer::refusal(&refusal));
        flow.mark(response.headers_mut());
        Ok(response)
    }

    async fn seated(
        &self,
        user: &Arc<User>,
        wanted: &Access,
        route: Route,
        request: Request<Body>,
        said: &mut asker::Said,
    ) -> Result<Response<Body>, ApiError> {
        let decision = self.storage.decide(user, wanted).await?;
        let word = if decision.allowed { "allow" } else { "forbid" };
        said.annotations.insert("authorization.k8s.io/decision".into(), word.into());
        said.annotations.insert("authorization.k8s.io/reason".into(), decision.reason.clone());
        if !decision.allowed {
            return Err(authorize::forbidden(user, wanted, &decision.reason));
        }
        let (response, more) = asker::scope(user.clone(), self.route(user, route, request)).await;
        said.annotations.extend(more.annotations);
        response.map(|mut response| {
            answer::warn(response.headers_mut(), &more.warnings);
            response
        })
    }

    async fn route(
        &self,
        user: &User,
        route: Route,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if let Some(remote) = request.extensions_mut().remove::<Arc<Remote>>() {
            return match route {
                Route::Unknown => Err(error::no_such_path()),
                _ => Box::pin(self.aggregator.forward(&self.storage, user, &remote, request)).await,
            };
        }
        if let Route::OpenApi(group, version) = &route
            && let Some(remote) = self.aggregator.remote(group, version)
        {
            return Box::pin(self.aggregator.forward(&self.storage, user, &remote, request)).await;
        }
        match route {
            Route::Version => Ok(discovery::version()),
            Route::Metrics => Ok(self.metrics.answer()),
            Route::Issuer => Ok(answer::document(&tokens::configuration())),
            Route::TokenKeys => Ok(answer::keys(&self.storage.tokens.keys())),
            Route::Resource(path) => self.resource(user, path, request).await,
            route => {
                let wanted = discovery::wanted(&route, &request);
                let foreign = Box::pin(self.aggregator.foreign(&self.storage, wanted)).await;
                discovery::answer(&self.storage.definitions.registry(), &foreign, &route, &request)
            }
        }
    }

    async fn resource(
        &self,
        user: &User,
        path: ResourcePath,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let registry = self.storage.definitions.registry();
        let served = registry.served(&path.group, &path.version, &path.plural).cloned();
        let served = served.ok_or_else(error::no_such_path)?;
        let subresource = match &path.subresource {
            None => None,
            Some(name) => Some(find_subresource(&served, name)?),
        };
        if path.namespace.is_some() && !served.kind.namespaced {
            return Err(error::no_such_path());
        }
        let query = Query::parse(request.uri())?;
        let accept = Accept::parse(request.headers())?;
        let version = served.api_version();
        let behind = match subresource {
            Some(Subresource::Proxy(_)) => proxy::behind(request.uri()),
            _ => String::new(),
        };
        let call = Call { server: self.clone(), user: user.clone(), served, path, behind, query, accept };
        let manager = apply::manager_of(&call.query, &request)?;
        crate::managed::scope(manager, version, call.dispatch(subresource, request)).await
    }
}

fn find_subresource(served: &Served, name: &str) -> Result<Subresource, ApiError> {
    let known = served.kind.subresources.iter().find(|subresource| subresource.name() == name);
    known.copied().ok_or_else(error::no_such_path)
}

/// A request for a kind, with everything that its head said.
pub(crate) struct Call {
    pub(crate) server: ApiServer,
    pub(crate) user: User,
    pub(crate) served: Served,
    pub(crate) path: ResourcePath,
    /// What the path says to the server behind the object, when it is proxied.
    pub(crate) behind: String,
    pub(crate) query: Query,
    pub(crate) accept: Accept,
}

/// Whether a request connects to what is behind an object.
fn connects(method: &Method, subresource: Subresource) -> bool {
    match subresource {
        Subresource::Proxy(_) => true,
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => {
            matches!(*method, Method::GET | Method::POST)
        }
        _ => false,
    }
}

type Handler<'a> = Pending<'a, Result<Response<Body>, ApiError>>;

impl Call {
    async fn dispatch(
        self,
        subresource: Option<Subresource>,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let watches = request.method() == Method::GET && subresource.is_none() && self.query.flag("watch");
        if watches && self.served.kind.stored {
            let name = self.path.name.clone();
            return Box::pin(self.watch(name.as_deref())).await;
        }
        let call = match subresource {
            Some(one) if connects(request.method(), one) => Box::pin(self.admitted(one)).await?,
            _ => self,
        };
        call.handler(subresource, request).ok_or_else(error::method_not_allowed)?.await
    }

    /// Finds who answers. Each has a place of its own in memory: one for all of them would be as large as the largest, and is
    /// moved about with every request.
    fn handler(&self, subresource: Option<Subresource>, request: Request<Body>) -> Option<Handler<'_>> {
        let method = request.method().clone();
        if self.served.kind.strategy.is_computed() {
            let read = method == Method::GET && !self.query.flag("watch");
            return read.then(|| Box::pin(self.compute()) as _);
        }
        if !self.served.kind.stored {
            return (method == Method::POST).then(|| Box::pin(self.review(request)) as _);
        }
        Some(match (method, self.path.name.is_some(), subresource) {
            (Method::GET, false, None) => Box::pin(self.list()),
            (Method::POST, false, None) => Box::pin(self.create(request)),
            (Method::DELETE, false, None) => Box::pin(self.delete_collection(request)),
            (Method::GET, true, None | Some(Subresource::Status | Subresource::Approval)) => {
                Box::pin(self.get())
            }
            (Method::GET, true, Some(Subresource::EphemeralContainers | Subresource::Resize)) => {
                Box::pin(self.get())
            }
            (
                Method::PUT,
                true,
                None | Some(Subresource::Status | Subresource::EphemeralContainers | Subresource::Resize),
            ) => Box::pin(self.update(subresource, request)),
            (
                Method::PATCH,
                true,
                None | Some(Subresource::Status | Subresource::EphemeralContainers | Subresource::Resize),
            ) => Box::pin(self.patch(subresource, request)),
            (Method::DELETE, true, None) => Box::pin(self.delete(request)),
            (Method::GET, true, Some(Subresource::Scale)) => Box::pin(self.get_scale()),
            (Method::PUT, true, Some(Subresource::Scale)) => Box::pin(self.update_scale(request)),
            (Method::PATCH, true, Some(Subresource::Scale)) => Box::pin(self.patch_scale(request)),
            (Method::POST, true, Some(Subresource::Binding)) => Box::pin(self.bind(request)),
            (Method::PUT | Method::PATCH, true, Some(Subresource::Approval)) => {
                Box::pin(self.approve(request))
            }
            (Method::POST, true, Some(Subresource::Token)) => Box::pin(self.token(request)),
            (Method::POST, true, Some(Subresource::Eviction)) => Box::pin(self.evict(request)),
            (Method::PUT, true, Some(Subresource::Finalize)) => Box::pin(self.finalize(request)),
            (Method::GET, true, Some(Subresource::Log)) => Box::pin(self.log(request)),
            (Method::GET, true, Some(Subresource::Console)) => Box::pin(self.console()),
            (_, true, Some(Subresource::Proxy(_))) => Box::pin(self.proxy(request)),
            (Method::GET | Method::POST, true, Some(Subresource::PortForward)) => {
                Box::pin(self.port_forward(request))
            }
            (Method::GET | Method::POST, true, Some(one @ (Subresource::Exec | Subresource::Attach))) => {
                Box::pin(self.exec(one, request))
            }
            _ => return None,
        })
    }

    /// Returns the namespace; empty for cluster-scoped kinds.
    pub(crate) fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or_default()
    }

    /// Returns the place that the path names.
    pub(crate) fn place(&self) -> Place<'_> {
        let name = self.path.name.as_deref().unwrap_or_default();
        Place { kind: &self.served.kind, namespace: self.namespace(), name }
    }

    /// Starts an answer with the warnings of the version that was spoken.
    pub(crate) fn answer(&self) -> Answer<'_> {
        let custom = self.served.kind.custom.as_ref();
        let deprecation = match self.served.view() {
            Some(view) => view.deprecation.clone(),
            None => custom.and_then(|custom| custom.deprecation.clone()),
        };
        Answer { served: &self.served, accept: self.accept, warnings: deprecation.into_iter().collect() }
    }
}
