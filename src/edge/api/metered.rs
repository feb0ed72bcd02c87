//! Middleware that finds the operation of each request, and checks its query parameters. Operations without a login are
//! charged to the client address here, before any other processing. The other operations are charged to the user once
//! the token is verified (`access::authenticate`).

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use poem::{
    Endpoint, Request, Response,
    http::{Method, StatusCode},
};
use poem_openapi::registry::MetaApi;

use super::{problem::Problem, query::QueryParameters};
use crate::{
    edge::{
        Edge, client_address,
        rate_limit::{
            cost::{self, Cost},
            unread,
        },
    },
    error::{Code, Error},
    model::UserId,
    protocol::MAX_PAGE,
};

/// `Retry-After` for a user with too many unread responses.
const READ_FIRST: Duration = Duration::from_secs(1);

/// The cost of a request; stored in its extensions.
#[derive(Clone, Copy)]
pub struct Price(pub Cost);

/// The authenticated user of a request; stored in its extensions and set by `access::authenticate`.
#[derive(Clone, Default)]
pub struct AuthenticatedUser(pub Arc<OnceLock<UserId>>);

/// All operations, by method and path.
pub struct Operations {
    /// Paths by number of segments, each with its segments (`None` for a parameter) and the operation of each method.
    paths: HashMap<usize, Vec<OperationPath>>,
}

struct OperationPath {
    segments: Vec<Option<String>>,
    methods: Vec<(Method, Operation)>,
}

struct Operation {
    cost: Cost,
    query: QueryParameters,
}

impl Operations {
    pub fn of(apis: Vec<MetaApi>) -> Self {
        let mut paths: HashMap<usize, Vec<OperationPath>> = HashMap::new();
        for path in apis.into_iter().flat_map(|api| api.paths) {
            let segments: Vec<_> = path
                .path
                .split('/')
                .map(|segment| {
                    if segment.starts_with('{') {
                        None
                    } else {
                        Some(segment.to_owned())
                    }
                })
                .collect();
            let methods = path.operations.iter().map(|operation| {
                let id = operation.operation_id.unwrap_or_default();
                let known = Operation {
                    // A unit test asserts that every operation has a cost.
                    cost: cost::of_operation(id).unwrap_or(cost::PAGE),
                    query: QueryParameters::of(operation),
                };
                (operation.method.clone(), known)
            });
            let path = OperationPath {
                methods: methods.collect(),
                segments,
            };
            paths.entry(path.segments.len()).or_default().push(path);
        }
        Operations { paths }
    }

    fn find(&self, request: &Request) -> Option<&Operation> {
        let path = request.uri().path();
        // `HEAD` is handled as `GET`.
        let method = match *request.method() {
            Method::HEAD => &Method::GET,
            _ => request.method(),
        };
        let path = path
            .strip_suffix('/')
            .filter(|p| !p.is_empty())
            .unwrap_or(path);
        let candidates = self.paths.get(&path.split('/').count());
        let fits = |known: &&OperationPath| {
            let mut segments = known.segments.iter().zip(path.split('/'));
            segments.all(|(known, asked)| known.as_ref().is_none_or(|known| known == asked))
        };
        let methods = candidates.into_iter().flatten().filter(fits);
        methods
            .flat_map(|path| &path.methods)
            .find(|(known, _)| known == method)
            .map(|(_, operation)| operation)
    }
}

fn cost_of(operation: Option<&Operation>, request: &Request) -> Cost {
    let limit = requested_limit(request.uri().query().unwrap_or_default());
    operation.map_or(cost::PAGE, |operation| operation.cost.for_page(limit))
}

/// The largest page that the handler may read from this query. Percent-encoding is not decoded here, since it can hide
/// the parameter: an encoded query counts as the largest page.
fn requested_limit(query: &str) -> Option<u32> {
    if query.contains('%') {
        return Some(MAX_PAGE);
    }
    let limits = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("limit="));
    limits.filter_map(|limit| limit.parse().ok()).max()
}

pub struct Metered<E> {
    pub edge: Arc<Edge>,
    pub operations: Operations,
    pub inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for Metered<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let operation = self.operations.find(&request);
        let (cost, from) = (cost_of(operation, &request), client_address::of(&request));
        let limits = &self.edge.limits;
        limits.admit_address(from, cost).map_err(Problem::from)?;
        // The middleware shows the user in its log line.
        let authenticated = request.data::<AuthenticatedUser>().cloned();
        let authenticated = authenticated.unwrap_or_default();
        request.extensions_mut().insert(Price(cost));
        request.extensions_mut().insert(authenticated.clone());
        let checked = match (operation, request.uri().query()) {
            (Some(operation), Some(_)) => operation.query.check(&request),
            _ => Ok(()),
        };
        let answer = match checked {
            Ok(()) => self.inner.call(request).await,
            // 400, although the code is `invalid`: the form of the request is wrong, not a value.
            Err(error) => Err(poem::Error::new(error, StatusCode::BAD_REQUEST)),
        };
        let refused = |status: StatusCode| status.is_client_error();
        let refused = match &answer {
            Ok(response) => refused(response.status()),
            Err(error) => refused(error.status()),
        };
        if refused {
            limits.charge_refused(from, cost);
        }
        match authenticated.0.get() {
            Some(user) => self.bounded(*user, answer?).await,
            None => answer,
        }
    }
}

