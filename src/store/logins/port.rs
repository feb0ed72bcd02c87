//! The port of logins.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{ClientInfo, LoginId, Timestamp, UserId},
    store::accounts::Applied,
};

#[async_trait]
pub trait LoginReads: Send + Sync {
    /// A login that is neither revoked nor expired.
    async fn login(&self, login: LoginId) -> Result<Option<Login>>;
    /// The user's logins that are neither revoked nor expired and have a greater id than `after`, in the order of their
    /// ids, which is that of their times.
    async fn sessions(
        &self,
        user: UserId,
        after: Option<LoginId>,
        limit: u32,
    ) -> Result<Vec<LoginSession>>;
    /// The revoked ones among `logins`, which may have any length.
    async fn revoked(&self, logins: &[LoginId]) -> Result<Vec<LoginId>>;
}

#[async_trait]
pub trait LoginWrites: Send + Sync {
    /// Opening the same login again returns `Done` and changes nothing, even if it was revoked since. If
    /// `password_hash` is given and no longer that of the account, the password was changed after it was checked:
    /// `NoSuchUser`.
    async fn open_login(&self, login: &Login, password_hash: Option<&str>) -> Result<Applied>;
    /// Replaces the token `old_hash` by `new_hash`. A repeat of the last rotation returns `Done`, however late: it has
    /// the same `new_hash`, since the new token is derived from the old one, and the new token was not rotated yet.
    /// Otherwise, a rotation requested before the last one is a redelivery: it is refused, and the login stays. One
    /// requested later, with a token two or more steps behind the current one, shows that an old token was used again,
    /// and revokes the login. Whether an access token of the current step was used does not count.
    async fn rotate_login(&self, rotation: &Rotation) -> Result<Applied>;
    /// Closing it again returns `Done`. `LoginRefused` if the user has no such login.
    async fn close_login(&self, user: UserId, login: LoginId) -> Result<Applied>;
    /// Closes the user's open logins except `except`. `at` is the time of the command: a repeat closes no login that was
    /// opened since, as long as the first call has closed one.
    async fn close_logins(
        &self,
        user: UserId,
        except: Option<LoginId>,
        at: Timestamp,
    ) -> Result<Applied>;
    /// Sets the password and closes the user's open logins except `except`. `at` is the time of the command.
    /// `NoSuchUser` if the password is no longer the one that it replaces; a repeat returns `Done`.
    async fn set_password(
        &self,
        user: UserId,
        new: &NewPassword,
        except: Option<LoginId>,
        at: Timestamp,
    ) -> Result<Applied>;
    /// The logins that the user's command of this time has closed.
    async fn revoked_by(&self, user: UserId, at: Timestamp) -> Result<Vec<LoginId>>;
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
    /// When the user logged in.
    pub created_at: Timestamp,
    pub client: ClientInfo,
}

/// A login as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSession {
    pub id: LoginId,
    /// `None` in logins of earlier versions.
    pub created_at: Option<Timestamp>,
    /// The last refresh; `None` before the first one.
    pub refreshed_at: Option<Timestamp>,
    pub expires_at: Timestamp,
    pub client: ClientInfo,
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

/// A new password, as PHC strings.
#[derive(Clone)]
pub struct NewPassword {
    pub password_hash: String,
    /// The hash of the password that it replaces.
    pub replaces: String,
}

debug_of!(NewPassword {});
