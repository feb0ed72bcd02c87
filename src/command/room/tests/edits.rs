//! Which edits are evaluated for notifications.

use super::*;

#[test]
fn an_edit_that_mentions_more_users_is_evaluated_again() {
    let mut world = world();
    for user in [&world.owner, &world.guest] {
        world.facts.named.insert(user.username.clone(), user.id);
        let member = Member {
            user: user.clone(),
            ..world.facts.members[&(world.room, world.owner.id)].clone()
        };
        world.facts.members.insert((world.room, user.id), member);
    }
    let id = world.message(&world.owner, "a");
    let edit_at = |world: &World, body: &str, at: i64| RoomEnvelope {
        at: Timestamp::from_millis(at),
        ..world.envelope(
            &world.owner,
            RoomCommand::Edit {
                message: id,
                body: body.to_owned(),
            },
        )
    };
    let added = |edits: &[(&str, i64)]| {
        let edits = edits.iter().map(|(body, at)| edit_at(&world, body, *at));
        let all: Vec<_> = [world.send(&world.owner, "a")]
            .into_iter()
            .chain(edits)
            .collect();
        apply(world.facts.clone(), &all).mentions_added
    };
    assert!(added(&[]).is_empty());
    assert!(added(&[("nobody", 2000)]).is_empty());
    assert_eq!(added(&[("@guest", 2000)]), [id]);
    // The edit mentions no new user.
    assert_eq!(
        added(&[("@guest", 2000), ("hi @guest", 2001), ("hi", 2002)]),
        [id]
    );
    assert_eq!(
        added(&[("@guest", 2000), ("@guest @owner", 2001)]),
        [id, id]
    );
    // A redelivered edit may not have been evaluated.
    assert_eq!(added(&[("@guest", 2000), ("@guest", 2000)]), [id, id]);
    assert_eq!(
        added(&[("@guest", 2000), ("hi", 2001), ("@guest", 2000)]),
        [id, id]
    );
    assert!(added(&[("hi", 2000), ("hi", 2000)]).is_empty());
}
