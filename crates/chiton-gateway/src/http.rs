//! Everything that is served on one socket: gRPC, health, reflection and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chiton_client::{from_status, to_detail, to_status};
use chiton_lifecycle::Engine;
use chiton_lifecycle::journal::ObligationStatus;
use chiton_model::Error;
use chiton_proto::v1::gateway_server::GatewayServer;
use prost::Message as _;
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::api::Api;

/// The largest message that a caller may send: a request's command and environment, with room.
const LARGEST_REQUEST: usize = 4 * 1024 * 1024;

/// Whether the gateway takes requests.
#[derive(Clone, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub(crate) fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The routes.
pub(crate) async fn routes(api: Api, ready: Readiness) -> Result<Router, Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(chiton_proto::DESCRIPTORS)
        .build_v1()
        .map_err(|error| Error::internal(format!("the reflection service cannot be made: {error}")))?;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<GatewayServer<Api>>().await;
    let (metrics, engine) = (Arc::clone(&api.metrics), api.engine.clone());
    let scraped = engine.clone();
    let grpc = Routes::new(GatewayServer::new(api).max_decoding_message_size(LARGEST_REQUEST))
        .add_service(health)
        .add_service(reflection);
    let plain = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                if ready.get() {
                    (StatusCode::OK, readiness(&engine))
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
                }
            }),
        )
        .route("/metrics", get(move || async move { metrics_answer(metrics.text(&scraped)) }));
    Ok(grpc.prepare().into_axum_router().layer(map_response(explain)).merge(plain))
}

/// The first line is for programs; what follows is there only when somebody should look.
fn readiness(engine: &Engine) -> String {
    let obligations = engine.obligations();
    let open = obligations.iter().filter(|obligation| obligation.status == ObligationStatus::Open).count();
    let (abandoned, held, unreachable) = (obligations.len() - open, engine.held(), engine.unreachable().len());
    let mut text = "ready\n".to_owned();
    for (count, what) in [
        (open, "open obligations (chiton obligations list)"),
        (abandoned, "abandoned obligations (chiton obligations list)"),
        (held, "held sandboxes (chiton sandbox list --all)"),
        (unreachable, "unreachable drivers (chiton drivers)"),
    ] {
        if count > 0 {
            text.extend([count.to_string().as_str(), " ", what, "\n"]);
        }
    }
    text
}

/// Gives a failure of the RPC library's own (a message that is too large or no message, a call that is not known) the details
/// that every error of this API has.
async fn explain(response: Response) -> Response {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok && status.details().is_empty() => explained(&status).into_http(),
        _ => response,
    }
}

/// The same failure with details.
pub(crate) fn explained(status: &Status) -> Status {
    let error = from_status(status);
    match status.code() {
        // None of ours: it is what the table in `gateway.proto` has for a request that is wrong.
        Code::OutOfRange => to_status(&error),
        code => Status::with_details(code, status.message(), to_detail(&error).encode_to_vec().into()),
    }
}

/// Metrics with the media type of their form (`OpenMetrics` 1.0).
pub(crate) fn metrics_answer(text: String) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

#[cfg(test)]
mod tests;
