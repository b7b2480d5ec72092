//! The table of endpoints, without version prefixes.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};

use crate::{
    Face, build, buildkit, commit, containers, events, exec, images, networks, system, unsupported, volumes,
};

/// Returns every endpoint with its handler.
pub(crate) fn routes(face: Face) -> Router {
    Router::new()
        .merge(system_routes())
        .merge(container_routes())
        .merge(image_routes())
        .merge(network_routes())
        .merge(volume_routes())
        .merge(unsupported::routes())
        .fallback(unsupported::page_not_found)
        .method_not_allowed_fallback(unsupported::page_not_found)
        // Bodies are bounded where they are read: JSON in `body`, uploads by what the engine takes.
        .layer(DefaultBodyLimit::disable())
        .with_state(face)
}

fn system_routes() -> Router<Face> {
    Router::new()
        .route("/_ping", get(system::ping::get).head(system::ping::head))
        .route("/version", get(system::version::get))
        .route("/info", get(system::info::get))
        .route("/events", get(events::get))
        .route("/system/df", get(system::disk_usage::get))
}

fn container_routes() -> Router<Face> {
    Router::new()
        .route("/containers/json", get(containers::list::list))
        .route("/containers/create", post(containers::create::create))
        .route("/containers/prune", post(containers::prune::prune))
        .route("/containers/{name}", delete(containers::lifecycle::remove))
        .route("/containers/{name}/{alias}", delete(containers::lifecycle::remove_link))
        .route("/containers/{name}/json", get(containers::inspect::inspect))
        .route("/containers/{name}/start", post(containers::lifecycle::start))
        .route("/containers/{name}/stop", post(containers::lifecycle::stop))
        .route("/containers/{name}/restart", post(containers::lifecycle::restart))
        .route("/containers/{name}/kill", post(containers::lifecycle::kill))
        .route("/containers/{name}/pause", post(containers::lifecycle::pause))
        .route("/containers/{name}/unpause", post(containers::lifecycle::unpause))
        .route("/containers/{name}/rename", post(containers::lifecycle::rename))
        .route("/containers/{name}/resize", post(containers::lifecycle::resize))
        .route("/containers/{name}/update", post(containers::update::update))
        .route("/containers/{name}/wait", post(containers::wait::wait))
        .route("/containers/{name}/attach", post(containers::attach::attach))
        .route(
            "/containers/{name}/archive",
            get(containers::archive::get).head(containers::archive::head).put(containers::archive::put),
        )
        .route("/containers/{name}/changes", get(containers::changes::changes))
        .route("/containers/{name}/export", get(containers::archive::export))
        .route("/containers/{name}/attach/ws", get(containers::attach_ws::attach_ws))
        .route("/containers/{name}/stats", get(containers::stats::stats))
        .route("/containers/{name}/logs", get(containers::logs::logs))
        .route("/containers/{name}/top", get(containers::top::top))
        .route("/containers/{name}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
}

fn image_routes() -> Router<Face> {
    Router::new()
        .route("/images/json", get(images::list::list))
        .route("/images/create", post(images::create::create))
        .route("/images/load", post(images::archive::load))
        .route("/images/get", get(images::archive::save))
        .route("/images/search", get(images::registry::search))
        .route("/auth", post(images::registry::login))
        .route("/distribution/{*rest}", get(images::registry::distribution))
        .route("/images/prune", post(images::prune::prune))
        // Image names have slashes in them, so the verb is the path's last segment.
        .route(
            "/images/{*rest}",
            get(images::get_verb).post(images::post_verb).delete(images::remove::remove),
        )
        .route("/commit", post(commit::commit))
        .route("/build", post(build::build))
        .route("/build/cancel", post(buildkit::cancel))
        .route("/grpc", post(buildkit::grpc))
        .route("/session", post(buildkit::session))
        .route("/build/prune", post(build::prune::prune))
}

fn network_routes() -> Router<Face> {
    Router::new()
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{name}/connect", post(networks::attach::connect))
        .route("/networks/{name}/disconnect", post(networks::attach::disconnect))
        .route("/networks/{name}", get(networks::inspect).delete(networks::remove))
}

fn volume_routes() -> Router<Face> {
    Router::new()
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
}
