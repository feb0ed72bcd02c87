//! The port of logins.

use std::time::Duration;

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
    /// Those of them that were revoked; any number of logins.
    async fn revoked(&self, logins: &[LoginId]) -> Result<Vec<LoginId>>;
}

#[async_trait]
pub trait LoginWrites: Send + Sync {
    /// The same login again is `Done` and changes nothing, whatever happened to it since.
    async fn open_login(&self, login: &Login) -> Result<Applied>;
    /// Replaces the token `old_hash` by `new_hash`. A repeat of the last rotation, asked for before it or within
    /// `grace` after it, is `Done`; an older token used again revokes the login. A repeat brings the same `new_hash`:
    /// the new token must follow from the old one. Anything else asked for before the last rotation is a
    /// redelivery: refused, and the login stays.
    async fn rotate_login(&self, rotation: &Rotation) -> Result<Applied>;
    /// Closing it again is `Done`.
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
    /// When the client asked. The command may have waited in the queue since.
    pub asked_at: Timestamp,
    /// When it is applied. `grace` counts from here, because clients repeat requests that got no answer.
    pub applied_at: Timestamp,
    pub grace: Duration,
}

debug_of!(Rotation {
    login,
    expires_at,
    asked_at,
    applied_at
});