impl<E> Metered<E> {
    /// Counts a large response against the user's unread bytes until it is sent.
    async fn bounded(&self, user: UserId, mut response: Response) -> poem::Result<Response> {
        let body: Bytes = response.take_body().into_bytes().await?;
        if body.len() <= unread::SMALL {
            response.set_body(body);
            return Ok(response);
        }
        match self.edge.limits.of(user).unread.hold(body) {
            Some(held) => {
                response.set_body(held);
                Ok(response)
            }
            None => Err(Problem(Error {
                retry_after: Some(READ_FIRST),
                ..Error::new(
                    Code::RateLimited,
                    "too many large responses are pending; read those first",
                )
            })
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::rate_limit::cost::Budget;
    use poem_openapi::{OpenApi, registry::MetaParamIn};

    #[test]
    fn every_operation_is_found_by_its_path() {
        let operations = Operations::of(<super::super::Apis as OpenApi>::meta());
        let price = |request: &Request| cost_of(operations.find(request), request);
        let id = "018f2b6e-0000-7000-8000-000000000000";
        let mut found = 0;
        for path in <super::super::Apis as OpenApi>::meta()
            .into_iter()
            .flat_map(|api| api.paths)
        {
            let asked = path.path.split('/').map(|segment| {
                if segment.starts_with('{') {
                    id
                } else {
                    segment
                }
            });
            let asked = asked.collect::<Vec<_>>().join("/");
            for operation in &path.operations {
                let request = Request::builder()
                    .method(operation.method.clone())
                    .uri_str(&asked)
                    .finish();
                let expected = cost::of_operation(operation.operation_id.unwrap()).unwrap();
                assert_eq!(price(&request), expected, "{asked}");
                found += 1;
            }
        }
        assert!(found > 40);
        let find = |path: &str| price(&Request::builder().uri_str(path).finish());
        assert_eq!(find("/nothing/here"), cost::PAGE);
        let page = |query: &str| find(&format!("/v1/rooms/{id}/messages{query}")).tokens;
        assert_eq!(
            [page(""), page("?limit=200"), page("?before=3&limit=60")],
            [1, 4, 2]
        );
        for hidden in ["?%6cimit=200", "?limit=1&limit=200", "?limit=%32%30%30"] {
            assert_eq!(page(hidden), 4, "{hidden}");
        }
        assert_eq!(find("/v1/rooms/").budget, Budget::Reads);
    }

    #[test]
    fn every_operation_refuses_parameters_that_it_does_not_have() {
        let operations = Operations::of(<super::super::Apis as OpenApi>::meta());
        let id = "018f2b6e-0000-7000-8000-000000000000";
        let (mut strict, mut lists) = (0, 0);
        for path in <super::super::Apis as OpenApi>::meta()
            .into_iter()
            .flat_map(|api| api.paths)
        {
            let asked = path.path.split('/').map(|segment| {
                if segment.starts_with('{') {
                    id
                } else {
                    segment
                }
            });
            let asked = asked.collect::<Vec<_>>().join("/");
            for operation in &path.operations {
                let check = |query: &str| {
                    let request = Request::builder()
                        .method(operation.method.clone())
                        .uri_str(format!("{asked}?{query}"))
                        .finish();
                    let found = operations.find(&request).expect("an operation");
                    found.query.check(&request)
                };
                let name = operation.operation_id.unwrap();
                if operation.tags.contains(&"Callbacks") {
                    check("utm_source=x&utm_source=y").unwrap();
                    continue;
                }
                strict += 1;
                let error = check("surprise=1").unwrap_err();
                assert_eq!(error.fields[0].field, "surprise", "{name}");
                let known = operation.params.iter();
                let known = known.filter(|param| param.in_type == MetaParamIn::Query);
                let known: Vec<_> = known.map(|param| param.name.clone()).collect();
                for parameter in &known {
                    check(&format!("{parameter}=1")).unwrap();
                    let error = check(&format!("{parameter}=1&{parameter}=1")).unwrap_err();
                    assert_eq!(error.fields[0].field, *parameter, "{name}");
                    assert!(
                        check(&format!("x=1&{parameter}=1"))
                            .unwrap_err()
                            .message
                            .contains(parameter)
                    );
                }
                // Every list pages with the same parameter.
                let has = |name: &str| known.iter().any(|known| known == name);
                assert_eq!(has("limit"), has("cursor"), "{name}");
                lists += usize::from(has("cursor"));
            }
        }
        assert!(strict > 35 && lists >= 5, "{strict} {lists}");
    }
}
