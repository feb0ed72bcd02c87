//! The port of logins.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{LoginId, Timestamp, UserId},
    store::accounts::Applied,
};

#[async_trait]
pub trait LoginReads: Send + Sync {
    /// A login that is neither revoked nor expired.
    async fn login(&self, login: LoginId) -> Result<Option<Login>>;
    /// The revoked ones among `logins`, which may have any length.
    async fn revoked(&self, logins: &[LoginId]) -> Result<Vec<LoginId>>;
}

#[async_trait]
pub trait LoginWrites: Send + Sync {
    /// Opening the same login again returns `Done` and changes nothing, even if it was revoked since.
    async fn open_login(&self, login: &Login) -> Result<Applied>;
    /// Replaces the token `old_hash` by `new_hash`. A repeat of the last rotation returns `Done`, however late: it has
    /// the same `new_hash`, since the new token is derived from the old one, and the new token was not rotated yet.
    /// Otherwise, a rotation requested before the last one is a redelivery: it is refused, and the login stays. One
    /// requested later, with a token two or more steps behind the current one, shows that an old token was used again,
    /// and revokes the login. Whether an access token of the current step was used does not count.
    async fn rotate_login(&self, rotation: &Rotation) -> Result<Applied>;
    /// Closing it again returns `Done`.
    async fn close_login(&self, login: LoginId) -> Result<Applied>;
    /// All of a user's logins that have not expired, by the store's own clock.
    async fn logins_of(&self, user: UserId) -> Result<Vec<LoginId>>;
}

/// One login of a user, kept so that its refresh token can be rotated and revoked.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub id: LoginId,
    pub user: UserId,
    /// SHA-256 of the current refresh token.
    pub token_hash: Vec<u8>,
    pub expires_at: Timestamp,
}

debug_of!(Login {
    id,
    user,
    expires_at
});

/// A refresh token's replacement by the next one.
#[derive(Clone, PartialEq, Eq)]
pub struct Rotation {
    pub login: LoginId,
    pub old_hash: Vec<u8>,
    pub new_hash: Vec<u8>,
    pub expires_at: Timestamp,
    /// When the client requested it. The command may have waited in the queue since.
    pub asked_at: Timestamp,
    /// When it is applied, by the worker's clock.
    pub applied_at: Timestamp,
}

debug_of!(Rotation {
    login,
    expires_at,
    asked_at,
    applied_at
});
