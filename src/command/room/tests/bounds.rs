//! Each rule at its boundary: the last allowed case and the first refused one. `scripts/mutants` mutates the rules and
//! expects a test here to fail.

mod rooms;

use super::*;
use crate::{
    error::Code,
    model::{Message, Reaction},
};

const ROLES: [Role; 3] = [Role::Member, Role::Admin, Role::Owner];

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn code(outcome: &Outcome) -> Option<Code> {
    match outcome {
        Outcome::Done(_) => None,
        Outcome::Refused(refusal) => Some(refusal.code),
    }
}

impl World {
    fn with(&mut self, user: &User, role: Role) {
        let member = Member {
            room: self.room,
            user: user.clone(),
            role,
            joined_at: at(0),
            read_seq: 0,
            muted_until: None,
        };
        self.facts.users.insert(user.id, user.clone());
        self.facts.members.insert((self.room, user.id), member);
    }

    fn kind(&mut self, kind: RoomKind) {
        self.facts.rooms.get_mut(&self.room).unwrap().kind = kind;
    }

    /// A stored message of this room.
    fn said(&mut self, sender: &User) -> MessageId {
        let message = Message {
            id: new_id(),
            room: self.room,
            seq: 1,
            change_seq: 1,
            sender: sender.clone(),
            body: "said".to_owned(),
            client_msg_id: "said".to_owned(),
            reply_to: None,
            mentions: Vec::new(),
            reactions: Vec::new(),
            metadata: None,
            created_at: at(0),
            edited_at: None,
            deleted_at: None,
        };
        let id = message.id;
        self.facts.messages.insert(id, message);
        id
    }

    fn run(&self, actor: &User, command: RoomCommand) -> (Option<Code>, Applied) {
        let applied = apply(self.facts.clone(), [&self.envelope(actor, command)]);
        (code(&applied.outcomes[0]), applied)
    }

    /// The error code; `None` on success.
    fn code(&self, actor: &User, command: RoomCommand) -> Option<Code> {
        let (code, applied) = self.run(actor, command);
        if code.is_some() {
            assert!(applied.changes.is_empty(), "a refusal changes nothing");
            assert!(applied.events.is_empty());
        }
        code
    }

    fn says(&self, actor: &User, reply_to: Option<MessageId>) -> Option<Code> {
        let envelope = self.send(actor, "new");
        let RoomCommand::Send(mut send) = envelope.command else {
            panic!("it is a send");
        };
        send.reply_to = reply_to;
        self.code(actor, RoomCommand::Send(send))
    }
}

fn edit(message: MessageId) -> RoomCommand {
    let body = "edited".to_owned();
    RoomCommand::Edit { message, body }
}

fn delete(message: MessageId) -> RoomCommand {
    RoomCommand::Delete { message }
}

fn react(message: MessageId, emoji: &str, on: bool) -> RoomCommand {
    let emoji = emoji.to_owned();
    RoomCommand::React { message, emoji, on }
}

fn names(applied: &Applied) -> Vec<EventKind> {
    let events = applied.events.values().flatten();
    events.map(|event| event.kind).collect()
}

#[test]
fn a_message_is_found_in_its_own_room_only() {
    let mut w = world();
    let owner = w.owner.clone();
    let here = w.said(&owner);
    let elsewhere = w.said(&owner);
    w.facts.messages.get_mut(&elsewhere).unwrap().room = new_id();
    for command in [edit, delete, |id| react(id, "👍", true)] {
        assert_eq!(w.code(&owner, command(here)), None);
        assert_eq!(w.code(&owner, command(elsewhere)), Some(Code::NotFound));
        assert_eq!(w.code(&owner, command(new_id())), Some(Code::NotFound));
    }
    assert_eq!(w.says(&owner, None), None);
    assert_eq!(w.says(&owner, Some(here)), None);
    assert_eq!(w.says(&owner, Some(elsewhere)), Some(Code::Invalid));
    assert_eq!(w.says(&owner, Some(new_id())), Some(Code::Invalid));
}

#[test]
fn admins_delete_but_do_not_edit_messages_of_others() {
    for role in ROLES {
        let mut w = world();
        let (owner, actor) = (w.owner.clone(), user("actor"));
        w.with(&actor, role);
        let (own, anothers) = (w.said(&actor), w.said(&owner));
        assert_eq!(w.code(&actor, delete(own)), None);
        let refused = (role == Role::Member).then_some(Code::Forbidden);
        assert_eq!(w.code(&actor, delete(anothers)), refused, "{role}");
        assert_eq!(w.code(&actor, edit(own)), None);
        assert_eq!(w.code(&actor, edit(anothers)), Some(Code::Forbidden));
    }
}

