//! The expected answer to every operation and event, for each kind of caller. The tests check the server against it,
//! and `docs/rights.md` is generated from it.

/// The callers, in the order of the columns.
pub const CALLERS: [&str; 7] = [
    "stranger", "banned", "removed", "member", "muted", "admin", "owner",
];

/// The status for each caller.
type Statuses = [u16; CALLERS.len()];

/// An operation on a room. In `{room}` every caller has the state that its column names. `{message}` is a message of
/// another plain member; `{own}` is one of the caller, or of another member if the caller has none. `{target}` is
/// another plain member, `{newcomer}` a user who is no member, `{self}` the caller. Without a token, or with a forged
/// or an expired one, the answer is 401.
pub struct RoomRow {
    pub operation: &'static str,
    pub note: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    /// JSON, or empty.
    pub body: &'static str,
    pub private: Statuses,
    pub public: Statuses,
}

impl RoomRow {
    pub fn name(&self) -> String {
        named(self.operation, self.note)
    }
}

pub fn named(name: &str, note: &str) -> String {
    match note {
        "" => name.to_owned(),
        note => format!("{name} ({note})"),
    }
}

/// The problem code of this status; empty for a success.
pub fn code(status: u16) -> &'static str {
    match status {
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        _ => "",
    }
}

/// An operation without a room.
pub struct AccountRow {
    pub operation: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    /// `{refresh}`, `{username}` and `{password}` are the caller's.
    pub body: &'static str,
    /// The status without a token. If it is 401, forged and expired tokens get 401 as well.
    pub anonymous: u16,
    /// The status with an account; `None` where it does not depend on the token.
    pub account: Option<u16>,
    pub note: &'static str,
}

