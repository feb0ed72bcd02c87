//! Generates `docs/rights.md` from the table.

use super::table::{ACCOUNT_ROWS, CALLERS, EVENTS, ROOM_ROWS, Want, named};

const HEAD: &str = "\
# Rights

Who gets which answer. Written from `tests/it/e2e/rights/table.rs`, which the tests hold a standalone server and a cluster
to, call by call; do not edit it here.

| caller | |
|---|---|
| stranger | has an account, and was never in the room |
| banned | was a member, and is banned |
| removed | was a member until a moment ago |
| member | |
| muted | a member who may not write until a time to come |
| admin, owner | members with that role |

Without a token, with a forged or with an expired one, every operation that needs one answers 401. There are no operators
yet. 404 is `not_found`: to those who may not know of a room, it and everything in it does not exist, and no answer tells
it from one that does not. 403 is `forbidden`, 409 `conflict`.

A right that ends takes effect on open sockets with the event that says so, within milliseconds; without the bus within a
second; and whatever was missed within `edge.rights_interval`.
";

const DIRECT: &str = "\
## Direct rooms

Both are plain members: each may read, write, change and delete their own messages, and leave. There is no admin and no
owner, so nobody renames or deletes the room, or removes, bans or mutes the other. `createRoom` finds it again: the one who
left is back in it when they ask for it themselves, or when the other does and `rooms.add_members` lets them add people.

## What outlives a membership

A ban and a mute do: leaving and coming back ends neither. A role does not: whoever comes back is a plain member.
";

fn header(first: &str) -> String {
    let columns = CALLERS.join(" | ");
    let line = "|---".repeat(CALLERS.len() + 1);
    format!("| {first} | {columns} |\n{line}|\n")
}

fn said(want: Want) -> String {
    match want {
        Want::Ok => "ok".to_owned(),
        Want::No(code) => format!("`{code}`"),
        Want::Later(code) => format!("ok, then `sendFailed` `{code}`"),
    }
}

pub fn write() -> String {
    let mut page = HEAD.to_owned();
    for kind in ["private", "public"] {
        page += &format!("\n## REST, in a {kind} room\n\n{}", header("operation"));
        for row in ROOM_ROWS {
            let answers = match kind {
                "private" => row.private,
                _ => row.public,
            };
            let cells = answers.map(|status| status.to_string()).join(" | ");
            page += &format!("| {} | {cells} |\n", row.name());
        }
    }
    page += "\n## REST, beside rooms\n\n| operation | without a token | with an account | |\n|---|---|---|---|\n";
    for row in ACCOUNT_ROWS {
        let account = match row.account {
            Some(status) => status.to_string(),
            None => "the same".to_owned(),
        };
        let (name, anonymous, note) = (row.operation, row.anonymous, row.note);
        page += &format!("| {name} | {anonymous} | {account} | {note} |\n");
    }
    for kind in ["private", "public"] {
        page += &format!("\n## Sockets, in a {kind} room\n\n{}", header("event"));
        for row in EVENTS {
            let answers = match kind {
                "private" => row.private,
                _ => row.public,
            };
            let cells = answers.map(said).join(" | ");
            page += &format!("| {} | {cells} |\n", named(row.event, row.note));
        }
    }
    page += "\n";
    page += DIRECT;
    page
}
