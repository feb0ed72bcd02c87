//! Account and login commands and their effects. Run one at a time, in order per user.

use serde::{Deserialize, Serialize};

use super::{Notice, Outcome, Refusal};
use crate::{
    error::{Code, Result},
    model::{Account, ClientInfo, LoginId, Timestamp, UserId},
    store::{AccountPatch, Applied, Login, NewAccount, NewPassword, Rotation, Writes},
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
        /// The hash that the password was checked against, if it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password_hash: Option<String>,
        #[serde(default)]
        client: ClientInfo,
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
    /// Ends all logins of the actor, except this one.
    CloseLogins {
        except: Option<LoginId>,
    },
    /// Also ends all logins of the actor, except this one. Refused if the password is no longer the one that it
    /// replaces.
    SetPassword {
        password_hash: String,
        /// The hash of the present password.
        replaces: String,
        except: Option<LoginId>,
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
            AccountCommand::CloseLogins { .. } => "CloseLogins",
            AccountCommand::SetPassword { .. } => "SetPassword",
            AccountCommand::Update { .. } => "Update",
            AccountCommand::Delete => "Delete",
        })
    }
}

/// The outcome of a command, and notices for all nodes.
#[derive(Debug)]
pub struct Ran {
    pub outcome: Outcome,
    pub notices: Vec<Notice>,
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
            password_hash,
            client,
        } => {
            let login = Login {
                id: *login,
                user: actor,
                token_hash: token_hash.clone(),
                expires_at: *expires_at,
                created_at: at,
                client: client.clone(),
            };
            store.open_login(&login, password_hash.as_deref()).await?
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
        AccountCommand::CloseLogin { login } => store.close_login(actor, *login).await?,
        AccountCommand::CloseLogins { except } => store.close_logins(actor, *except, at).await?,
        AccountCommand::SetPassword {
            password_hash,
            replaces,
            except,
        } => {
            let new = NewPassword {
                password_hash: password_hash.clone(),
                replaces: replaces.clone(),
            };
            store.set_password(actor, &new, *except, at).await?
        }
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
    let notices = match (command, applied) {
        (AccountCommand::CloseLogin { login }, Applied::Done)
        | (AccountCommand::RotateLogin { login, .. }, Applied::LoginRevoked)
        // The account was deleted while the user logged in; an edge may have issued the login's first access token.
        | (AccountCommand::OpenLogin { login, .. }, Applied::NoSuchUser) => {
            vec![Notice::LoginClosed { login: *login }]
        }
        // A repeat announces them again: the worker that closed them may have died.
        (AccountCommand::CloseLogins { .. } | AccountCommand::SetPassword { .. }, Applied::Done) => {
            let revoked = store.revoked_by(actor, at).await?;
            revoked.into_iter().map(|login| Notice::LoginClosed { login }).collect()
        }
        (AccountCommand::Update { .. } | AccountCommand::Delete, _) => {
            vec![Notice::AccountChanged { user: actor }]
        }
        _ => Vec::new(),
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
    Ok(Ran { outcome, notices })
}
