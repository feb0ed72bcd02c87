//! Query parameters: refuses those that an operation does not have, and has the parameter `cursor` of all lists.

use std::borrow::Cow;

use poem::Request;
use poem_openapi::{
    registry::{MetaOperation, MetaParamIn, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromParameter, ParseResult, Type},
};

use crate::error::{Error, Result};

/// The tag of operations that providers and mail programs call, which may add parameters of their own.
const CALLBACKS: &str = "Callbacks";
/// Of these parameters of an operation at most one may be given.
const EXCLUSIVE: [(&str, &[&str]); 1] = [("listMessages", &["before", "after", "around"])];
/// Maximum characters of an unknown name in an error.
const MAX_SHOWN: usize = 64;

/// The query parameters of an operation, as its OpenAPI description lists them.
pub struct QueryParameters {
    any: bool,
    names: Vec<String>,
    exclusive: &'static [&'static str],
}

impl QueryParameters {
    pub fn of(operation: &MetaOperation) -> Self {
        let params = operation.params.iter();
        let query = params.filter(|param| param.in_type == MetaParamIn::Query);
        let exclusive = EXCLUSIVE
            .iter()
            .find(|(id, _)| operation.operation_id == Some(*id));
        QueryParameters {
            any: operation.tags.contains(&CALLBACKS),
            names: query.map(|param| param.name.clone()).collect(),
            exclusive: exclusive.map_or(&[], |(_, names)| *names),
        }
    }

    /// # Errors
    /// `invalid` if the request has a parameter that the operation does not have, one of them twice, or two that
    /// exclude each other.
    pub fn check(&self, request: &Request) -> Result<()> {
        if self.any {
            return Ok(());
        }
        // Decoded as for the handlers.
        let given: Vec<(String, String)> = request
            .params()
            .map_err(|_| Error::malformed("the query is not name=value&name=value"))?;
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &given {
            let Some(known) = self.names.iter().find(|known| *known == name) else {
                return Err(self.unknown(name));
            };
            if seen.contains(&known.as_str()) {
                return Err(Error::field(known, "is given more than once"));
            }
            seen.push(known);
        }
        let mut excluding = seen.iter().filter(|name| self.exclusive.contains(name));
        match (excluding.next(), excluding.next()) {
            (Some(_), Some(second)) => {
                let names = self.exclusive.join("`, `");
                Err(Error::field(
                    second,
                    format!("give at most one of `{names}`"),
                ))
            }
            _ => Ok(()),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let shown: String = name.chars().take(MAX_SHOWN).collect();
        let allowed = if self.names.is_empty() {
            "it has no query parameters".to_owned()
        } else {
            format!("allowed: {}", self.names.join(", "))
        };
        Error::field(
            &shown,
            format!("is no parameter of this operation; {allowed}"),
        )
    }
}

/// The `nextCursor` of a page, given back. Opaque to clients; its schema is that of the position `T`.
pub struct PageCursor<T>(pub T);

impl<T: Type> Type for PageCursor<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = T::RawValueType;
    type RawElementValueType = T::RawElementValueType;

    /// Used only in errors.
    fn name() -> Cow<'static, str> {
        "cursor".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        self.0.as_raw_value()
    }

    fn raw_element_iter<'a>(
        &'a self,
    ) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        self.0.raw_element_iter()
    }
}

impl<T: ParseFromParameter> ParseFromParameter for PageCursor<T> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        let position = T::parse_from_parameter(value);
        let position = position.map_err(|_| ParseError::<Self>::custom(NO_CURSOR))?;
        Ok(PageCursor(position))
    }
}

const NO_CURSOR: &str = "no page of this list returned it";

/// A cursor that cannot be one of this list.
pub fn bad_cursor() -> Error {
    Error {
        code: crate::error::Code::Malformed,
        ..Error::field("cursor", format!("not a cursor: {NO_CURSOR}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_query_names_the_parameter_and_those_allowed() {
        let of = |names: &[&str], query: &str| {
            let parameters = QueryParameters {
                any: false,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                exclusive: &["after", "cursor"],
            };
            let request = Request::builder()
                .uri_str(format!("/v1/x?{query}"))
                .finish();
            match parameters.check(&request) {
                Ok(()) => String::new(),
                Err(error) => error.message,
            }
        };
        let list = ["after", "cursor", "limit"];
        for good in [
            "",
            "limit=1",
            "limit=&after=x",
            "%6cimit=1",
            "cursor=a%26b",
            "&&limit=1&",
        ] {
            assert_eq!(of(&list, good), "", "{good}");
        }
        let unknown = "is no parameter of this operation; allowed: after, cursor, limit";
        assert_eq!(of(&list, "page=2"), format!("page: {unknown}"));
        assert_eq!(of(&list, "Limit=2"), format!("Limit: {unknown}"));
        assert_eq!(
            of(&list, "limit[]=2&limit=1"),
            format!("limit[]: {unknown}")
        );
        assert_eq!(of(&list, "=1"), format!(": {unknown}"));
        assert_eq!(
            of(&[], "limit"),
            "limit: is no parameter of this operation; it has no query parameters"
        );
        assert_eq!(
            of(&list, "limit=1&l%69mit=2"),
            "limit: is given more than once"
        );
        assert_eq!(
            of(&list, "cursor=1&limit=3&after=2"),
            "after: give at most one of `after`, `cursor`"
        );
        assert!(of(&list, &format!("{}=1", "x".repeat(5000))).len() < 200);
    }
}
