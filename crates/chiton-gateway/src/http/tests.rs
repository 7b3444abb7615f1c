//! Failures that come from below the API.

use axum::Router;
use axum::http::{Request, StatusCode};
use axum::middleware::map_response;
use axum::routing::post;
use chiton_client::{from_status, to_status};
use chiton_model::Error;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::explain;

/// What a client gets when the service answers with this status.
async fn answered(status: Status) -> Status {
    let router = Router::new()
        .route("/", post(move || async move { status.into_http::<axum::body::Body>() }))
        .layer(map_response(explain));
    let request = Request::post("/").body(axum::body::Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    Status::from_header_map(response.headers()).expect("a status")
}

#[tokio::test]
async fn a_message_that_is_too_large_is_explained() {
    let text = "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes";
    let status = answered(Status::out_of_range(text)).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let error = from_status(&status);
    assert!(error.message.contains("too large: found 5000000 bytes"), "{error}");
    assert!(error.cure.is_some() && !status.details().is_empty());
}

#[tokio::test]
async fn other_failures_of_the_library_keep_their_code_and_get_details() {
    let status = answered(Status::unimplemented("")).await;
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(from_status(&status).cure.is_some_and(|cure| cure.contains("older")));
}

#[tokio::test]
async fn an_error_of_ours_passes_unchanged() {
    let error = Error::invalid("spec.image", "there is none").cure("name one");
    let status = answered(to_status(&error)).await;
    assert_eq!(from_status(&status), error);
}
