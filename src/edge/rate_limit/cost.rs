//! The cost of each operation, and the budget that it is charged to.
//!
//! A plain send costs 1. A read costs 1 per 50 items that its page may have. The test below covers all operations of
//! the OpenAPI document; socket events are matched exhaustively, so a new one does not compile without a cost.

use crate::protocol::{DEFAULT_PAGE, MAX_PAGE, Request};

/// The budget that an operation is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Per user: `limits.messages_per_second` and `limits.burst`. For operations that use the queue.
    Commands,
    /// Per user: `limits.reads_per_second` and `limits.read_burst`. For operations that read the store.
    Reads,
    /// Per user: the same rate as `Commands`, but separate, so that a client that sends read marks can still send
    /// messages.
    Marks,
    /// Per address: `limits.address_requests_per_second` and `limits.address_burst`. For operations without a login.
    Address,
    /// Per address, a separate budget for paths that are no operation, so that they do not use up the budget for
    /// logins.
    Pages,
    /// Per address, charged only if refused: webhooks, whose senders authenticate by a signature.
    Refused,
    /// Not charged: cheaper than the accounting itself, or required under all circumstances.
    Free,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub budget: Budget,
    pub tokens: u32,
}

const fn cost(budget: Budget, tokens: u32) -> Cost {
    Cost { budget, tokens }
}

const COMMAND: Cost = cost(Budget::Commands, 1);
const READ: Cost = cost(Budget::Reads, 1);
const MARK: Cost = cost(Budget::Marks, 1);
const ADDRESS: Cost = cost(Budget::Address, 1);
const WEBHOOK: Cost = cost(Budget::Refused, 1);
const FREE: Cost = cost(Budget::Free, 0);

/// A frame that cannot be parsed as an event.
pub const UNREADABLE: Cost = MARK;
/// A path that is no operation: pages and unknown paths.
pub const PAGE: Cost = cost(Budget::Pages, 1);

/// All operations of the REST API by `operationId`, sorted.
const OPERATIONS: &[(&str, Cost)] = &[
    ("addReaction", COMMAND),
    ("askToUnsubscribe", ADDRESS),
    ("banUser", COMMAND),
    // Hashes two passwords.
    ("changePassword", cost(Budget::Commands, 5)),
    ("confirmAddress", COMMAND),
    ("createRoom", COMMAND),
    ("createTicket", COMMAND),
    ("deleteMe", COMMAND),
    ("deleteMessage", COMMAND),
    ("deleteRoom", COMMAND),
    ("editMessage", COMMAND),
    ("endOtherSessions", cost(Budget::Commands, 5)),
    ("endSession", COMMAND),
    ("forgotPassword", ADDRESS),
    ("getMe", READ),
    ("getMessage", READ),
    ("getNotificationSettings", READ),
    ("getRoom", READ),
    ("healthz", FREE),
    ("joinRoom", COMMAND),
    ("leaveRoom", COMMAND),
    ("listChanges", READ),
    ("listMembers", READ),
    ("listMessageNotifications", READ),
    ("listMessages", READ),
    ("listNotifications", READ),
    ("listReaction", READ),
    ("listRooms", READ),
    ("listSessions", READ),
    ("logIn", ADDRESS),
    ("logOut", ADDRESS),
    ("markRead", MARK),
    // Served on the port that the operator opened for it.
    ("metrics", FREE),
    ("muteMember", COMMAND),
    ("putNotificationSettings", COMMAND),
    ("readyz", FREE),
    ("refresh", ADDRESS),
    ("register", ADDRESS),
    ("removeMember", COMMAND),
    ("removeReaction", COMMAND),
    ("resetPassword", ADDRESS),
    ("sendMessage", COMMAND),
    ("sendVerificationCode", cost(Budget::Commands, 5)),
    ("setMember", COMMAND),
    ("takeSendgridEvents", WEBHOOK),
    ("takeTwilioReport", WEBHOOK),
    ("unbanUser", COMMAND),
    ("unmuteMember", COMMAND),
    ("unsubscribe", ADDRESS),
    ("updateMe", COMMAND),
    ("updateRoom", COMMAND),
];

/// The cost of a REST operation.
pub fn of_operation(id: &str) -> Option<Cost> {
    let found = OPERATIONS.binary_search_by_key(&id, |(known, _)| known);
    found.ok().map(|at| OPERATIONS[at].1)
}

