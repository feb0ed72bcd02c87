//! State that outlives a membership, and the rules for adding users to rooms.

use super::*;
use crate::{error::Code, store::AddMembers};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn mute(w: &World, user: UserId, until: Option<i64>) -> RoomEnvelope {
    let until = until.map(at);
    w.envelope(&w.owner, RoomCommand::Mute { user, until })
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(_))
}

/// The facts that the stores would return after these changes.
fn facts_after(mut facts: Facts, changes: &Changes) -> Facts {
    for room in &changes.rooms {
        facts.rooms.insert(room.id, room.clone());
    }
    for (room, head) in &changes.heads {
        facts.rooms.get_mut(room).unwrap().head = *head;
    }
    for pair in &changes.removed_members {
        facts.members.remove(pair);
    }
    for member in &changes.members {
        let key = (member.room, member.user.id);
        facts.members.insert(key, member.clone());
    }
    for pair in &changes.lifted_mutes {
        facts.mutes.remove(pair);
    }
    for (room, user, until) in &changes.mutes {
        facts.mutes.insert((*room, *user), *until);
    }
    facts
}

/// Runs each command in a batch of its own.
fn run(w: &mut World, envelopes: &[RoomEnvelope]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for envelope in envelopes {
        let applied = apply(w.facts.clone(), [envelope]);
        outcomes.extend(applied.outcomes);
        w.facts = facts_after(std::mem::take(&mut w.facts), &applied.changes);
    }
    outcomes
}

#[test]
fn a_mute_outlives_leaving_and_coming_back() {
    for together in [true, false] {
        let mut w = world();
        let envelopes = [
            w.envelope(&w.guest, RoomCommand::Join),
            mute(&w, w.guest.id, Some(5000)),
            w.envelope(&w.guest, RoomCommand::Leave),
            w.envelope(&w.guest, RoomCommand::Join),
            w.send(&w.guest, "a"),
        ];
        let outcomes = if together {
            apply(w.facts.clone(), &envelopes).outcomes
        } else {
            run(&mut w, &envelopes)
        };
        assert!(outcomes[..4].iter().all(is_done));
        assert_eq!(refusal(&outcomes[4]), Code::Forbidden);
    }
}

#[test]
fn a_mute_stands_where_it_is_looked_for_and_nowhere_else() {
    let mut w = world();
    let key = (w.room, w.guest.id);
    let [join, leave] = [RoomCommand::Join, RoomCommand::Leave].map(|c| w.envelope(&w.guest, c));
    let muted = mute(&w, w.guest.id, Some(5000));
    run(&mut w, &[join.clone(), muted, leave.clone()]);
    assert_eq!(w.facts.mutes, [(key, at(5000))].into());
    run(&mut w, std::slice::from_ref(&join));
    assert_eq!(w.facts.members[&key].muted_until, Some(at(5000)));
    assert!(w.facts.mutes.is_empty(), "the member has it");
    // Nor does a removal or a ban end it.
    let user = w.guest.id;
    let remove = w.envelope(&w.owner, RoomCommand::RemoveMember { user });
    run(&mut w, &[remove]);
    assert_eq!(w.facts.mutes[&key], at(5000));
    run(&mut w, std::slice::from_ref(&join));
    let ban = w.envelope(&w.owner, RoomCommand::Ban { user, until: None });
    run(&mut w, &[ban]);
    assert_eq!(w.facts.mutes[&key], at(5000));
    let lift = w.envelope(&w.owner, RoomCommand::LiftBan { user });
    run(&mut w, &[lift, join.clone()]);
    assert_eq!(w.facts.members[&key].muted_until, Some(at(5000)));
    // Once lifted, it does not return.
    let lift = mute(&w, w.guest.id, None);
    run(&mut w, &[lift, leave, join]);
    assert_eq!(w.facts.members[&key].muted_until, None);
    assert!(w.facts.mutes.is_empty());
}

