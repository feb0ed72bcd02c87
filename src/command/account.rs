//! Account and login commands and their effects. Run one at a time, in order per user.

use serde::{Deserialize, Serialize};

use super::{Notice, Outcome, Refusal};
use crate::{
    error::{Code, Result},
    model::{Account, LoginId, Timestamp, UserId},
    store::{AccountPatch, Applied, Login, NewAccount, Rotation, Writes},
};

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccountCommand {
    Register {
        account: Account,
        password_hash: String,
    },
    OpenLogin {
        login: LoginId,
        token_hash: Vec<u8>,
        expires_at: Timestamp,
    },
    RotateLogin {
        login: LoginId,
        old_hash: Vec<u8>,
        new_hash: Vec<u8>,
        expires_at: Timestamp,
    },
    CloseLogin {
        login: LoginId,
    },
    Update {
        display_name: Option<String>,
        email: Option<String>,
        phone: Option<String>,
    },
    /// Permanent. The worker then closes the account's sockets and ends its deliveries and memberships, and
    /// acknowledges last.
    Delete,
}

/// Omits hashes: failed commands are logged.
impl std::fmt::Debug for AccountCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AccountCommand::Register { .. } => "Register",
            AccountCommand::OpenLogin { .. } => "OpenLogin",
            AccountCommand::RotateLogin { .. } => "RotateLogin",
            AccountCommand::CloseLogin { .. } => "CloseLogin",
            AccountCommand::Update { .. } => "Update",
            AccountCommand::Delete => "Delete",
        })
    }
}

/// The outcome of a command, and a notice for all nodes.
#[derive(Debug)]
pub struct Ran {
    pub outcome: Outcome,
    pub notice: Option<Notice>,
}

/// Applies one command. An `Err` is a store failure; the command is retried unchanged.
pub async fn run(
    store: &dyn Writes,
    actor: UserId,
    at: Timestamp,
    command: &AccountCommand,
) -> Result<Ran> {
    let applied = match command {
        AccountCommand::Register {
            account,
            password_hash,
        } => {
            let new = NewAccount {
                account: account.clone(),
                password_hash: password_hash.clone(),
            };
            store.register(&new).await?
        }
        AccountCommand::OpenLogin {
            login,
            token_hash,
            expires_at,
        } => {
            let login = Login {
                id: *login,
                user: actor,
                token_hash: token_hash.clone(),
                expires_at: *expires_at,
            };
            store.open_login(&login).await?
        }
        AccountCommand::RotateLogin {
            login,
            old_hash,
            new_hash,
            expires_at,
        } => {
            let rotation = Rotation {
                login: *login,
                old_hash: old_hash.clone(),
                new_hash: new_hash.clone(),
                expires_at: *expires_at,
                asked_at: at,
                applied_at: Timestamp::now(),
            };
            store.rotate_login(&rotation).await?
        }
        AccountCommand::CloseLogin { login } => store.close_login(*login).await?,
        AccountCommand::Update {
            display_name,
            email,
            phone,
        } => {
            let patch = AccountPatch {
                display_name: display_name.clone(),
                email: email.clone(),
                phone: phone.clone(),
            };
            store.update_account(actor, &patch).await?
        }
        AccountCommand::Delete => store.erase_account(actor, at).await?,
    };
    let notice = match (command, applied) {
        (AccountCommand::CloseLogin { login }, _)
        | (AccountCommand::RotateLogin { login, .. }, Applied::LoginRevoked)
        // The account was deleted while the user logged in; an edge may have issued the login's first access token.
        | (AccountCommand::OpenLogin { login, .. }, Applied::NoSuchUser) => {
            Some(Notice::LoginClosed { login: *login })
        }
        (AccountCommand::Update { .. } | AccountCommand::Delete, _) => {
            Some(Notice::AccountChanged { user: actor })
        }
        _ => None,
    };
    let outcome = match applied {
        Applied::Done => Outcome::Done(None),
        Applied::NameTaken => Outcome::Refused(Refusal::new(
            Code::Conflict,
            "this user name is taken; choose another",
        )),
        Applied::NameConfusable => Outcome::Refused(Refusal::new(
            Code::Conflict,
            "this user name looks like one that exists; choose another",
        )),
        Applied::LoginRefused | Applied::LoginRevoked => Outcome::Refused(Refusal::new(
            Code::Unauthorized,
            "this refresh token is not good any more; log in again",
        )),
        Applied::NoSuchUser => {
            Outcome::Refused(Refusal::new(Code::NotFound, "this account is gone"))
        }
    };
    Ok(Ran { outcome, notice })
}
