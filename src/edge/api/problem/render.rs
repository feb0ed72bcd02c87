//! Turns any failure, our own or the framework's, into a problem document.

use poem::{
    Response,
    error::{MethodNotAllowedError, NotFoundError, ReadBodyError},
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::error::{AuthorizationError, ParseParamError, ParsePathError};

use super::{CodeName, MEDIA_TYPE, ProblemBody, RefusedField, status};
use crate::error::{Code, Error};

/// The response to a request that failed with `failure`.
pub fn render(failure: poem::Error, request_id: &str) -> Response {
    if failure.is_from_response() {
        return failure.into_response();
    }
    // These statuses are more specific than the error's code.
    let stated = match failure.status() {
        StatusCode::METHOD_NOT_ALLOWED if failure.is::<MethodNotAllowedError>() => true,
        StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::BAD_REQUEST => failure.is::<Error>(),
        _ => false,
    }
    .then(|| failure.status());
    let error = understand(failure);
    let status = stated.unwrap_or_else(|| status(error.code));
    document(&error, status, request_id)
}

/// The response to a request that failed with `error`; server errors are logged.
pub fn document(error: &Error, status: StatusCode, request_id: &str) -> Response {
    if error.code == Code::Internal {
        tracing::error!(request_id, error = %error.chain(), "request failed");
    } else if status.is_server_error() {
        tracing::warn!(request_id, error = %error.chain(), "request rejected");
    }
    write(error, status, request_id)
}

/// The response to a request that failed with `error`, without a log line.
pub fn write(error: &Error, status: StatusCode, request_id: &str) -> Response {
    let retry_after_ms = error.retry_after_ms();
    let body = ProblemBody {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: error.message.clone(),
        code: CodeName(error.code),
        request_id: request_id.to_owned(),
        retry_after_ms,
        errors: error.fields.iter().map(RefusedField::from).collect(),
        id: error.id,
    };
    let json = serde_json::to_vec(&body).expect("our own type has string keys only");
    let mut response = Response::builder()
        .status(status)
        .content_type(MEDIA_TYPE)
        .body(json);
    let headers = response.headers_mut();
    if let Some(ms) = retry_after_ms {
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from(ms.div_ceil(1000).max(1)),
        );
    }
    let challenge = match error.code {
        Code::Unauthorized => Some("Bearer"),
        Code::TokenExpired => Some(
            "Bearer error=\"invalid_token\", error_description=\"the access token has expired\"",
        ),
        _ => None,
    };
    if let Some(challenge) = challenge {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        );
    }
    response
}

/// Converts a failure to an [`Error`]: our own unchanged, the framework's by its type.
fn understand(failure: poem::Error) -> Error {
    let failure = match failure.downcast::<Error>() {
        Ok(error) => return error,
        Err(failure) => failure,
    };
    if failure.is::<NotFoundError>() {
        return Error::new(
            Code::NotFound,
            "there is nothing at this path; the API is described at /api",
        );
    }
    if failure.is::<MethodNotAllowedError>() {
        return Error::malformed(
            "this path does not support this method; the header Allow lists those it does",
        );
    }
    if failure.is::<AuthorizationError>() {
        return Error::unauthorized("send the header `Authorization: Bearer <access token>`");
    }
    if let Some(param) = failure.downcast_ref::<ParseParamError>() {
        let mut error = Error::field(param.name, reason(&param.reason));
        error.code = Code::Malformed;
        return error;
    }
    if let Some(path) = failure.downcast_ref::<ParsePathError>() {
        return Error::malformed(format!("the path: {}", reason(&path.reason)));
    }
    match failure.downcast_ref::<ReadBodyError>() {
        Some(ReadBodyError::PayloadTooLarge) => {
            return Error::new(Code::TooLarge, "the request's body is too large");
        }
        Some(_) => return Error::malformed("the request's body could not be read"),
        None => {}
    }
    match failure.status() {
        status if status.is_client_error() => Error::malformed(failure.to_string()),
        _ => Error::internal(failure.to_string()),
    }
}

/// Removes the framework's prefix: `failed to parse "uuid": invalid length …`.
fn reason(text: &str) -> String {
    match text
        .strip_prefix("failed to parse \"")
        .and_then(|rest| rest.split_once("\": "))
    {
        Some((kind, why)) => format!("not a {kind}: {why}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::edge::api::problem::Problem;

    async fn shown(error: impl Into<poem::Error>) -> (Response, serde_json::Value) {
        let mut response = render(error.into(), "r1");
        let body = response.take_body().into_json().await.unwrap();
        (response, body)
    }

    #[tokio::test]
    async fn a_problem_names_the_field_and_the_allowed_values() {
        let (response, body) = shown(Problem(Error::field("limit", "allowed: 1 to 200"))).await;
        assert_eq!(response.status(), 422);
        assert_eq!(response.content_type(), Some("application/problem+json"));
        assert_eq!(
            body,
            serde_json::json!({
                "type": "about:blank", "title": "Unprocessable Entity", "status": 422, "code": "invalid",
                "detail": "limit: allowed: 1 to 200", "requestId": "r1",
                "errors": [{"field": "limit", "message": "allowed: 1 to 200"}],
            })
        );
    }

    #[tokio::test]
    async fn busy_has_retry_after() {
        let (response, body) =
            shown(Problem(Error::busy("full", Duration::from_millis(1200)))).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.header("retry-after"), Some("2"));
        assert_eq!(body["retryAfterMs"], 1200);
    }

    #[tokio::test]
    async fn the_cause_of_an_error_is_not_sent() {
        let (response, body) = shown(Problem(Error::internal("the password is hunter2"))).await;
        assert_eq!(response.status(), 500);
        assert!(!body.to_string().contains("hunter2"), "{body}");
    }

    #[tokio::test]
    async fn unauthorized_names_the_scheme() {
        let (response, body) = shown(AuthorizationError).await;
        assert_eq!(response.status(), 401);
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert_eq!(body["code"], "unauthorized");
        let (response, _) = shown(Problem(Error::new(Code::TokenExpired, "old"))).await;
        assert!(
            response
                .header("www-authenticate")
                .unwrap()
                .contains("invalid_token")
        );
    }

    #[tokio::test]
    async fn the_frameworks_failures_speak_our_language() {
        let wrong = ParseParamError {
            name: "limit",
            reason: "failed to parse \"integer(uint32)\": invalid digit found in string".into(),
        };
        let (response, body) = shown(wrong).await;
        assert_eq!(response.status(), 400);
        assert_eq!(body["errors"][0]["field"], "limit");
        assert_eq!(shown(NotFoundError).await.0.status(), 404);
        let (response, body) = shown(MethodNotAllowedError).await;
        assert_eq!(
            (response.status().as_u16(), body["code"].as_str()),
            (405, Some("malformed"))
        );
        assert_eq!(shown(ReadBodyError::PayloadTooLarge).await.0.status(), 413);
    }
}
