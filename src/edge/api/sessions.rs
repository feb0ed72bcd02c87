//! `/v1/me/sessions`: the caller's logins.

use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
};
use serde::Serialize;

use super::{
    Tags,
    access::{Caller, Shared},
    payload::{Cursor, Found, Gone},
    problem::Problem,
    query::PageCursor,
};
use crate::{
    command::{Command, account::AccountCommand},
    edge::Edge,
    error::{Code, Error, Result},
    model::{LoginId, Timestamp, UserId},
    protocol::check_limit,
    store::LoginSession,
};

pub struct SessionsApi;

/// A login of the caller.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "LoginSession")]
struct SessionItem {
    id: LoginId,
    /// Whether the request's access token belongs to this login.
    current: bool,
    /// When the user logged in. Absent for logins from before this was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    created_at: Option<Timestamp>,
    /// The last exchange of its refresh token. Absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    refreshed_at: Option<Timestamp>,
    /// When it ends if its refresh token is not used.
    expires_at: Timestamp,
    /// The `User-Agent` header of the login request, cut to 256 characters. Sent by the client, so it proves nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    user_agent: Option<String>,
    /// The IP address of the login request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    address: Option<String>,
}

impl SessionItem {
    fn new(session: LoginSession, current: LoginId) -> Self {
        SessionItem {
            id: session.id,
            current: session.id == current,
            created_at: session.created_at,
            refreshed_at: session.refreshed_at,
            expires_at: session.expires_at,
            user_agent: session.client.user_agent,
            address: session.client.address,
        }
    }
}

/// A page of logins, the oldest first.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "LoginSessionPage")]
struct SessionPage {
    items: Vec<SessionItem>,
    /// Pass it as `cursor` to get the next page; `null` on the last page.
    next_cursor: Cursor<LoginId>,
    /// Whether there is a next page.
    has_more: bool,
}

#[OpenApi(prefix_path = "/v1/me", tag = "Tags::Me")]
impl SessionsApi {
    /// List my sessions
    ///
    /// The logins of the caller that have neither ended nor expired, the oldest first.
    #[oai(path = "/sessions", method = "get", operation_id = "listSessions")]
    async fn list(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        /// The `nextCursor` of the previous page.
        cursor: Query<Option<PageCursor<LoginId>>>,
        /// 1 to 200. Default: 50.
        limit: Query<Option<u32>>,
    ) -> Result<Found<SessionPage>, Problem> {
        let limit = check_limit(limit.0)?;
        let after = cursor.0.map(|cursor| cursor.0);
        let identity = caller.0.into_inner();
        // Reads one more than requested to learn whether there is another page.
        let mut sessions = edge.reads.sessions(identity.user, after, limit + 1).await?;
        let has_more = sessions.len() > limit as usize;
        sessions.truncate(limit as usize);
        let last = sessions.last().filter(|_| has_more);
        Ok(Found::of(&SessionPage {
            next_cursor: Cursor(last.map(|session| session.id)),
            items: sessions
                .into_iter()
                .map(|session| SessionItem::new(session, identity.login))
                .collect(),
            has_more,
        }))
    }

    /// End my other sessions
    ///
    /// Ends all logins of the caller except the one of the request's access token. Their refresh tokens become invalid,
    /// their sockets are closed with 4001, and their access tokens are rejected within one second.
    #[oai(
        path = "/sessions",
        method = "delete",
        operation_id = "endOtherSessions"
    )]
    async fn end_others(&self, edge: Shared<'_>, caller: Caller) -> Result<Gone, Problem> {
        let identity = caller.0.into_inner();
        let command = AccountCommand::CloseLogins {
            except: Some(identity.login),
        };
        Ok(run(&edge, identity.user, identity.user, command).await?)
    }

    /// End one of my sessions
    ///
    /// As `POST /v1/auth/logout`, for any login of the caller. Ending it again has no effect.
    #[oai(
        path = "/sessions/:session",
        method = "delete",
        operation_id = "endSession"
    )]
    async fn end(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        session: Path<LoginId>,
    ) -> Result<Gone, Problem> {
        let command = AccountCommand::CloseLogin { login: session.0 };
        match run(&edge, caller.user(), session.0, command).await {
            // The worker's refusal of a login that the user does not have.
            Err(error) if error.code == Code::Unauthorized => {
                Err(Error::not_found("session").into())
            }
            result => Ok(result?),
        }
    }
}

/// `id` is in the response if the worker takes longer than `edge.wait`.
async fn run(edge: &Edge, user: UserId, id: LoginId, command: AccountCommand) -> Result<Gone> {
    let result = edge.submit.call(user, Command::Account(command)).await?;
    Ok(Gone::of(result, id))
}
