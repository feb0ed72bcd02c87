//! stub
use super::Edge;
use poem::*;
use std::sync::Arc;
pub fn routes(_e: Arc<Edge>) -> impl Endpoint<Output = Response> {
    Route::new().map_to_response()
}
pub fn problem_response(_: &crate::error::Error) -> Response {
    Response::default()
}
pub fn operations() -> impl Endpoint<Output = Response> {
    Route::new().map_to_response()
}
pub fn spec() -> String {
    String::new()
}
