//! Authentication of REST requests and early permission checks.
//!
//! The edge checks permissions to answer early and with a clear error. The worker repeats each check under the room's
//! lock and decides. If the store does not answer, a write is enqueued unchecked, so writes are accepted during a
//! database outage.

use std::{future::Future, sync::Arc, time::Duration};

use poem::{Request, web::Data};
use poem_openapi::{SecurityScheme, auth::Bearer};

use super::{
    metered::{AuthenticatedUser, Price},
    payload::{Changed, Created, Gone, Pending, RawJson},
    problem::Problem,
};
use crate::{
    command::{Command, room::RoomCommand},
    edge::{
        Edge,
        auth::Identity,
        client_address,
        rate_limit::Admitted,
        reactions,
        revocation::{LoginState, login_ended},
        submit::SubmitResult,
    },
    error::{Error, Result},
    model::{
        ClientInfo, LoginId, Member, Message, MessageId, Role, Room, RoomId, RoomKind, Timestamp,
        UserId,
    },
};

/// The shared state that every handler receives.
pub type Shared<'a> = Data<&'a Arc<Edge>>;

/// How long a write waits for the early check's store read before it is enqueued unchecked.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// An access token from `POST /v1/auth/login`, sent as `Authorization: Bearer …`.
#[derive(SecurityScheme)]
#[oai(
    rename = "bearer",
    ty = "bearer",
    bearer_format = "JWT",
    checker = "authenticate"
)]
pub struct Caller(pub Admitted<Identity>);

impl Caller {
    pub fn user(&self) -> UserId {
        self.0.get().user
    }
}

async fn authenticate(request: &Request, bearer: Bearer) -> poem::Result<Admitted<Identity>> {
    let (Some(edge), Some(Price(cost))) = (request.data::<Arc<Edge>>(), request.data::<Price>())
    else {
        return Err(Problem(Error::internal("the API was built without its edge")).into());
    };
    let identity = edge.auth.recognise(&bearer.token).map_err(Problem::from)?;
    if let Some(AuthenticatedUser(authenticated)) = request.data::<AuthenticatedUser>() {
        let _ = authenticated.set(identity.user);
    }
    let known = edge.revocations.state(identity.login);
    // The holder of a token of an ended login cannot use up the user's budget.
    if known == Some(LoginState::Ended) {
        return Err(Problem::from(login_ended()).into());
    }
    let admitted = edge.limits.admit(identity, *cost).map_err(Problem::from)?;
    login_is_open(edge, identity.login, known)
        .await
        .map_err(Problem::from)?;
    Ok(admitted)
}

/// Rejects the token of a login that has ended. If the store does not answer, a login that is not `known` in the local
/// cache counts as open.
async fn login_is_open(edge: &Edge, login: LoginId, known: Option<LoginState>) -> Result<()> {
    let state = match known {
        Some(state) => state,
        None => match if_available(edge.batched.revoked.get(login)).await {
            Some(true) => {
                edge.revocations.ended(&[login]);
                LoginState::Ended
            }
            Some(false) => edge.revocations.opened(login),
            None => LoginState::Open,
        },
    };
    match state {
        LoginState::Open => Ok(()),
        LoginState::Ended => Err(login_ended()),
    }
}

/// The client that sent a request, as far as it is known, for the list of the user's sessions.
pub fn client(request: &Request) -> ClientInfo {
    let user_agent = request
        .header("user-agent")
        .map(|text| {
            let visible = text.chars().filter(|c| matches!(c, ' '..='~'));
            visible.take(ClientInfo::MAX_USER_AGENT).collect::<String>()
        })
        .filter(|text| !text.is_empty());
    ClientInfo {
        user_agent,
        address: client_address::of(request).map(|address| address.to_string()),
    }
}

/// Optional authentication.
#[derive(SecurityScheme)]
pub enum MaybeCaller {
    Known(Caller),
    #[oai(fallback)]
    Unknown,
}