#[test]
fn a_change_that_changes_nothing_takes_no_number() {
    let mut w = world();
    let owner = w.owner.clone();
    let id = w.said(&owner);
    let same = RoomCommand::Edit {
        message: id,
        body: "said".to_owned(),
    };
    let name = |name: &str| RoomCommand::Rename {
        name: name.to_owned(),
    };
    for command in [
        same,
        react(id, "👍", false),
        name("lobby"),
        RoomCommand::Join,
        RoomCommand::MarkRead { seq: 0 },
        RoomCommand::LiftBan { user: w.guest.id },
        RoomCommand::RemoveMember { user: w.guest.id },
    ] {
        let (code, applied) = w.run(&owner, command.clone());
        assert_eq!(code, None, "{command:?}");
        assert!(applied.changes.is_empty(), "{command:?}");
    }
    let (_, applied) = w.run(&owner, name("hall"));
    assert_eq!(names(&applied), [EventKind::RoomUpdated]);
    assert_eq!(applied.changes.rooms[0].name, "hall");
    let (_, applied) = w.run(&owner, edit(id));
    assert_eq!(applied.changes.updated_messages.len(), 1);
    assert_eq!(
        applied.changes.updated_messages[0].edited_at,
        Some(at(1000))
    );
    w.facts.messages.get_mut(&id).unwrap().deleted_at = Some(at(5));
    assert_eq!(w.code(&owner, edit(id)), Some(Code::Conflict));
    assert_eq!(w.code(&owner, react(id, "👍", true)), Some(Code::Conflict));
    let (code, applied) = w.run(&owner, delete(id));
    assert!(code.is_none() && applied.changes.is_empty());
}

/// Role changes: the actor's role, the target's role, and the new one.
#[test]
fn roles_are_given_from_admin_on_and_changed_by_the_owner() {
    for actor_role in ROLES {
        for present in [None, Some(Role::Member), Some(Role::Admin)] {
            for role in ROLES {
                let mut w = world();
                let (actor, target) = (user("actor"), w.guest.clone());
                if actor_role == Role::Owner {
                    let owner = w.owner.clone();
                    w.with(&owner, Role::Admin);
                }
                w.with(&actor, actor_role);
                if let Some(present) = present {
                    w.with(&target, present);
                }
                let user = target.id;
                let (code, applied) = w.run(&actor, RoomCommand::SetMember { user, role });
                let may = match actor_role {
                    Role::Member => false,
                    Role::Admin => {
                        present == Some(role) || (present.is_none() && role == Role::Member)
                    }
                    Role::Owner => true,
                };
                let what = format!("{actor_role} makes {present:?} {role}");
                assert_eq!(code, (!may).then_some(Code::Forbidden), "{what}");
                if !may || present == Some(role) {
                    assert!(applied.changes.is_empty(), "{what}");
                    continue;
                }
                let now = |user: &User| {
                    let mut changed = applied.changes.members.iter();
                    changed.find(|m| m.user == *user).map(|member| member.role)
                };
                assert_eq!(now(&target), Some(role), "{what}");
                let passed_on = role == Role::Owner;
                assert_eq!(now(&actor), passed_on.then_some(Role::Admin), "{what}");
                let mut events = Vec::new();
                if present.is_none() {
                    events.push(EventKind::MemberJoined);
                }
                if passed_on {
                    events.push(EventKind::RoomUpdated);
                }
                if present.is_some() || passed_on {
                    events.push(EventKind::RoomUpdated);
                }
                assert_eq!(names(&applied), events, "{what}");
            }
        }
    }
    let mut w = world();
    let (owner, room) = (w.owner.clone(), w.room);
    let set = |user, role| RoomCommand::SetMember { user, role };
    assert_eq!(w.code(&owner, set(owner.id, Role::Owner)), None);
    assert_eq!(
        w.code(&owner, set(owner.id, Role::Admin)),
        Some(Code::Conflict)
    );
    assert_eq!(
        w.code(&owner, set(new_id(), Role::Member)),
        Some(Code::NotFound)
    );
    w.facts.bans.insert((room, w.guest.id), None);
    assert_eq!(
        w.code(&owner, set(w.guest.id, Role::Member)),
        Some(Code::Forbidden)
    );
    w.kind(RoomKind::Direct);
    assert_eq!(
        w.code(&owner, set(w.guest.id, Role::Member)),
        Some(Code::Conflict)
    );
}

