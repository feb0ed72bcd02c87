//! `/v1/me`: the caller's own account.

use poem_openapi::{Object, OpenApi, types::MaybeUndefined};
use serde::{Deserialize, Serialize};

use super::{
    Tags,
    access::{Caller, Shared},
    fields,
    payload::{Body, Changed, Found, Gone, Pending, RawJson},
    problem::Problem,
};
use crate::{
    command::{Command, account::AccountCommand},
    edge::{Edge, rate_limit::cost, submit::SubmitResult},
    error::{Error, Result},
    model::{Account, Timestamp, UserId},
};

pub struct MeApi;

/// The caller's own account.
#[derive(Serialize, Object)]
#[serde(rename_all = "camelCase")]
#[oai(rename_all = "camelCase", rename = "Account")]
pub struct AccountView {
    id: UserId,
    username: String,
    display_name: String,
    /// Absent if the account has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    email: Option<String>,
    /// Absent if the account has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    phone: Option<String>,
    created_at: Timestamp,
}

impl From<&Account> for AccountView {
    fn from(account: &Account) -> Self {
        AccountView {
            id: account.user.id,
            username: account.user.username.clone(),
            display_name: account.user.display_name.clone(),
            email: account.email.clone(),
            phone: account.phone.clone(),
            created_at: account.created_at,
        }
    }
}

/// Fields to change. Absent fields keep their value; other fields, such as `username` and `password`, cannot be changed
/// and are refused.
#[derive(Deserialize, Object)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[oai(rename_all = "camelCase", rename = "AccountPatch")]
struct AccountPatch {
    /// At most 64 characters.
    display_name: Option<String>,
    /// `null` or an empty string removes it. A new address has to be verified again.
    #[serde(default)]
    email: MaybeUndefined<String>,
    /// E.164, such as +4915112345678. `null` or an empty string removes it. A new number has to be verified again.
    #[serde(default)]
    phone: MaybeUndefined<String>,
}

#[OpenApi(prefix_path = "/v1/me", tag = "Tags::Me")]
impl MeApi {
    /// Get my account
    #[oai(path = "/", method = "get", operation_id = "getMe")]
    async fn get(&self, edge: Shared<'_>, caller: Caller) -> Result<Found<AccountView>, Problem> {
        let account = account(&edge, caller.user()).await?;
        Ok(Found::of(&AccountView::from(&account)))
    }

    /// Update my account
    #[oai(path = "/", method = "patch", operation_id = "updateMe")]
    async fn update(
        &self,
        edge: Shared<'_>,
        caller: Caller,
        body: Body<AccountPatch>,
    ) -> Result<Changed<AccountView>, Problem> {
        let Body(mut patch) = body;
        let (mut email, mut phone) = (cleared(patch.email), cleared(patch.phone));
        fields::all([
            fields::display_name(patch.display_name.as_mut()),
            fields::email(written(&mut email)),
            fields::phone(written(&mut phone)),
        ])?;
        if patch.display_name.is_some() {
            edge.limits.admit_more(caller.user(), cost::RENAME)?;
        }
        let command = AccountCommand::Update {
            display_name: patch.display_name,
            email,
            phone,
        };
        let user = caller.user();
        Ok(
            match edge.submit.call(user, Command::Account(command)).await? {
                SubmitResult::Done(_) => Changed::Done(RawJson::of(&AccountView::from(
                    &account(&edge, user).await?,
                ))),
                SubmitResult::Accepted => Changed::Accepted(RawJson::of(&Pending::new(user))),
            },
        )
    }

    /// Delete my account
    ///
    /// Permanent and immediate. Every login ends, and every socket is closed with code 4001. User name, display name,
    /// addresses, password and preferences are erased; the user name becomes available to others. The account leaves
    /// its rooms: a room that it owned passes to the longest-serving admin or, if there is none, to the longest-serving
    /// member, and a room without remaining members is deleted. Its messages stay, with the sender "Deleted user". No
    /// further notifications are sent. Repeating the request has no effect.
    #[oai(path = "/", method = "delete", operation_id = "deleteMe")]
    async fn delete(&self, edge: Shared<'_>, caller: Caller) -> Result<Gone, Problem> {
        let user = caller.user();
        let command = Command::Account(AccountCommand::Delete);
        Ok(Gone::of(edge.submit.call(user, command).await?, user))
    }
}

/// The field as the command encodes it: `None` keeps the value, an empty string clears it.
fn cleared(field: MaybeUndefined<String>) -> Option<String> {
    match field {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(String::new()),
        MaybeUndefined::Value(text) => Some(text),
    }
}

/// The new value, if the field is set and not cleared.
fn written(field: &mut Option<String>) -> Option<&mut String> {
    field.as_mut().filter(|text| !text.is_empty())
}

pub(super) async fn account(edge: &Edge, user: UserId) -> Result<Account> {
    edge.reads
        .account(user)
        .await?
        .ok_or_else(|| Error::unauthorized("this account is gone"))
}
