//! Effects of room commands, without queue or store.

mod bounds;
mod edits;
mod lasting;
mod reactions;
mod repeats;

use super::*;
use crate::{
    command::Outcome,
    model::{EventKind, Member, Room, User, message_id, new_id},
    store::{Changes, Facts},
};

struct World {
    room: RoomId,
    owner: User,
    guest: User,
    facts: Facts,
}

fn user(name: &str) -> User {
    User {
        id: new_id(),
        username: name.to_owned(),
        display_name: name.to_owned(),
    }
}

/// A public room with head 2 and its owner; `guest` has an account but is not a member.
fn world() -> World {
    let (room, owner, guest) = (new_id(), user("owner"), user("guest"));
    let mut facts = Facts::default();
    facts.rooms.insert(
        room,
        Room {
            id: room,
            kind: RoomKind::Public,
            name: "lobby".to_owned(),
            head: 2,
            created_by: owner.id,
            created_at: Timestamp::from_millis(0),
            deleted: false,
        },
    );
    facts.members.insert(
        (room, owner.id),
        Member {
            room,
            user: owner.clone(),
            role: Role::Owner,
            joined_at: Timestamp::from_millis(0),
            read_seq: 0,
            muted_until: None,
        },
    );
    for user in [&owner, &guest] {
        facts.users.insert(user.id, user.clone());
    }
    World {
        room,
        owner,
        guest,
        facts,
    }
}

impl World {
    fn envelope(&self, actor: &User, command: RoomCommand) -> RoomEnvelope {
        RoomEnvelope {
            room: self.room,
            actor: actor.id,
            at: Timestamp::from_millis(1000),
            command,
        }
    }

    fn send(&self, actor: &User, client_msg_id: &str) -> RoomEnvelope {
        let id = message_id(self.room, actor.id, client_msg_id);
        self.envelope(
            actor,
            RoomCommand::Send(Send {
                id,
                client_msg_id: client_msg_id.to_owned(),
                body: "hello".to_owned(),
                reply_to: None,
                metadata: None,
            }),
        )
    }

    fn message(&self, actor: &User, client_msg_id: &str) -> MessageId {
        message_id(self.room, actor.id, client_msg_id)
    }
}

fn refusal(outcome: &Outcome) -> crate::error::Code {
    match outcome {
        Outcome::Refused(refusal) => refusal.code,
        Outcome::Done(_) => panic!("it was not refused"),
    }
}

fn numbers(applied: &Applied, room: RoomId) -> Vec<(Seq, EventKind)> {
    applied.events[&room]
        .iter()
        .map(|e| (e.seq, e.kind))
        .collect()
}

#[test]
fn every_event_takes_the_rooms_next_number() {
    let w = world();
    let envelopes = [
        w.envelope(&w.guest, RoomCommand::Join),
        w.send(&w.guest, "a"),
        w.send(&w.owner, "b"),
        w.envelope(
            &w.guest,
            RoomCommand::Edit {
                message: w.message(&w.guest, "a"),
                body: "hi".into(),
            },
        ),
        w.envelope(&w.guest, RoomCommand::Leave),
    ];
    let applied = apply(w.facts.clone(), &envelopes);
    use EventKind::{MemberJoined, MemberLeft, MessageUpdated, NewMessage};
    assert_eq!(
        numbers(&applied, w.room),
        [
            (3, MemberJoined),
            (4, NewMessage),
            (5, NewMessage),
            (6, MessageUpdated),
            (7, MemberLeft)
        ]
    );
    assert_eq!(applied.changes.heads[&w.room], 7);
    // Each row is written once, in its final state.
    assert_eq!(applied.changes.new_messages.len(), 2);
    assert_eq!(applied.changes.new_messages[0].body, "hi");
    assert_eq!(applied.changes.new_messages[0].change_seq, 6);
    assert!(applied.changes.updated_messages.is_empty());
    assert_eq!(applied.changes.removed_members, [(w.room, w.guest.id)]);
}