#[test]
fn a_mute_that_is_over_is_not_kept() {
    // Commands have the time 1000.
    for (until, kept) in [(999, false), (1000, false), (1001, true)] {
        let mut w = world();
        let key = (w.room, w.guest.id);
        let join = w.envelope(&w.guest, RoomCommand::Join);
        run(&mut w, std::slice::from_ref(&join));
        w.facts.members.get_mut(&key).unwrap().muted_until = Some(at(until));
        let leave = w.envelope(&w.guest, RoomCommand::Leave);
        run(&mut w, &[leave]);
        assert_eq!(w.facts.mutes.contains_key(&key), kept, "{until}");
        // A mute that expired while the user was not a member.
        w.facts.mutes.insert(key, at(until));
        run(&mut w, &[join]);
        let muted_until = w.facts.members[&key].muted_until;
        assert_eq!(muted_until.is_some(), kept, "{until}");
        assert!(w.facts.mutes.is_empty());
    }
}

#[test]
fn a_user_who_left_can_be_muted_in_advance() {
    let mut w = world();
    let key = (w.room, w.guest.id);
    let envelopes = [
        mute(&w, w.guest.id, Some(5000)),
        mute(&w, new_id(), Some(5000)),
        w.envelope(
            &w.guest,
            RoomCommand::Mute {
                user: w.owner.id,
                until: Some(at(5000)),
            },
        ),
    ];
    let outcomes = run(&mut w, &envelopes);
    assert!(matches!(outcomes[0], Outcome::Done(None)));
    assert_eq!(refusal(&outcomes[1]), Code::NotFound);
    assert_eq!(refusal(&outcomes[2]), Code::Forbidden, "a stranger mutes");
    assert_eq!(w.facts.mutes, [(key, at(5000))].into());
    assert_eq!(w.facts.rooms[&w.room].head, 2, "nobody sees it");
    // A repetition changes nothing.
    let again = apply(w.facts.clone(), &envelopes[..1]);
    assert!(again.changes.is_empty());
    let lift = mute(&w, w.guest.id, None);
    run(&mut w, &[lift]);
    assert!(w.facts.mutes.is_empty());
}

#[test]
fn a_deleted_account_leaves_no_mute() {
    let mut w = world();
    let envelopes = [
        w.envelope(&w.guest, RoomCommand::Join),
        mute(&w, w.guest.id, Some(5000)),
        w.envelope(&w.guest, RoomCommand::LeaveByDeletion),
    ];
    run(&mut w, &envelopes);
    assert!(!w.facts.members.contains_key(&(w.room, w.guest.id)));
    assert!(w.facts.mutes.is_empty());
}

#[test]
fn a_role_does_not_come_back() {
    let mut w = world();
    let user = w.guest.id;
    let role = |role| w.envelope(&w.owner, RoomCommand::SetMember { user, role });
    let envelopes = [
        w.envelope(&w.guest, RoomCommand::Join),
        role(Role::Admin),
        w.envelope(&w.guest, RoomCommand::Leave),
        w.envelope(&w.guest, RoomCommand::Join),
    ];
    assert!(run(&mut w, &envelopes).iter().all(is_done));
    assert_eq!(w.facts.members[&(w.room, user)].role, Role::Member);
}

fn create(w: &World, actor: &User, kind: RoomKind, members: &[UserId]) -> RoomEnvelope {
    RoomEnvelope {
        room: match kind {
            RoomKind::Direct => crate::model::direct_room_id(w.owner.id, w.guest.id),
            _ => new_id(),
        },
        command: RoomCommand::Create {
            kind,
            name: "new".to_owned(),
            members: members.to_vec(),
        },
        ..w.envelope(actor, RoomCommand::Join)
    }
}