/// Returns the room if the caller may see it: a public room, or a room of which the caller is a member.
///
/// # Errors
/// `not_found` if the caller may not see the room.
pub async fn visible(edge: &Edge, room: RoomId, user: UserId) -> Result<(Room, Option<Member>)> {
    match edge.reads.membership(room, user).await? {
        Some((room, member)) if may_know(&room, member.as_ref()) => Ok((room, member)),
        _ => Err(Error::not_found("room")),
    }
}

/// Returns the room and the caller's membership.
///
/// # Errors
/// `not_found` if the caller may not see the room, `forbidden` if the room is public and the caller has not joined it.
pub async fn member(edge: &Edge, room: RoomId, user: UserId) -> Result<(Room, Member)> {
    let (room, member) = visible(edge, room, user).await?;
    let member = member.ok_or_else(join_first)?;
    Ok((room, member))
}

fn may_know(room: &Room, member: Option<&Member>) -> bool {
    member.is_some() || room.kind == RoomKind::Public
}

fn join_first() -> Error {
    Error::forbidden("you are not a member of this room; join it first")
}

/// The permission that a write requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The room is visible to the user.
    Sight,
    /// The user is a member with this role or a higher one.
    Role(Role),
    /// The user is a member and not muted.
    Voice,
}

fn allows(need: Need, room: &Room, member: Option<&Member>, now: Timestamp) -> Result<()> {
    if !may_know(room, member) {
        return Err(Error::not_found("room"));
    }
    match (need, member) {
        (Need::Sight, _) => Ok(()),
        (_, None) => Err(join_first()),
        (Need::Role(role), Some(member)) if member.role < role => {
            Err(Error::forbidden(match role {
                Role::Owner => "only the owner of the room may do this",
                _ => "only an admin or the owner of the room may do this",
            }))
        }
        (Need::Role(_), Some(_)) => Ok(()),
        (Need::Voice, Some(member)) => match member.muted_until {
            Some(until) if until > now => Err(Error::forbidden(format!(
                "you may not write in this room until {until}"
            ))),
            _ => Ok(()),
        },
    }
}

/// Checks early what the worker will check again.
///
/// # Errors
/// `not_found` and `forbidden`. `Ok` if the store does not answer in time.
pub async fn check_early(edge: &Edge, room: RoomId, user: UserId, need: Need) -> Result<()> {
    match if_available(edge.reads.membership(room, user)).await {
        Some(Some((room, member))) => allows(need, &room, member.as_ref(), Timestamp::now()),
        Some(None) => Err(Error::not_found("room")),
        None => Ok(()),
    }
}

/// The result of `read`, or `None` if it fails or takes longer than `CHECK_TIMEOUT`.
pub async fn if_available<T>(read: impl Future<Output = Result<T>>) -> Option<T> {
    match tokio::time::timeout(CHECK_TIMEOUT, read).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(error)) => {
            tracing::debug!(error = %error.chain(), "early check skipped: store unavailable");
            None
        }
        Err(_) => {
            tracing::debug!("early check skipped: store timed out");
            None
        }
    }
}

/// A room command's context and the permission that it requires.
pub struct Write<'a> {
    pub edge: &'a Edge,
    pub user: UserId,
    pub room: RoomId,
    pub need: Need,
}