#[test]
fn the_same_message_takes_one_number_within_a_batch_and_across_batches() {
    let mut w = world();
    let envelopes = [w.send(&w.owner, "a"), w.send(&w.owner, "a")];
    let first = apply(w.facts.clone(), &envelopes);
    assert_eq!(numbers(&first, w.room), [(3, EventKind::NewMessage)]);
    assert!(
        first.repeats.is_empty(),
        "the batch itself publishes the event"
    );

    let stored = first.changes.new_messages[0].clone();
    w.facts.rooms.get_mut(&w.room).unwrap().head = 3;
    w.facts.messages.insert(stored.id, stored);
    let again = apply(w.facts.clone(), &envelopes[..1]);
    assert!(again.changes.is_empty());
    assert_eq!(
        again.repeats[0].1.seq, 3,
        "published again: the first worker may have died before it published"
    );
}

#[test]
fn a_refused_command_leaves_its_neighbours_alone() {
    let w = world();
    let envelopes = [
        w.send(&w.owner, "a"),
        w.send(&w.guest, "no member"),
        w.send(&w.owner, "b"),
    ];
    let applied = apply(w.facts.clone(), &envelopes);
    assert_eq!(refusal(&applied.outcomes[1]), crate::error::Code::Forbidden);
    assert_eq!(applied.changes.heads[&w.room], 4);
}

#[test]
fn rights_follow_roles() {
    let w = world();
    let stranger_in = w.envelope(
        &w.owner,
        RoomCommand::SetMember {
            user: w.guest.id,
            role: Role::Member,
        },
    );
    let tries = [
        RoomCommand::Rename {
            name: "mine".into(),
        },
        RoomCommand::DeleteRoom,
        RoomCommand::SetMember {
            user: w.guest.id,
            role: Role::Owner,
        },
        RoomCommand::RemoveMember { user: w.owner.id },
        RoomCommand::Ban {
            user: w.owner.id,
            until: None,
        },
        RoomCommand::Mute {
            user: w.owner.id,
            until: None,
        },
    ];
    let mut envelopes = vec![stranger_in, w.send(&w.owner, "a")];
    envelopes.extend(tries.map(|command| w.envelope(&w.guest, command)));
    envelopes.push(w.envelope(
        &w.guest,
        RoomCommand::Delete {
            message: w.message(&w.owner, "a"),
        },
    ));
    envelopes.push(w.envelope(
        &w.guest,
        RoomCommand::Edit {
            message: w.message(&w.owner, "a"),
            body: "x".into(),
        },
    ));
    let applied = apply(w.facts.clone(), &envelopes);
    for outcome in &applied.outcomes[2..] {
        assert_eq!(refusal(outcome), crate::error::Code::Forbidden);
    }
}

#[test]
fn ownership_moves_whole() {
    let w = world();
    let envelopes = [
        w.envelope(&w.owner, RoomCommand::Leave),
        w.envelope(
            &w.owner,
            RoomCommand::SetMember {
                user: w.guest.id,
                role: Role::Owner,
            },
        ),
        w.envelope(&w.owner, RoomCommand::Leave),
    ];
    let applied = apply(w.facts.clone(), &envelopes);
    assert_eq!(refusal(&applied.outcomes[0]), crate::error::Code::Conflict);
    let [member] = applied.changes.members.as_slice() else {
        panic!("one member is left")
    };
    assert_eq!((member.user.id, member.role), (w.guest.id, Role::Owner));
}

#[test]
fn banned_and_muted_users_get_the_reason() {
    let w = world();
    let later = Some(Timestamp::from_millis(5000));
    let envelopes = [
        w.envelope(&w.guest, RoomCommand::Join),
        w.envelope(
            &w.owner,
            RoomCommand::Mute {
                user: w.guest.id,
                until: later,
            },
        ),
        w.send(&w.guest, "muted"),
        w.envelope(
            &w.owner,
            RoomCommand::Ban {
                user: w.guest.id,
                until: later,
            },
        ),
        w.envelope(&w.guest, RoomCommand::Join),
        RoomEnvelope {
            at: Timestamp::from_millis(6000),
            ..w.envelope(&w.guest, RoomCommand::Join)
        },
    ];
    let applied = apply(w.facts.clone(), &envelopes);
    assert_eq!(refusal(&applied.outcomes[2]), crate::error::Code::Forbidden);
    assert_eq!(refusal(&applied.outcomes[4]), crate::error::Code::Forbidden);
    assert!(
        matches!(applied.outcomes[5], Outcome::Done(_)),
        "a ban ends"
    );
}