#[test]
fn rights_to_add_members() {
    use AddMembers::{Anyone, Invitation, SharedRooms};
    let rules = [
        (Anyone, false, true),
        (Anyone, true, true),
        (SharedRooms, false, false),
        (SharedRooms, true, true),
        (Invitation, false, false),
        (Invitation, true, false),
    ];
    for (rule, acquainted, allowed) in rules {
        let mut w = world();
        let (owner, guest) = (w.owner.clone(), w.guest.clone());
        w.facts.add_members = rule;
        if acquainted {
            w.facts.acquaintances.insert((owner.id, guest.id));
        }
        let add = RoomCommand::SetMember {
            user: guest.id,
            role: Role::Member,
        };
        let envelopes = [
            create(&w, &owner, RoomKind::Private, &[guest.id]),
            create(&w, &owner, RoomKind::Public, &[guest.id]),
            create(&w, &owner, RoomKind::Direct, &[guest.id]),
            w.envelope(&owner, add),
        ];
        for envelope in &envelopes {
            let applied = apply(w.facts.clone(), [envelope]);
            let what = format!("{rule:?} {acquainted} {:?}", envelope.command);
            assert_eq!(is_done(&applied.outcomes[0]), allowed, "{what}");
            if !allowed {
                assert_eq!(refusal(&applied.outcomes[0]), Code::Forbidden, "{what}");
                assert!(applied.changes.is_empty(), "{what}");
            }
        }
        // Rooms without other members, joins of one's own and role changes of members are not affected by the rule.
        let alone = [
            create(&w, &owner, RoomKind::Private, &[]),
            create(&w, &owner, RoomKind::Private, &[owner.id]),
            w.envelope(&guest, RoomCommand::Join),
            w.envelope(
                &owner,
                RoomCommand::SetMember {
                    user: guest.id,
                    role: Role::Admin,
                },
            ),
        ];
        assert!(run(&mut w, &alone).iter().all(is_done), "{rule:?}");
    }
}

#[test]
fn a_direct_room_can_be_left_and_found_again() {
    use AddMembers::{Anyone, Invitation, SharedRooms};
    for (rule, comes_back) in [(Anyone, true), (SharedRooms, false), (Invitation, false)] {
        let mut w = world();
        let (owner, guest) = (w.owner.clone(), w.guest.clone());
        let hers = create(&w, &owner, RoomKind::Direct, &[guest.id]);
        let his = create(&w, &guest, RoomKind::Direct, &[owner.id]);
        let room = hers.room;
        let leave = RoomEnvelope {
            command: RoomCommand::Leave,
            ..his.clone()
        };
        let outcomes = run(&mut w, &[hers.clone(), leave.clone()]);
        assert!(outcomes.iter().all(is_done));
        assert!(!w.facts.members.contains_key(&(room, guest.id)));
        assert!(w.facts.members.contains_key(&(room, owner.id)));
        // A second attempt finds a room that the user cannot see.
        let outcomes = run(&mut w, &[leave]);
        assert_eq!(refusal(&outcomes[0]), Code::NotFound);
        // The member who stayed opens the room.
        w.facts.add_members = rule;
        let outcomes = run(&mut w, &[hers]);
        assert!(is_done(&outcomes[0]), "she sees it all the same");
        let is_back = w.facts.members.contains_key(&(room, guest.id));
        assert_eq!(is_back, comes_back, "{rule:?}");
        // The user who left may return whatever the rule.
        let outcomes = run(&mut w, &[his]);
        assert!(is_done(&outcomes[0]));
        assert!(w.facts.members.contains_key(&(room, guest.id)));
        assert_eq!(w.facts.members[&(room, guest.id)].role, Role::Member);
    }
}

#[test]
fn a_repeated_create_returns_the_room_only_if_readable() {
    let (public, private) = (RoomKind::Public, RoomKind::Private);
    // Room kind, whether the creator is still a member, whether they see the room.
    let cases = [
        (private, true, true),
        (private, false, false),
        (public, true, true),
        (public, false, true),
    ];
    for (kind, stays, sees) in cases {
        let mut w = world();
        let (owner, guest) = (w.owner.clone(), w.guest.clone());
        let new = create(&w, &guest, kind, &[owner.id]);
        run(&mut w, std::slice::from_ref(&new));
        if !stays {
            w.facts.members.remove(&(new.room, guest.id));
        }
        let again = run(&mut w, std::slice::from_ref(&new));
        assert_eq!(is_done(&again[0]), sees, "{kind} {stays}");
        if !sees {
            assert_eq!(refusal(&again[0]), Code::Conflict);
        }
        // Another user learns nothing, even as a member.
        let other = RoomEnvelope {
            actor: owner.id,
            ..new
        };
        let other = run(&mut w, &[other]);
        assert_eq!(refusal(&other[0]), Code::Conflict);
    }
}