/// The cost of a socket event. Has no default arm: every new event needs a cost.
pub fn of_event(request: &Request) -> Cost {
    match request {
        Request::SendMessage(_)
        | Request::EditMessage(_)
        | Request::DeleteMessage(_)
        | Request::React(_) => COMMAND,
        Request::JoinRoom(_) | Request::LeaveRoom(_) | Request::Auth(_) => READ,
        Request::MarkRead(_) => MARK,
        // Closes the socket.
        Request::Disconnect(_) => FREE,
    }
}

impl Cost {
    /// The cost of a read that may return `limit` items. A limit above the maximum is rejected later.
    pub fn for_page(self, limit: Option<u32>) -> Cost {
        match self.budget {
            Budget::Reads => {
                let items = limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
                cost(self.budget, self.tokens * items.div_ceil(DEFAULT_PAGE))
            }
            _ => self,
        }
    }
}

/// The additional cost of a new display name, which is announced in all of the user's rooms.
pub const RENAME: Cost = cost(Budget::Commands, 9);

/// The additional cost of the initial members of a new room.
pub fn of_members(members: usize) -> Cost {
    cost(Budget::Commands, u32::try_from(members).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_operation_of_the_api_has_a_cost() {
        let spec: Value = serde_json::from_str(&crate::edge::api::spec()).unwrap();
        let paths = spec["paths"].as_object().unwrap().values();
        let documented: BTreeSet<&str> = paths
            .flat_map(|path| path.as_object().unwrap().values())
            .filter_map(|operation| operation["operationId"].as_str())
            .collect();
        let with_cost: BTreeSet<&str> = OPERATIONS.iter().map(|(id, _)| *id).collect();
        assert_eq!(with_cost, documented, "a line in OPERATIONS for each");
        assert!(OPERATIONS.is_sorted_by(|a, b| a.0 < b.0), "searched in");
        assert!(documented.len() > 40);
    }

    #[test]
    fn operations_without_a_login_are_charged_to_the_address() {
        let spec: Value = serde_json::from_str(&crate::edge::api::spec()).unwrap();
        let paths = spec["paths"].as_object().unwrap();
        for operation in paths.values().flat_map(|p| p.as_object().unwrap().values()) {
            let Some(id) = operation["operationId"].as_str() else {
                continue;
            };
            let open = operation["security"].as_array().is_none_or(Vec::is_empty);
            let budget = of_operation(id).unwrap().budget;
            let users = matches!(budget, Budget::Commands | Budget::Reads | Budget::Marks);
            // A logout with a refresh token needs no access token, so it is charged to the address.
            assert_eq!(users, !open && id != "logOut", "{id}");
            let tokens = of_operation(id).unwrap().tokens;
            assert_eq!(tokens == 0, budget == Budget::Free, "{id}");
        }
    }

    #[test]
    fn every_socket_event_has_a_cost() {
        let spec = crate::protocol::asyncapi::spec();
        let spec: Value = serde_json::from_str(&spec).unwrap();
        let id = "018f2b6e-0000-7000-8000-000000000000";
        let data = json!({"token": "t", "room": id, "id": id, "body": "b", "clientMsgId": "c",
            "emoji": "e", "seq": 1});
        let data = serde_json::value::to_raw_value(&data).unwrap();
        let mut events = 0;
        // All events in the document that a client may send.
        for name in spec["components"]["messages"].as_object().unwrap().keys() {
            if let Ok(request) = Request::parse(name, Some(&data)) {
                let cost = of_event(&request);
                assert_eq!(cost.budget == Budget::Free, name == "disconnect", "{name}");
                events += 1;
            }
        }
        assert!(events >= 9, "{events}");
    }

    #[test]
    fn a_page_costs_by_its_size() {
        let of = |limit| READ.for_page(limit).tokens;
        assert_eq!([of(None), of(Some(1)), of(Some(50))], [1, 1, 1]);
        assert_eq!([of(Some(51)), of(Some(200)), of(Some(0))], [2, 4, 1]);
        assert_eq!(of(Some(u32::MAX)), 4);
        assert_eq!(COMMAND.for_page(Some(200)), COMMAND);
    }
}
