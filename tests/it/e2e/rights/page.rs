//! Generates `docs/rights.md` from the table.

use super::table::{ACCOUNT_ROWS, CALLERS, EVENTS, ROOM_ROWS, Want, named};

const HEAD: &str = "\
# Rights

The answer to each operation and event, for each kind of caller. Generated from `tests/it/e2e/rights/table.rs`; do not
edit this page. The tests check every entry on a standalone server and on a cluster.

| caller | |
|---|---|
| stranger | has an account, and was never in the room |
| banned | was a member, and is banned |
| removed | was a member, and was just removed |
| member | |
| muted | a member who may not write until a given time |
| admin, owner | members with that role |

Without a token, or with a forged or an expired one, every operation that needs one answers 401. There is no operator
role yet. 404 is `not_found`: callers who may not see a room get the same answers as for a room that does not exist. 403
is `forbidden`, 409 `conflict`.

A revoked right takes effect on open sockets together with the event that announces it, within milliseconds; without the
bus within a second. The periodic check (`edge.rights_interval`) catches what was missed.
";

const DIRECT: &str = "\
## Direct rooms

Both users are plain members: each may read, write, edit and delete their own messages, and leave. There is no admin and
no owner, so the room cannot be renamed or deleted, and neither can remove, ban or mute the other. `createRoom` returns
the existing room: a user who left is a member again when they call it themselves, or when the other user does and
`rooms.add_members` allows it.

## Leaving and rejoining

Bans and mutes survive leaving and rejoining. Roles do not: a user who rejoins is a plain member.
";

fn header(first: &str) -> String {
    let columns = CALLERS.join(" | ");
    let line = "|---".repeat(CALLERS.len() + 1);
    format!("| {first} | {columns} |\n{line}|\n")
}

fn expected_answer(want: Want) -> String {
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
    page += "\n## REST, outside of rooms\n\n| operation | without a token | with an account | |\n|---|---|---|---|\n";
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
            let cells = answers.map(expected_answer).join(" | ");
            page += &format!("| {} | {cells} |\n", named(row.event, row.note));
        }
    }
    page += "\n";
    page += DIRECT;
    page
}
