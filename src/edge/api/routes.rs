//! The paths of the API and of the pages, with their methods: for `Allow`, and for the route in metrics and log lines.

use std::collections::HashMap;

use poem::http::{HeaderValue, Method};
use poem_openapi::registry::MetaApi;

/// The route of a path that is none of the API, so that clients cannot create time series.
pub const OTHER: &str = "other";

/// All paths, by their number of segments.
#[derive(Default)]
pub struct Routes(HashMap<usize, Vec<Route>>);

struct Route {
    /// `/v1/rooms/{room_id}`.
    template: String,
    /// `None` for a parameter.
    segments: Vec<Option<String>>,
    methods: Vec<String>,
}

impl Routes {
    /// The paths of the API.
    pub fn of(apis: Vec<MetaApi>) -> Routes {
        let mut routes = Routes::default();
        for path in apis.into_iter().flat_map(|api| api.paths) {
            let methods = path.operations.iter();
            let mut methods: Vec<_> = methods.map(|known| known.method.to_string()).collect();
            if methods.iter().any(|method| method == "GET") {
                methods.push("HEAD".to_owned());
            }
            routes.insert(path.path, methods);
        }
        routes
    }

    /// Adds a path without parameters.
    pub fn add(&mut self, path: &str, methods: &[&str]) {
        let methods = methods.iter().map(|method| (*method).to_owned());
        self.insert(path.to_owned(), methods.collect());
    }

    fn insert(&mut self, template: String, methods: Vec<String>) {
        let segments: Vec<_> = template
            .split('/')
            .map(|segment| (!segment.starts_with('{')).then(|| segment.to_owned()))
            .collect();
        let route = Route {
            template,
            segments,
            methods,
        };
        self.0.entry(route.segments.len()).or_default().push(route);
    }

    fn find(&self, path: &str) -> Option<&Route> {
        let candidates = self.0.get(&path.split('/').count())?;
        candidates.iter().find(|route| {
            let mut segments = route.segments.iter().zip(path.split('/'));
            segments.all(|(known, segment)| known.as_ref().is_none_or(|known| known == segment))
        })
    }

    /// The template of the path, and the method as a label.
    pub fn labels<'a>(&'a self, method: &'a Method, path: &str) -> (&'a str, &'a str) {
        match self.find(path) {
            Some(route) => (&route.template, label(method)),
            None => (OTHER, label(method)),
        }
    }

    /// The methods that the path accepts.
    pub fn allowed(&self, path: &str) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.find(path)?.methods.join(", ")).ok()
    }
}

/// The method as a metric label. Unknown methods share one label, so that clients cannot create time series.
fn label(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => method.as_str(),
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::OpenApi;

    use super::*;

    #[test]
    fn a_path_has_its_template_as_route() {
        let mut routes = Routes::of(<super::super::Apis as OpenApi>::meta());
        routes.add("/", &["GET"]);
        let id = "018f2b6e-0000-7000-8000-000000000000";
        let route = |path: &str| routes.labels(&Method::GET, path).0.to_owned();
        let messages = route(&format!("/v1/rooms/{id}/messages"));
        assert!(messages.starts_with("/v1/rooms/{") && messages.ends_with("}/messages"));
        assert_eq!(messages, route("/v1/rooms/anything/messages"));
        assert_eq!(route("/"), "/");
        assert_eq!(route("/v1/auth/login"), "/v1/auth/login");
        for unknown in ["/v1/nothing", "/wp-login.php", "", "/v1/rooms/a/b/c/d/e"] {
            assert_eq!(route(unknown), OTHER, "{unknown}");
        }
        let brew = Method::from_bytes(b"BREW").unwrap();
        assert_eq!(routes.labels(&brew, "/"), ("/", OTHER));
        assert_eq!(routes.allowed("/").unwrap(), "GET");
    }
}