#[test]
fn a_deleted_message_keeps_its_place_and_nothing_else() {
    let w = world();
    let id = w.message(&w.owner, "a");
    let react = |on| RoomCommand::React {
        message: id,
        emoji: "👍".into(),
        on,
    };
    let envelopes = [
        w.send(&w.owner, "a"),
        w.envelope(&w.owner, react(true)),
        w.envelope(&w.owner, react(true)),
        w.envelope(&w.owner, RoomCommand::Delete { message: id }),
        w.envelope(&w.owner, RoomCommand::Delete { message: id }),
        w.envelope(&w.owner, react(true)),
    ];
    let applied = apply(w.facts.clone(), &envelopes);
    use EventKind::{MessageDeleted, NewMessage, ReactionUpdated};
    assert_eq!(
        numbers(&applied, w.room),
        [(3, NewMessage), (4, ReactionUpdated), (5, MessageDeleted)],
        "a repeat changes nothing"
    );
    let message = &applied.changes.new_messages[0];
    assert_eq!((message.body.as_str(), message.reactions.len()), ("", 0));
    assert_eq!(refusal(&applied.outcomes[5]), crate::error::Code::Conflict);
}

#[test]
fn a_direct_room_is_found_again_by_either() {
    let w = world();
    let room = crate::model::direct_room_id(w.owner.id, w.guest.id);
    let create = |actor: &User, other: &User| RoomEnvelope {
        room,
        actor: actor.id,
        at: Timestamp::from_millis(0),
        command: RoomCommand::Create {
            kind: RoomKind::Direct,
            name: String::new(),
            members: vec![other.id],
        },
    };
    let applied = apply(
        w.facts.clone(),
        &[create(&w.owner, &w.guest), create(&w.guest, &w.owner)],
    );
    assert!(
        applied
            .outcomes
            .iter()
            .all(|o| matches!(o, Outcome::Done(_)))
    );
    assert_eq!(applied.changes.rooms.len(), 1);
    assert_eq!(applied.changes.members.len(), 2);
}

#[test]
fn reading_goes_forward_and_not_beyond_the_head() {
    let w = world();
    let read = |seq| w.envelope(&w.owner, RoomCommand::MarkRead { seq });
    let applied = apply(w.facts.clone(), &[read(2), read(1), read(3)]);
    assert_eq!(applied.changes.members[0].read_seq, 2);
    assert!(matches!(applied.outcomes[1], Outcome::Done(_)));
    assert_eq!(refusal(&applied.outcomes[2]), crate::error::Code::Invalid);
}

#[test]
fn members_are_mentioned_once_and_others_never() {
    let mut world = world();
    // The store knows both names; only one of the users is a member here.
    for user in [&world.owner, &world.guest] {
        world.facts.named.insert(user.username.clone(), user.id);
    }
    let mut send = world.send(&world.owner, "a");
    let RoomCommand::Send(said) = &mut send.command else {
        panic!("it is a send");
    };
    said.body = "@Owner @guest @owner. owner@guest".to_owned();
    let scope = scope([&send]);
    assert!(scope.named.contains(&(world.room, "guest".to_owned())));
    let applied = apply(world.facts.clone(), &[send]);
    assert_eq!(applied.changes.new_messages[0].mentions, [world.owner.id]);

    let edit = RoomCommand::Edit {
        message: applied.changes.new_messages[0].id,
        body: "nobody".to_owned(),
    };
    let said = applied.changes.new_messages[0].clone();
    world.facts.messages.insert(said.id, said);
    let applied = apply(world.facts.clone(), &[world.envelope(&world.owner, edit)]);
    assert!(applied.changes.updated_messages[0].mentions.is_empty());
}