/// The answer to an event.
#[derive(Debug, Clone, Copy)]
pub enum Want {
    Ok,
    No(&'static str),
    /// Acknowledged, then refused with `sendFailed`.
    Later(&'static str),
}

type Answers = [Want; CALLERS.len()];

/// A client event.
pub struct Event {
    pub event: &'static str,
    pub note: &'static str,
    /// Placeholders as in [`RoomRow`].
    pub data: &'static str,
    pub private: Answers,
    pub public: Answers,
}

pub const ROOM_ROWS: &[RoomRow] = &[
    RoomRow {
        operation: "getRoom",
        note: "",
        method: "GET",
        path: "/v1/rooms/{room}",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [200, 200, 200, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "updateRoom",
        note: "",
        method: "PATCH",
        path: "/v1/rooms/{room}",
        body: r#"{"name":"x"}"#,
        private: [404, 404, 404, 403, 403, 200, 200],
        public: [403, 403, 403, 403, 403, 200, 200],
    },
    RoomRow {
        operation: "deleteRoom",
        note: "",
        method: "DELETE",
        path: "/v1/rooms/{room}",
        body: "",
        private: [404, 404, 404, 403, 403, 403, 204],
        public: [403, 403, 403, 403, 403, 403, 204],
    },
    RoomRow {
        operation: "joinRoom",
        note: "",
        method: "POST",
        path: "/v1/rooms/{room}/join",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [200, 403, 200, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "leaveRoom",
        note: "",
        method: "POST",
        path: "/v1/rooms/{room}/leave",
        body: "",
        private: [404, 404, 404, 204, 204, 204, 409],
        public: [204, 204, 204, 204, 204, 204, 409],
    },
    RoomRow {
        operation: "listMembers",
        note: "",
        method: "GET",
        path: "/v1/rooms/{room}/members",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "setMember",
        note: "add a member",
        method: "PUT",
        path: "/v1/rooms/{room}/members/{newcomer}",
        body: r#"{"role":"member"}"#,
        private: [404, 404, 404, 403, 403, 200, 200],
        public: [403, 403, 403, 403, 403, 200, 200],
    },
    RoomRow {
        operation: "setMember",
        note: "add an admin",
        method: "PUT",
        path: "/v1/rooms/{room}/members/{newcomer}",
        body: r#"{"role":"admin"}"#,
        private: [404, 404, 404, 403, 403, 403, 200],
        public: [403, 403, 403, 403, 403, 403, 200],
    },
    RoomRow {
        operation: "setMember",
        note: "change a role",
        method: "PUT",
        path: "/v1/rooms/{room}/members/{target}",
        body: r#"{"role":"admin"}"#,
        private: [404, 404, 404, 403, 403, 403, 200],
        public: [403, 403, 403, 403, 403, 403, 200],
    },
    RoomRow {
        operation: "setMember",
        note: "transfer the room",
        method: "PUT",
        path: "/v1/rooms/{room}/members/{target}",
        body: r#"{"role":"owner"}"#,
        private: [404, 404, 404, 403, 403, 403, 200],
        public: [403, 403, 403, 403, 403, 403, 200],
    },
    RoomRow {
        operation: "removeMember",
        note: "another",
        method: "DELETE",
        path: "/v1/rooms/{room}/members/{target}",
        body: "",
        private: [404, 404, 404, 403, 403, 204, 204],
        public: [403, 403, 403, 403, 403, 204, 204],
    },
    RoomRow {
        operation: "removeMember",
        note: "oneself",
        method: "DELETE",
        path: "/v1/rooms/{room}/members/{self}",
        body: "",
        private: [404, 404, 404, 204, 204, 204, 409],
        public: [204, 204, 204, 204, 204, 204, 409],
    },
    RoomRow {
        operation: "banUser",
        note: "",
        method: "PUT",
        path: "/v1/rooms/{room}/bans/{target}",
        body: "{}",
        private: [404, 404, 404, 403, 403, 204, 204],
        public: [403, 403, 403, 403, 403, 204, 204],
    },
    RoomRow {
        operation: "unbanUser",
        note: "",
        method: "DELETE",
        path: "/v1/rooms/{room}/bans/{target}",
        body: "",
        private: [404, 404, 404, 403, 403, 204, 204],
        public: [403, 403, 403, 403, 403, 204, 204],
    },
    RoomRow {
        operation: "muteMember",
        note: "",
        method: "PUT",
        path: "/v1/rooms/{room}/mutes/{target}",
        body: "{}",
        private: [404, 404, 404, 403, 403, 200, 200],
        public: [403, 403, 403, 403, 403, 200, 200],
    },
    RoomRow {
        operation: "muteMember",
        note: "a user who is not a member",
        method: "PUT",
        path: "/v1/rooms/{room}/mutes/{newcomer}",
        body: "{}",
        private: [404, 404, 404, 403, 403, 204, 204],
        public: [403, 403, 403, 403, 403, 204, 204],
    },
    RoomRow {
        operation: "unmuteMember",
        note: "",
        method: "DELETE",
        path: "/v1/rooms/{room}/mutes/{target}",
        body: "",
        private: [404, 404, 404, 403, 403, 200, 200],
        public: [403, 403, 403, 403, 403, 200, 200],
    },
    RoomRow {
        operation: "listMessages",
        note: "",
        method: "GET",
        path: "/v1/rooms/{room}/messages",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "listMessages",
        note: "with `after`",
        method: "GET",
        path: "/v1/rooms/{room}/messages?after=1",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "sendMessage",
        note: "",
        method: "POST",
        path: "/v1/rooms/{room}/messages",
        body: r#"{"body":"x"}"#,
        private: [404, 404, 404, 202, 403, 202, 202],
        public: [403, 403, 403, 202, 403, 202, 202],
    },
    RoomRow {
        operation: "getMessage",
        note: "",
        method: "GET",
        path: "/v1/rooms/{room}/messages/{message}",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "editMessage",
        note: "one's own",
        method: "PATCH",
        path: "/v1/rooms/{room}/messages/{own}",
        body: r#"{"body":"y"}"#,
        private: [404, 404, 404, 200, 403, 200, 200],
        public: [403, 403, 403, 200, 403, 200, 200],
    },
    RoomRow {
        operation: "editMessage",
        note: "another's",
        method: "PATCH",
        path: "/v1/rooms/{room}/messages/{message}",
        body: r#"{"body":"y"}"#,
        private: [404, 404, 404, 403, 403, 403, 403],
        public: [403, 403, 403, 403, 403, 403, 403],
    },
    RoomRow {
        operation: "deleteMessage",
        note: "one's own",
        method: "DELETE",
        path: "/v1/rooms/{room}/messages/{own}",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "deleteMessage",
        note: "another's",
        method: "DELETE",
        path: "/v1/rooms/{room}/messages/{message}",
        body: "",
        private: [404, 404, 404, 403, 403, 200, 200],
        public: [403, 403, 403, 403, 403, 200, 200],
    },
    RoomRow {
        operation: "listReaction",
        note: "",
        method: "GET",
        path: "/v1/rooms/{room}/messages/{message}/reactions/%F0%9F%91%8D",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "addReaction",
        note: "",
        method: "PUT",
        path: "/v1/rooms/{room}/messages/{message}/reactions/%F0%9F%91%8D",
        body: "",
        private: [404, 404, 404, 200, 403, 200, 200],
        public: [403, 403, 403, 200, 403, 200, 200],
    },
    RoomRow {
        operation: "removeReaction",
        note: "",
        method: "DELETE",
        path: "/v1/rooms/{room}/messages/{message}/reactions/%F0%9F%91%8D",
        body: "",
        private: [404, 404, 404, 200, 403, 200, 200],
        public: [403, 403, 403, 200, 403, 200, 200],
    },
    RoomRow {
        operation: "markRead",
        note: "",
        method: "PUT",
        path: "/v1/rooms/{room}/read",
        body: r#"{"seq":1}"#,
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "listChanges",
        note: "",
        method: "GET",
        path: "/v1/rooms/{room}/changes",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [403, 403, 403, 200, 200, 200, 200],
    },
    RoomRow {
        operation: "listMessageNotifications",
        note: "",
        method: "GET",
        path: "/v1/messages/{message}/notifications",
        body: "",
        private: [404, 404, 404, 200, 200, 200, 200],
        public: [404, 404, 404, 200, 200, 200, 200],
    },
];

pub const ACCOUNT_ROWS: &[AccountRow] = &[
    AccountRow {
        operation: "register",
        method: "POST",
        path: "/v1/auth/register",
        body: r#"{"username":"u{short}","password":"{password}"}"#,
        anonymous: 201,
        account: None,
        note: "anyone",
    },
    AccountRow {
        operation: "logIn",
        method: "POST",
        path: "/v1/auth/login",
        body: r#"{"username":"{username}","password":"{password}"}"#,
        anonymous: 200,
        account: None,
        note: "with the password",
    },
    AccountRow {
        operation: "refresh",
        method: "POST",
        path: "/v1/auth/refresh",
        body: r#"{"refreshToken":"{refresh}"}"#,
        anonymous: 200,
        account: None,
        note: "with the refresh token",
    },
    AccountRow {
        operation: "logOut",
        method: "POST",
        path: "/v1/auth/logout",
        body: r#"{"refreshToken":"{refresh}"}"#,
        anonymous: 204,
        account: None,
        note: "with the refresh token, or with the access token: the login that it belongs to",
    },
    AccountRow {
        operation: "createTicket",
        method: "POST",
        path: "/v1/auth/ticket",
        body: "{}",
        anonymous: 401,
        account: Some(201),
        note: "for oneself",
    },
    AccountRow {
        operation: "getMe",
        method: "GET",
        path: "/v1/me",
        body: "",
        anonymous: 401,
        account: Some(200),
        note: "oneself",
    },
    AccountRow {
        operation: "updateMe",
        method: "PATCH",
        path: "/v1/me",
        body: r#"{"displayName":"x"}"#,
        anonymous: 401,
        account: Some(200),
        note: "oneself",
    },
    AccountRow {
        operation: "changePassword",
        method: "PUT",
        path: "/v1/me/password",
        body: r#"{"currentPassword":"{password}","newPassword":"correct horse battery"}"#,
        anonymous: 401,
        account: Some(204),
        note: "oneself, with the current password",
    },
    AccountRow {
        operation: "listSessions",
        method: "GET",
        path: "/v1/me/sessions",
        body: "",
        anonymous: 401,
        account: Some(200),
        note: "one's own",
    },
    AccountRow {
        operation: "endOtherSessions",
        method: "DELETE",
        path: "/v1/me/sessions",
        body: "",
        anonymous: 401,
        account: Some(204),
        note: "one's own",
    },
    AccountRow {
        operation: "endSession",
        method: "DELETE",
        path: "/v1/me/sessions/{random}",
        body: "",
        anonymous: 401,
        account: Some(404),
        note: "one's own; here, another one",
    },
    AccountRow {
        operation: "deleteMe",
        method: "DELETE",
        path: "/v1/me",
        body: r#"{"password":"{password}"}"#,
        anonymous: 401,
        account: Some(204),
        note: "oneself",
    },
    AccountRow {
        operation: "createRoom",
        method: "POST",
        path: "/v1/rooms",
        body: r#"{"kind":"private","name":"x","members":["{newcomer}"]}"#,
        anonymous: 401,
        account: Some(201),
        note: "with the members that `rooms.add_members` allows to add",
    },
    AccountRow {
        operation: "listRooms",
        method: "GET",
        path: "/v1/rooms",
        body: "",
        anonymous: 401,
        account: Some(200),
        note: "one's own and the public ones",
    },
    AccountRow {
        operation: "getNotificationSettings",
        method: "GET",
        path: "/v1/me/notifications",
        body: "",
        anonymous: 401,
        account: Some(200),
        note: "one's own",
    },
    AccountRow {
        operation: "putNotificationSettings",
        method: "PUT",
        path: "/v1/me/notifications",
        body: "{}",
        anonymous: 401,
        account: Some(200),
        note: "one's own",
    },
    AccountRow {
        operation: "sendVerificationCode",
        method: "POST",
        path: "/v1/me/verify/email",
        body: "{}",
        anonymous: 401,
        account: Some(409),
        note: "to one's own address; 409 if the channel is not set up",
    },
    AccountRow {
        operation: "confirmAddress",
        method: "POST",
        path: "/v1/me/verify/email/confirm",
        body: r#"{"code":"000000"}"#,
        anonymous: 401,
        account: Some(422),
        note: "one's own address; needs the code that was sent",
    },
    AccountRow {
        operation: "listNotifications",
        method: "GET",
        path: "/v1/me/notifications/history",
        body: "",
        anonymous: 401,
        account: Some(200),
        note: "one's own",
    },
    AccountRow {
        operation: "takeSendgridEvents",
        method: "POST",
        path: "/v1/webhooks/sendgrid",
        body: "[]",
        anonymous: 403,
        account: None,
        note: "with a valid signature; 403 if the provider is not set up",
    },
    AccountRow {
        operation: "takeTwilioReport",
        method: "POST",
        path: "/v1/webhooks/twilio",
        body: "",
        anonymous: 403,
        account: None,
        note: "with a valid signature; 403 if the provider is not set up",
    },
    AccountRow {
        operation: "askToUnsubscribe",
        method: "GET",
        path: "/v1/unsubscribe/{random}/x",
        body: "",
        anonymous: 404,
        account: None,
        note: "with the link's secret",
    },
    AccountRow {
        operation: "unsubscribe",
        method: "POST",
        path: "/v1/unsubscribe/{random}/x",
        body: "",
        anonymous: 404,
        account: None,
        note: "with the link's secret",
    },
    AccountRow {
        operation: "healthz",
        method: "GET",
        path: "/healthz",
        body: "",
        anonymous: 200,
        account: None,
        note: "anyone",
    },
    AccountRow {
        operation: "readyz",
        method: "GET",
        path: "/readyz",
        body: "",
        anonymous: 200,
        account: None,
        note: "anyone",
    },
    AccountRow {
        operation: "metrics",
        method: "GET",
        path: "/metrics",
        body: "",
        anonymous: 200,
        account: None,
        note: "anyone who reaches the port",
    },
];

const OK: Want = Want::Ok;
const NOT_FOUND: Want = Want::No("not_found");
const FORBIDDEN: Want = Want::No("forbidden");
const LATER: Want = Want::Later("forbidden");

pub const EVENTS: &[Event] = &[
    Event {
        event: "auth",
        note: "a new token of the same user",
        data: "{}",
        private: [OK, OK, OK, OK, OK, OK, OK],
        public: [OK, OK, OK, OK, OK, OK, OK],
    },
    Event {
        event: "joinRoom",
        note: "",
        data: r#"{"room":"{room}"}"#,
        private: [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, OK, OK, OK],
        public: [OK, FORBIDDEN, OK, OK, OK, OK, OK],
    },
    Event {
        event: "joinRoom",
        note: "with `afterSeq`",
        data: r#"{"room":"{room}","afterSeq":0}"#,
        private: [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, OK, OK, OK],
        public: [OK, FORBIDDEN, OK, OK, OK, OK, OK],
    },
    Event {
        event: "leaveRoom",
        note: "this socket only",
        data: r#"{"room":"{room}"}"#,
        private: [OK, OK, OK, OK, OK, OK, OK],
        public: [OK, OK, OK, OK, OK, OK, OK],
    },
    Event {
        event: "sendMessage",
        note: "",
        data: r#"{"room":"{room}","body":"x","clientMsgId":"1"}"#,
        private: [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, LATER, OK, OK],
        public: [FORBIDDEN, FORBIDDEN, FORBIDDEN, OK, LATER, OK, OK],
    },
    Event {
        event: "editMessage",
        note: "one's own",
        data: r#"{"room":"{room}","id":"{own}","body":"y"}"#,
        private: [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, FORBIDDEN, OK, OK],
        public: [FORBIDDEN, FORBIDDEN, FORBIDDEN, OK, FORBIDDEN, OK, OK],
    },
    Event {
        event: "editMessage",
        note: "another's",
        data: r#"{"room":"{room}","id":"{message}","body":"y"}"#,
        private: [
            NOT_FOUND, NOT_FOUND, NOT_FOUND, FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN,
        ],
        public: [
            FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN,
        ],
    },
    Event {
        event: "deleteMessage",
        note: "one's own",
        data: r#"{"room":"{room}","id":"{own}"}"#,
        private: [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, OK, OK, OK],
        public: [FORBIDDEN, FORBIDDEN, FORBIDDEN, OK, OK, OK, OK],
    },
    Event {
        event: "deleteMessage",
        note: "another's",
        data: r#"{"room":"{room}","id":"{message}"}"#,
        private: [
            NOT_FOUND, NOT_FOUND, NOT_FOUND, FORBIDDEN, FORBIDDEN, OK, OK,
        ],
        public: [
            FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN, FORBIDDEN, OK, OK,
        ],
    },
    Event {
        event: "react",
        note: "",
        data: r#"{"room":"{room}","id":"{message}","emoji":"👍","on":true}"#,
        private: [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, FORBIDDEN, OK, OK],
        public: [FORBIDDEN, FORBIDDEN, FORBIDDEN, OK, FORBIDDEN, OK, OK],
    },
    Event {
        event: "markRead",
        note: "",
        data: r#"{"room":"{room}","seq":1}"#,
        private: [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, OK, OK, OK],
        public: [FORBIDDEN, FORBIDDEN, FORBIDDEN, OK, OK, OK, OK],
    },
    Event {
        event: "disconnect",
        note: "",
        data: "{}",
        private: [OK, OK, OK, OK, OK, OK, OK],
        public: [OK, OK, OK, OK, OK, OK, OK],
    },
];
