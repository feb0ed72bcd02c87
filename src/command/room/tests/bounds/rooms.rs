//! Rooms at their beginning and at their end.

use super::*;

#[test]
fn a_new_room_has_its_people_once_and_its_owner() {
    let w = world();
    let (owner, guest) = (w.owner.clone(), w.guest.clone());
    let create = |room: RoomId, kind, members: &[UserId]| RoomEnvelope {
        room,
        ..w.envelope(
            &owner,
            RoomCommand::Create {
                kind,
                name: "new".to_owned(),
                members: members.to_vec(),
            },
        )
    };
    for (kind, creator) in [
        (RoomKind::Public, Role::Owner),
        (RoomKind::Private, Role::Owner),
        (RoomKind::Direct, Role::Member),
    ] {
        let members = [guest.id, owner.id, guest.id];
        let applied = apply(w.facts.clone(), [&create(new_id(), kind, &members)]);
        assert_eq!(code(&applied.outcomes[0]), None);
        let mut roles: Vec<(UserId, Role)> = applied
            .changes
            .members
            .iter()
            .map(|member| (member.user.id, member.role))
            .collect();
        roles.sort();
        let mut expected = vec![(owner.id, creator), (guest.id, Role::Member)];
        expected.sort();
        assert_eq!(roles, expected, "{kind}");
        assert_eq!(names(&applied), [EventKind::MemberJoined; 2]);
    }
    let unknown = apply(
        w.facts.clone(),
        [&create(new_id(), RoomKind::Public, &[new_id()])],
    );
    assert_eq!(code(&unknown.outcomes[0]), Some(Code::Invalid));
    assert!(unknown.changes.is_empty());

    // An existing room is returned to its creator only.
    let again = create(w.room, RoomKind::Public, &[]);
    let found = apply(w.facts.clone(), [&again]);
    assert_eq!(code(&found.outcomes[0]), None);
    assert!(found.changes.is_empty());
    let by_another = RoomEnvelope {
        actor: guest.id,
        ..again.clone()
    };
    let refused = apply(w.facts.clone(), [&by_another]);
    assert_eq!(code(&refused.outcomes[0]), Some(Code::Conflict));
    let mut facts = w.facts.clone();
    facts.rooms.get_mut(&w.room).unwrap().deleted = true;
    let refused = apply(facts, [&again]);
    assert_eq!(code(&refused.outcomes[0]), Some(Code::Conflict));
}

#[test]
fn a_room_is_deleted_with_its_last_possible_owner() {
    // Room kind, role of the deleted account, whether there is a successor, whether the room is deleted.
    for (kind, role, successor, goes) in [
        (RoomKind::Public, Role::Member, false, false),
        (RoomKind::Public, Role::Admin, true, false),
        (RoomKind::Public, Role::Owner, false, true),
        (RoomKind::Public, Role::Owner, true, false),
        (RoomKind::Direct, Role::Member, false, true),
        (RoomKind::Direct, Role::Member, true, false),
    ] {
        let mut w = world();
        w.kind(kind);
        let (room, actor, next) = (w.room, user("actor"), w.guest.clone());
        w.with(&actor, role);
        w.with(&next, Role::Member);
        if successor {
            w.facts.successors.insert(room, next.id);
        }
        let (code, applied) = w.run(&actor, RoomCommand::LeaveByDeletion);
        let what = format!("{kind} {role} {successor}");
        assert_eq!(code, None, "{what}");
        let deleted = applied.changes.rooms.iter().any(|room| room.deleted);
        assert_eq!(deleted, goes, "{what}");
        let passed_on = role == Role::Owner && successor;
        assert_eq!(
            applied.changes.members.len(),
            usize::from(passed_on),
            "{what}"
        );
        assert_eq!(applied.changes.removed_members, [(room, actor.id)]);
    }
}