#[test]
fn a_read_mark_is_published_when_it_moves() {
    let world = world();
    let read = |seq| world.envelope(&world.owner, RoomCommand::MarkRead { seq });
    let applied = apply(world.facts.clone(), &[read(1), read(2), read(1)]);
    assert_eq!(
        applied.reads,
        [((world.room, world.owner.id), 2)].into_iter().collect()
    );
    assert!(applied.events.is_empty(), "it takes no number");
}

#[test]
fn a_deleted_owner_is_replaced_by_a_successor_if_there_is_one() {
    let mut w = world();
    let guest = w.guest.clone();
    let mut facts = w.facts.clone();
    facts.members.insert(
        (w.room, guest.id),
        Member {
            user: guest.clone(),
            role: Role::Member,
            ..facts.members[&(w.room, w.owner.id)].clone()
        },
    );
    facts.successors.insert(w.room, guest.id);
    let envelopes = [w.envelope(&w.owner, RoomCommand::LeaveByDeletion)];
    let applied = apply(facts, &envelopes);
    assert_eq!(
        numbers(&applied, w.room),
        [(3, EventKind::RoomUpdated), (4, EventKind::MemberLeft)]
    );
    let changes = &applied.changes;
    assert_eq!(changes.members[0].user, guest);
    assert_eq!(changes.members[0].role, Role::Owner);
    assert_eq!(changes.removed_members, [(w.room, w.owner.id)]);
    assert_eq!(changes.erased, [(w.room, w.owner.id)]);
    assert!(changes.rooms.iter().all(|room| !room.deleted));

    // No successor exists.
    let applied = apply(w.facts.clone(), &envelopes);
    assert_eq!(
        numbers(&applied, w.room),
        [(3, EventKind::MemberLeft), (4, EventKind::RoomUpdated)]
    );
    assert!(applied.changes.rooms[0].deleted);

    // A user who has already left changes nothing.
    w.facts.members.clear();
    let applied = apply(w.facts, &envelopes);
    assert!(applied.changes.is_empty());
}

/// Ids of direct rooms are derived from their members, but a command only has to name an id.
#[test]
fn no_room_of_another_kind_is_opened_as_a_direct_room() {
    let w = world();
    let direct = RoomCommand::Create {
        kind: RoomKind::Direct,
        name: String::new(),
        members: vec![w.guest.id],
    };
    let applied = apply(w.facts.clone(), &[w.envelope(&w.guest, direct)]);
    assert_eq!(refusal(&applied.outcomes[0]), crate::error::Code::Conflict);
    assert!(applied.events.is_empty());

    let mut facts = w.facts.clone();
    facts
        .rooms
        .entry(w.room)
        .and_modify(|room| room.kind = RoomKind::Direct);
    let private = RoomCommand::Create {
        kind: RoomKind::Private,
        name: "x".to_owned(),
        members: vec![w.guest.id],
    };
    let applied = apply(facts, &[w.envelope(&w.guest, private)]);
    assert_eq!(refusal(&applied.outcomes[0]), crate::error::Code::Conflict);
    assert!(applied.events.is_empty());
}

#[test]
fn opening_a_direct_room_again_changes_nothing() {
    let mut w = world();
    w.room = crate::model::direct_room_id(w.owner.id, w.guest.id);
    let open = |w: &World, by: &User, other: &User| {
        let command = RoomCommand::Create {
            kind: RoomKind::Direct,
            name: String::new(),
            members: vec![other.id],
        };
        w.envelope(by, command)
    };
    let (owner, guest) = (w.owner.clone(), w.guest.clone());
    let first = open(&w, &owner, &guest);
    let again = open(&w, &guest, &owner);
    let applied = apply(w.facts.clone(), &[first, again]);
    let joined = [(1, EventKind::MemberJoined), (2, EventKind::MemberJoined)];
    assert_eq!(numbers(&applied, w.room), joined);
}
