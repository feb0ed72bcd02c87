//! The port of accounts.

use async_trait::async_trait;

use crate::{
    error::Result,
    model::{Account, Credentials, Timestamp, User, UserId},
};

#[async_trait]
pub trait AccountReads: Send + Sync {
    /// The credentials of a user name, which is compared without regard to case.
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>>;
    async fn account(&self, user: UserId) -> Result<Option<Account>>;
    /// The account of each user, in the order of `users`, which may have any length.
    async fn accounts(&self, users: &[UserId]) -> Result<Vec<Option<Account>>>;
    /// The users among `ids` that exist, in any order.
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>>;
}

#[async_trait]
pub trait AccountWrites: Send + Sync {
    /// Registering the same id and name again returns `Done`, not `NameTaken`.
    async fn register(&self, new: &NewAccount) -> Result<Applied>;
    async fn update_account(&self, user: UserId, patch: &AccountPatch) -> Result<Applied>;
    /// The current names of a user whose account is not deleted.
    async fn names(&self, user: UserId) -> Result<Option<User>>;
    /// Deletes an account: revokes its logins, prevents new ones, and erases all personal data except the
    /// memberships. The row stays under [`DELETED_USERNAME`](super::DELETED_USERNAME), and the user name is free.
    /// A repeat returns `Done` and erases data that was stored since.
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
    /// The login is revoked, either earlier or by this command, because its token had been used already. Its sockets
    /// must be closed.
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