#[test]
fn moderation_is_limited_to_lower_roles() {
    for actor_role in ROLES {
        for target_role in ROLES {
            let mut w = world();
            let (actor, target) = (user("actor"), user("target"));
            w.with(&actor, actor_role);
            w.with(&target, target_role);
            let user = target.id;
            let may = actor_role >= Role::Admin && target_role < actor_role;
            for command in [
                RoomCommand::RemoveMember { user },
                RoomCommand::Ban { user, until: None },
                RoomCommand::Mute {
                    user,
                    until: Some(at(5000)),
                },
            ] {
                let (code, applied) = w.run(&actor, command);
                let what = format!("{actor_role} on {target_role}");
                assert_eq!(code, (!may).then_some(Code::Forbidden), "{what}");
                assert_eq!(names(&applied).len(), usize::from(may), "{what}");
            }
        }
        let mut w = world();
        let (actor, stranger) = (user("actor"), w.guest.clone());
        w.with(&actor, actor_role);
        let user = stranger.id;
        let refused = (actor_role == Role::Member).then_some(Code::Forbidden);
        for command in [
            RoomCommand::RemoveMember { user },
            RoomCommand::Ban { user, until: None },
            RoomCommand::LiftBan { user },
            RoomCommand::Rename { name: "n".into() },
        ] {
            assert_eq!(w.code(&actor, command.clone()), refused, "{command:?}");
        }
        let refused = (actor_role != Role::Owner).then_some(Code::Forbidden);
        let (code, applied) = w.run(&actor, RoomCommand::DeleteRoom);
        assert_eq!(code, refused);
        assert_eq!(
            applied.changes.rooms.iter().any(|r| r.deleted),
            code.is_none()
        );
    }
    let mut w = world();
    let guest = w.guest.clone();
    w.with(&guest, Role::Member);
    let themself = RoomCommand::RemoveMember { user: guest.id };
    let (code, applied) = w.run(&guest, themself);
    assert_eq!((code, names(&applied)), (None, vec![EventKind::MemberLeft]));
    let reason = |command| match w.run(&guest, command).1.outcomes.swap_remove(0) {
        Outcome::Refused(refusal) => refusal.message,
        Outcome::Done(_) => panic!("it was done"),
    };
    assert!(reason(RoomCommand::DeleteRoom).contains("only the owner"));
    let rename = RoomCommand::Rename { name: "n".into() };
    assert!(reason(rename).contains("only an admin or the owner"));
}

#[test]
fn a_mute_and_a_ban_end_on_the_millisecond() {
    // Commands have the time 1000.
    for (until, over) in [(999, true), (1000, true), (1001, false)] {
        let mut w = world();
        let (room, owner, guest) = (w.room, w.owner.clone(), w.guest.clone());
        w.facts.bans.insert((room, guest.id), Some(at(until)));
        let refused = (!over).then_some(Code::Forbidden);
        assert_eq!(w.code(&guest, RoomCommand::Join), refused, "{until}");
        let id = w.said(&owner);
        let member = w.facts.members.get_mut(&(room, owner.id)).unwrap();
        member.muted_until = Some(at(until));
        assert_eq!(w.says(&owner, None), refused, "{until}");
        assert_eq!(w.code(&owner, edit(id)), refused, "{until}");
        assert_eq!(w.code(&owner, react(id, "👍", true)), refused, "{until}");
        assert_eq!(
            w.code(&owner, delete(id)),
            None,
            "whoever is muted takes back"
        );
    }
    let mut w = world();
    let (room, owner, guest) = (w.room, w.owner.clone(), w.guest.clone());
    w.facts.bans.insert((room, guest.id), None);
    assert_eq!(w.code(&guest, RoomCommand::Join), Some(Code::Forbidden));
    let (_, applied) = w.run(&owner, RoomCommand::LiftBan { user: guest.id });
    assert_eq!(applied.changes.lifted_bans, [(room, guest.id)]);
    let (user, until) = (guest.id, Some(at(2000)));
    let (_, applied) = w.run(&owner, RoomCommand::Ban { user, until });
    assert_eq!(applied.changes.bans, [(room, user, until)]);

    w.with(&guest, Role::Member);
    let mute = |until| RoomCommand::Mute { user, until };
    let (_, applied) = w.run(&owner, mute(until));
    assert_eq!(applied.changes.members[0].muted_until, until);
    let member = w.facts.members.get_mut(&(room, user)).unwrap();
    member.muted_until = until;
    let (_, applied) = w.run(&owner, mute(until));
    assert!(applied.changes.is_empty(), "the same again");
    let (_, applied) = w.run(&owner, mute(None));
    assert_eq!(applied.changes.members[0].muted_until, None);
}

