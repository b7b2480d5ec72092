//! The API over HTTP: authenticate, route, authorise, one call, answer.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, Response};
use cirro_seams::api::ApiError;

use crate::asker;
use crate::auth::User;
use crate::authorize;
use crate::error;
use crate::rbac::Access;
use crate::server::ApiServer;
use crate::tokens;

mod access;
mod answer;
mod apply;
mod approval;
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
    pub async fn respond(&self, user: &User, request: Request<Body>) -> Response<Body> {
        let wishes = encode::Wishes::of(&request);
        let mut running = self.metrics.begin(Asked::of(&request, &self.storage.definitions.registry()));
        // Tens of kilobytes, that a connection that only waits need not hold.
        let result = Box::pin(self.admit(user, request)).await;
        let response = result.unwrap_or_else(|refusal| answer::refusal(&refusal));
        running.code = response.status().as_u16();
        drop(running);
        wishes.grant(response).await
    }

    async fn admit(&self, connection: &User, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let route = route::parse(request.uri().path());
        if route == Route::Health {
            return Ok(answer::text("ok"));
        }
        let who = self.storage.authenticate(connection, request.headers()).await?;
        let wanted = access::of(&request, &route);
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
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        match route {
            Route::Version => Ok(discovery::version()),
            Route::Metrics => Ok(self.metrics.answer()),
            Route::Issuer => Ok(answer::document(&tokens::configuration())),
            Route::TokenKeys => Ok(answer::keys(&self.storage.tokens.keys())),
            Route::Resource(path) => self.resource(user, path, request).await,
            route => discovery::answer(&self.storage.definitions.registry(), &route, &request),
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
        let call = Call { server: self.clone(), user: user.clone(), served, path, query, accept };
        let manager = apply::manager_of(&call.query, &request)?;
        crate::managed::scope(manager, call.dispatch(subresource, request)).await
    }
}

fn find_subresource(served: &Served, name: &str) -> Result<Subresource, ApiError> {
    let known = served.kind.subresources.iter().find(|subresource| subresource.name() == name);
    match known {
        Some(subresource) => Ok(*subresource),
        None if ["ephemeralcontainers", "resize"].contains(&name) => {
            Err(error::not_supported(&format!("the subresource {}/{name}", served.kind.plural)))
        }
        None => Err(error::no_such_path()),
    }
}

/// A request for a kind, with everything that its head said.
pub(crate) struct Call {
    pub(crate) server: ApiServer,
    pub(crate) user: User,
    pub(crate) served: Served,
    pub(crate) path: ResourcePath,
    pub(crate) query: Query,
    pub(crate) accept: Accept,
}

impl Call {
    async fn dispatch(
        self,
        subresource: Option<Subresource>,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let method = request.method().clone();
        if !self.served.kind.stored {
            return match method {
                Method::POST => self.review(request).await,
                _ => Err(error::method_not_allowed()),
            };
        }
        match (method, self.path.name.is_some(), subresource) {
            (Method::GET, false, None) if self.query.flag("watch") => self.watch(None).await,
            (Method::GET, false, None) => self.list().await,
            (Method::POST, false, None) => self.create(request).await,
            (Method::DELETE, false, None) => self.delete_collection(request).await,
            (Method::GET, true, None) if self.query.flag("watch") => {
                let name = self.path.name.clone();
                self.watch(name.as_deref()).await
            }
            (Method::GET, true, None | Some(Subresource::Status | Subresource::Approval)) => self.get().await,
            (Method::PUT, true, None | Some(Subresource::Status)) => self.update(subresource, request).await,
            (Method::PATCH, true, None | Some(Subresource::Status)) => self.patch(subresource, request).await,
            (Method::DELETE, true, None) => self.delete(request).await,
            (Method::GET, true, Some(Subresource::Scale)) => self.get_scale().await,
            (Method::PUT, true, Some(Subresource::Scale)) => self.update_scale(request).await,
            (Method::PATCH, true, Some(Subresource::Scale)) => self.patch_scale(request).await,
            (Method::POST, true, Some(Subresource::Binding)) => self.bind(request).await,
            (Method::PUT | Method::PATCH, true, Some(Subresource::Approval)) => self.approve(request).await,
            (Method::POST, true, Some(Subresource::Token)) => self.token(request).await,
            (Method::POST, true, Some(Subresource::Eviction)) => self.evict(request).await,
            (Method::PUT, true, Some(Subresource::Finalize)) => self.finalize(request).await,
            (Method::GET, true, Some(Subresource::Log)) => self.log().await,
            (Method::GET, true, Some(Subresource::Console)) => self.console().await,
            (_, true, Some(Subresource::Proxy(_))) => self.proxy(request).await,
            (Method::GET | Method::POST, true, Some(Subresource::PortForward)) => {
                self.port_forward(request).await
            }
            (Method::GET | Method::POST, true, Some(one @ (Subresource::Exec | Subresource::Attach))) => {
                self.exec(one, request).await
            }
            _ => Err(error::method_not_allowed()),
        }
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