impl Write<'_> {
    /// Checks the permission, submits the command and waits at most `edge.wait` for the worker's reply.
    pub async fn call(&self, command: RoomCommand) -> Result<SubmitResult> {
        check_early(self.edge, self.room, self.user, self.need).await?;
        self.call_unchecked(command).await
    }

    async fn call_unchecked(&self, command: RoomCommand) -> Result<SubmitResult> {
        self.edge
            .submit
            .call(self.user, Command::Room(self.room, command))
            .await
    }

    /// Submits a command that creates the room; there is no permission to check yet.
    pub async fn create<T: poem_openapi::types::Type>(
        &self,
        command: RoomCommand,
    ) -> Result<Created<T>> {
        Ok(match self.call_unchecked(command).await? {
            SubmitResult::Done(resource) => Created::Done(RawJson::of_raw(shown(resource)?)),
            SubmitResult::Accepted => Created::Accepted(RawJson::of(&Pending::new(self.room))),
        })
    }

    /// Submits a command whose result is a resource; `id` identifies it in a 202 response.
    pub async fn change<T: poem_openapi::types::Type>(
        &self,
        id: uuid::Uuid,
        command: RoomCommand,
    ) -> Result<Changed<T>> {
        Ok(match self.call(command).await? {
            SubmitResult::Done(resource) => Changed::Done(RawJson::of_raw(shown(resource)?)),
            SubmitResult::Accepted => Changed::Accepted(RawJson::of(&Pending::new(id))),
        })
    }

    /// [`Write::change`] of a message, which is shown as its caller sees it.
    pub async fn change_message(
        &self,
        id: MessageId,
        command: RoomCommand,
    ) -> Result<Changed<Message>> {
        Ok(match self.call(command).await? {
            SubmitResult::Done(message) => {
                let reacted = &self.edge.batched.reacted;
                let message = reactions::answer(reacted, self.user, shown(message)?).await;
                Changed::Done(RawJson::of_raw(message))
            }
            SubmitResult::Accepted => Changed::Accepted(RawJson::of(&Pending::new(id))),
        })
    }

    /// Submits a command that has no result to show.
    pub async fn clear(&self, id: uuid::Uuid, command: RoomCommand) -> Result<Gone> {
        Ok(Gone::of(self.call(command).await?, id))
    }
}

/// The resource in a worker's reply.
pub fn shown(
    resource: Option<Box<serde_json::value::RawValue>>,
) -> Result<Box<serde_json::value::RawValue>> {
    resource.ok_or_else(|| Error::internal("a worker's answer holds no resource"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Code,
        model::{User, new_id},
    };

    fn room(kind: RoomKind) -> Room {
        Room {
            id: new_id(),
            kind,
            name: "r".into(),
            head: 0,
            created_by: new_id(),
            created_at: Timestamp::now(),
            deleted: false,
        }
    }

    fn member(role: Role, muted_until: Option<Timestamp>) -> Member {
        Member {
            room: new_id(),
            user: User {
                id: new_id(),
                username: "u".into(),
                display_name: "u".into(),
            },
            role,
            joined_at: Timestamp::now(),
            read_seq: 0,
            muted_until,
        }
    }

    #[test]
    fn strangers_see_nothing_of_private_rooms() {
        let now = Timestamp::now();
        for need in [Need::Sight, Need::Voice, Need::Role(Role::Owner)] {
            for kind in [RoomKind::Private, RoomKind::Direct] {
                let refused = allows(need, &room(kind), None, now).unwrap_err();
                assert_eq!(refused.code, Code::NotFound);
            }
        }
        allows(Need::Sight, &room(RoomKind::Public), None, now).unwrap();
        let refused = allows(Need::Voice, &room(RoomKind::Public), None, now).unwrap_err();
        assert_eq!(refused.code, Code::Forbidden);
    }

    #[test]
    fn roles_and_mutes_count() {
        let (now, private) = (Timestamp::from_millis(1000), room(RoomKind::Private));
        let check = |need, who: &Member| allows(need, &private, Some(who), now).map_err(|e| e.code);
        let plain = member(Role::Member, None);
        assert_eq!(check(Need::Role(Role::Admin), &plain), Err(Code::Forbidden));
        assert_eq!(
            check(Need::Role(Role::Admin), &member(Role::Owner, None)),
            Ok(())
        );
        assert_eq!(check(Need::Voice, &plain), Ok(()));
        let muted = |until| member(Role::Member, Some(Timestamp::from_millis(until)));
        assert_eq!(check(Need::Voice, &muted(1001)), Err(Code::Forbidden));
        assert_eq!(check(Need::Voice, &muted(1000)), Ok(()));
        assert_eq!(check(Need::Role(Role::Member), &muted(1001)), Ok(()));
    }
}
