//! An authenticated caller.

use crate::model::{LoginId, UserId};

/// An authenticated user and their login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub user: UserId,
    pub login: LoginId,
}
