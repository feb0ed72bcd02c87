//! The port of accounts.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Account, Credentials, Timestamp, User, UserId},
};

#[async_trait]
pub trait AccountReads: Send + Sync {
    /// By user name, compared without regard to case.
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>>;
    async fn account(&self, user: UserId) -> Result<Option<Account>>;
    /// [`AccountReads::account`] of each, in the order asked; any number of users.
    async fn accounts(&self, users: &[UserId]) -> Result<Vec<Option<Account>>>;
    /// Those that exist, in any order.
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>>;
}

#[async_trait]
pub trait AccountWrites: Send + Sync {
    /// The same id and name again is `Done`, not `NameTaken`.
    async fn register(&self, new: &NewAccount) -> Result<Applied>;
    async fn update_account(&self, user: UserId, patch: &AccountPatch) -> Result<Applied>;
    /// Deletes an account: its logins are revoked, no new one can be opened, and of the personal data only the
    /// memberships stay. The row stays under [`DELETED_USERNAME`](super::DELETED_USERNAME), and the user name is free.
    /// A repeat is `Done` and deletes what was stored since.
    async fn erase_account(&self, user: UserId, at: Timestamp) -> Result<Applied>;
}

/// A new account together with its password's hash.
#[derive(Clone)]
pub struct NewAccount {
    pub account: Account,
    pub password_hash: String,
}

debug_of!(NewAccount { account });

/// The result of an account or login command. Repeating a command gives the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The user name belongs to another account.
    NameTaken,
    /// Another account's name looks the same.
    NameConfusable,
    /// The login is unknown or expired, or the command is an old one that was delivered again.
    LoginRefused,
    /// The login is revoked: it was before, or its token was used before, which revokes it now. Its sockets must close.
    LoginRevoked,
    NoSuchUser,
}

/// A change of a user's own account; `None` leaves a field, an empty string clears it. A cleared display name becomes
/// the user name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AccountPatch {
    pub display_name: Option<String>,
    pub email: Option<String>,
    pub phone: Option<String>,
}

debug_of!(AccountPatch {});