#[test]
fn strangers_see_public_rooms_only() {
    for (kind, refused) in [
        (RoomKind::Public, Code::Forbidden),
        (RoomKind::Private, Code::NotFound),
        (RoomKind::Direct, Code::NotFound),
    ] {
        let mut w = world();
        w.kind(kind);
        let (owner, guest) = (w.owner.clone(), w.guest.clone());
        let id = w.said(&owner);
        assert_eq!(w.says(&guest, None), Some(refused), "{kind}");
        for command in [
            edit(id),
            delete(id),
            react(id, "👍", true),
            RoomCommand::MarkRead { seq: 1 },
            RoomCommand::Rename { name: "n".into() },
            RoomCommand::DeleteRoom,
        ] {
            assert_eq!(
                w.code(&guest, command.clone()),
                Some(refused),
                "{kind} {command:?}"
            );
        }
        let join = (kind != RoomKind::Public).then_some(Code::NotFound);
        assert_eq!(w.code(&guest, RoomCommand::Join), join, "{kind}");
        assert_eq!(w.code(&owner, RoomCommand::Join), None, "is there already");
    }
    let mut w = world();
    let guest = w.guest.clone();
    assert_eq!(w.code(&guest, RoomCommand::Leave), None);
    let nobody = user("gone");
    assert_eq!(w.code(&nobody, RoomCommand::Join), Some(Code::NotFound));
    w.kind(RoomKind::Private);
    assert_eq!(w.code(&guest, RoomCommand::Leave), Some(Code::NotFound));
    assert_eq!(w.code(&w.owner, RoomCommand::Leave), Some(Code::Conflict));
    w.with(&guest, Role::Admin);
    assert_eq!(w.code(&guest, RoomCommand::Leave), None);
    w.facts.rooms.get_mut(&w.room).unwrap().deleted = true;
    assert_eq!(
        w.code(&w.owner, RoomCommand::DeleteRoom),
        Some(Code::NotFound)
    );
    w.facts.rooms.clear();
    assert_eq!(w.code(&w.owner, RoomCommand::Join), Some(Code::NotFound));
}

#[test]
fn a_direct_room_has_no_name() {
    let mut w = world();
    w.kind(RoomKind::Direct);
    let rename = RoomCommand::Rename { name: "n".into() };
    assert_eq!(w.code(&w.owner, rename), Some(Code::Conflict));
}

#[test]
fn a_read_mark_reaches_the_head_and_not_beyond() {
    let mut w = world();
    let (room, owner) = (w.room, w.owner.clone());
    w.facts.members.get_mut(&(room, owner.id)).unwrap().read_seq = 1;
    let read = |seq| w.run(&owner, RoomCommand::MarkRead { seq });
    for (seq, refused, moved) in [
        (0, None, false),
        (1, None, false),
        (2, None, true),
        (3, Some(Code::Invalid), false),
    ] {
        let (code, applied) = read(seq);
        assert_eq!(code, refused, "{seq}");
        assert_eq!(applied.reads.len(), usize::from(moved), "{seq}");
        assert_eq!(applied.changes.members.len(), usize::from(moved), "{seq}");
    }
}

#[test]
fn fifty_different_reactions_and_each_user_once() {
    let mut w = world();
    let (owner, other) = (w.owner.clone(), user("other"));
    w.with(&other, Role::Member);
    let id = w.said(&owner);
    let message = w.facts.messages.get_mut(&id).unwrap();
    message.reactions = (0..49)
        .map(|number| Reaction {
            emoji: number.to_string(),
            count: 1,
            me: None,
            users: vec![other.id],
        })
        .collect();
    let given = |number: usize, by: &User| ((id, number.to_string()), by.id);
    w.facts.reacted = (0..49).map(|number| given(number, &other)).collect();
    let after = |w: &World, actor: &User, command| {
        let (code, mut applied) = w.run(actor, command);
        assert_eq!(code, None);
        assert_eq!(names(&applied), [EventKind::ReactionUpdated]);
        applied.changes.updated_messages.swap_remove(0)
    };
    let full = after(&w, &owner, react(id, "new", true));
    assert_eq!(full.reactions.len(), 50);
    assert_eq!(full.reactions[49].users, [owner.id]);
    w.facts.messages.insert(id, full);
    assert_eq!(
        w.code(&owner, react(id, "one more", true)),
        Some(Code::Conflict)
    );
    // Existing reactions accept more users.
    let joined = after(&w, &owner, react(id, "0", true));
    assert_eq!(joined.reactions[0].users, [other.id, owner.id]);
    w.facts.messages.insert(id, joined);
    w.facts.reacted.insert(given(0, &owner));
    let first = vec![other.id, owner.id];
    w.facts.reactors.insert((id, "0".to_owned()), first);
    let left = after(&w, &other, react(id, "0", false));
    assert_eq!(left.reactions[0].users, [owner.id]);
    w.facts.messages.insert(id, left);
    w.facts.reacted.remove(&given(0, &other));
    let first = vec![owner.id];
    w.facts.reactors.insert((id, "0".to_owned()), first);
    let gone = after(&w, &owner, react(id, "0", false));
    assert_eq!(gone.reactions.len(), 49);
    assert_eq!(gone.reactions[0].emoji, "1");
}
