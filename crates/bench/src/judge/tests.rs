//! Faults are planted: the judge must find these and no others.

use super::{faults::EXAMPLES, *};

/// A room of three readers; two connections send alternately.
struct Room3 {
    judge: Judge,
    room: RoomNo,
    subscriptions: Vec<SubscriptionNo>,
    keys: Vec<Key>,
}

const N: usize = 200;

/// `N` accepted messages with the numbers 4, 5, …: the numbers 1 to 3 are the readers' joins.
fn room3() -> Room3 {
    let mut judge = Judge::new();
    let room = judge.room("a room");
    let subscriptions: Vec<_> = (0..3)
        .map(|i| judge.subscribe(room, format!("reader {i}"), 3))
        .collect();
    let connections = [judge.connection(), judge.connection()];
    let keys = (0..N)
        .map(|i| {
            let sender = UserId::from_u128(i as u128 % 2);
            let key = judge.sent(connections[i % 2], room, sender, &format!("m{i}"));
            judge.accepted(key);
            key
        })
        .collect();
    Room3 {
        judge,
        room,
        subscriptions,
        keys,
    }
}

impl Room3 {
    fn deliver(&mut self, subscription: usize, i: usize) {
        let seq = i as Seq + 4;
        self.judge
            .delivered(self.subscriptions[subscription], seq, seq, self.keys[i]);
    }

    fn deliver_all(&mut self, subscription: usize) {
        (0..N).for_each(|i| self.deliver(subscription, i));
    }

    fn verdict(&self) -> Verdict {
        self.judge.verdict()
    }
}

/// Asserts the counts of every kind of fault.
#[track_caller]
fn assert_found(
    verdict: &Verdict,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    unexpected: u64,
    wrong_seq: u64,
) {
    assert_eq!(
        [
            verdict.lost,
            verdict.duplicated,
            verdict.reordered,
            verdict.unexpected,
            verdict.wrong_seq
        ],
        [lost, duplicated, reordered, unexpected, wrong_seq],
        "{}",
        verdict.explain()
    );
}

#[test]
fn a_clean_run_is_clean() {
    let mut run = room3();
    (0..3).for_each(|subscription| run.deliver_all(subscription));
    let verdict = run.verdict();
    assert!(verdict.is_clean(), "{}", verdict.explain());
    let n = N as u64;
    assert_eq!(
        (
            verdict.sent,
            verdict.accepted,
            verdict.stored,
            verdict.delivered,
            verdict.expected
        ),
        (n, n, n, 3 * n, 3 * n)
    );
    assert!(verdict.examples.is_empty());
}

#[test]
fn a_loss_is_found_at_any_position() {
    for at in [0, 1, N / 2, N - 1] {
        let mut run = room3();
        (0..2).for_each(|subscription| run.deliver_all(subscription));
        (0..N).filter(|i| *i != at).for_each(|i| run.deliver(2, i));
        assert_eq!(run.judge.missing(run.subscriptions[2]), 1);
        let verdict = run.verdict();
        assert_found(&verdict, 1, 0, 0, 0, 0);
        let example = format!(
            "lost: \"m{at}\" with the number {} never came to reader 2 in a room",
            at + 4
        );
        assert_eq!(verdict.examples, [example]);
    }
}

#[test]
fn a_message_without_deliveries_is_lost_for_every_subscription() {
    let mut run = room3();
    for subscription in 0..3 {
        (0..N - 1).for_each(|i| run.deliver(subscription, i));
    }
    assert_found(&run.verdict(), 3, 0, 0, 0, 0);
}

#[test]
fn a_send_without_an_answer_may_be_stored_or_not() {
    let mut run = room3();
    let connection = run.judge.connection();
    let sender = UserId::nil();
    let stored = run.judge.sent(connection, run.room, sender, "stored");
    run.judge.sent(connection, run.room, sender, "never");
    let seq = N as Seq + 4;
    for subscription in 0..3 {
        run.deliver_all(subscription);
        run.judge
            .delivered(run.subscriptions[subscription], seq, seq, stored);
    }
    assert_found(&run.verdict(), 0, 0, 0, 0, 0);
}

#[test]
fn a_repeat_is_found() {
    let mut run = room3();
    (0..3).for_each(|subscription| run.deliver_all(subscription));
    run.deliver(1, 7);
    let verdict = run.verdict();
    assert_found(&verdict, 0, 1, 0, 0, 0);
    assert_eq!(
        verdict.examples,
        ["duplicated: number 11 at reader 1 in a room came again"]
    );
}

#[test]
fn a_swap_is_found() {
    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    for i in 0..N {
        run.deliver(
            2,
            match i {
                10 => 11,
                11 => 10,
                i => i,
            },
        );
    }
    let verdict = run.verdict();
    assert_found(&verdict, 0, 0, 1, 0, 0);
    assert_eq!(
        verdict.examples,
        ["reordered: number 14 at reader 2 in a room came after 15"]
    );
}

#[test]
fn a_message_of_another_room_is_found() {
    let mut run = room3();
    (0..3).for_each(|subscription| run.deliver_all(subscription));
    let other = run.judge.room("another room");
    let connection = run.judge.connection();
    let foreign = run.judge.sent(connection, other, UserId::nil(), "m0");
    let seq = N as Seq + 4;
    run.judge.delivered(run.subscriptions[0], seq, seq, foreign);
    let invented = run.judge.key(run.room, UserId::nil(), "invented");
    run.judge
        .delivered(run.subscriptions[0], seq + 1, seq + 1, invented);
    assert_found(&run.verdict(), 0, 0, 0, 2, 0);
}

#[test]
fn events_before_the_join_or_after_the_end_are_unexpected() {
    let mut run = room3();
    (0..3).for_each(|subscription| run.deliver_all(subscription));
    run.judge.event(run.subscriptions[0], 3);
    run.judge.unsubscribe(run.subscriptions[1], None);
    run.judge.event(run.subscriptions[1], N as Seq + 4);
    assert_found(&run.verdict(), 0, 0, 0, 2, 0);
}

#[test]
fn a_subscription_that_ended_expects_nothing_more() {
    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    (0..N / 2).for_each(|i| run.deliver(2, i));
    run.judge.unsubscribe(run.subscriptions[2], None);
    let verdict = run.verdict();
    assert_found(&verdict, 0, 0, 0, 0, 0);
    assert_eq!(verdict.expected, (2 * N + N / 2) as u64);
    // According to the server it left after the last number that it received.
    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    (0..N / 2).for_each(|i| run.deliver(2, i));
    run.judge
        .unsubscribe(run.subscriptions[2], Some(N as Seq / 2 + 3 + 5));
    assert_found(&run.verdict(), 5, 0, 0, 0, 0);
}

#[test]
fn a_missing_number_is_found_for_each_reader() {
    let mut run = room3();
    for subscription in 0..3 {
        for i in 0..N {
            let seq = i as Seq + if i < 50 { 4 } else { 5 };
            run.judge
                .delivered(run.subscriptions[subscription], seq, seq, run.keys[i]);
        }
    }
    let verdict = run.verdict();
    assert_found(&verdict, 0, 0, 0, 0, 3);
    assert_eq!(
        verdict.examples[0],
        "wrong seq: no event has the number 54 for reader 0 in a room"
    );
}

#[test]
fn other_events_fill_their_numbers() {
    let mut run = room3();
    let seq = N as Seq + 4;
    for subscription in 0..3 {
        run.deliver_all(subscription);
        run.judge.event(run.subscriptions[subscription], seq);
    }
    assert_found(&run.verdict(), 0, 0, 0, 0, 0);
    // A message under the number of an event.
    let connection = run.judge.connection();
    let key = run.judge.sent(connection, run.room, UserId::nil(), "late");
    let subscription = run.judge.subscribe(run.room, "reader 3", seq - 1);
    run.judge.delivered(subscription, seq, seq, key);
    assert_found(&run.verdict(), 0, 0, 0, 0, 1);
}

#[test]
fn one_message_with_two_numbers_is_found() {
    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    (0..N - 2).for_each(|i| run.deliver(2, i));
    let last = N as Seq + 3;
    run.judge
        .delivered(run.subscriptions[2], last - 1, last - 1, run.keys[N - 1]);
    run.judge
        .delivered(run.subscriptions[2], last, last, run.keys[N - 2]);
    let verdict = run.verdict();
    // Each of the two has another number than before, and each number is another message.
    assert_found(&verdict, 0, 0, 0, 0, 4);
}

#[test]
fn a_new_message_has_its_seq_as_change_seq() {
    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    (0..N - 1).for_each(|i| run.deliver(2, i));
    let last = N as Seq + 3;
    run.judge
        .delivered(run.subscriptions[2], last, last + 1, run.keys[N - 1]);
    assert!(run.verdict().wrong_seq > 0);
}

#[test]
fn one_connections_sends_out_of_order_are_found() {
    let mut run = room3();
    // m6 and m8 are one connection's; their numbers are swapped for everyone.
    for subscription in 0..3 {
        for i in 0..N {
            let key = match i {
                6 => run.keys[8],
                8 => run.keys[6],
                i => run.keys[i],
            };
            let seq = i as Seq + 4;
            run.judge
                .delivered(run.subscriptions[subscription], seq, seq, key);
        }
    }
    let verdict = run.verdict();
    assert_found(&verdict, 0, 0, 1, 0, 0);
    assert_eq!(
        verdict.examples,
        [
            "reordered: connection 0 sent \"m6\" before \"m8\", which have the numbers 12 and 10 in a room"
        ]
    );
}

#[test]
fn a_repeated_send_has_no_position_in_the_order() {
    let mut run = room3();
    let connection = run.judge.connection();
    run.judge
        .sent(connection, run.room, UserId::from_u128(0), "m6");
    for subscription in 0..3 {
        for i in 0..N {
            let key = match i {
                6 => run.keys[7],
                7 => run.keys[6],
                i => run.keys[i],
            };
            let seq = i as Seq + 4;
            run.judge
                .delivered(run.subscriptions[subscription], seq, seq, key);
        }
    }
    let verdict = run.verdict();
    assert_found(&verdict, 0, 0, 0, 0, 0);
    assert_eq!(verdict.sent, N as u64);
}

#[test]
fn a_resume_delivers_missed_messages_once() {
    let caught = |from: usize, run: &Room3| -> Vec<(Seq, Key)> {
        (from..N).map(|i| (i as Seq + 4, run.keys[i])).collect()
    };
    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    (0..60).for_each(|i| run.deliver(2, i));
    assert_eq!(run.judge.position(run.subscriptions[2]), 63);
    // Two more events than messages; the first message is one that was changed.
    let missed = [(4, run.keys[0])].into_iter().chain(caught(60, &run));
    run.judge
        .caught_up(run.subscriptions[2], missed, N as Seq + 5);
    assert_found(&run.verdict(), 0, 0, 0, 0, 0);
    assert_eq!(run.judge.position(run.subscriptions[2]), N as Seq + 5);
    // A message of the answer is delivered again as an event.
    run.deliver(2, 70);
    assert_found(&run.verdict(), 0, 1, 0, 0, 0);

    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    (0..60).for_each(|i| run.deliver(2, i));
    let missed = caught(61, &run);
    run.judge
        .caught_up(run.subscriptions[2], missed, N as Seq + 3);
    assert_found(&run.verdict(), 1, 0, 0, 0, 0);
}

#[test]
fn a_gap_loses_messages_unless_it_is_allowed() {
    for allowed in [false, true] {
        let mut run = room3();
        run.judge.allow_gaps = allowed;
        (0..2).for_each(|subscription| run.deliver_all(subscription));
        (0..10).for_each(|i| run.deliver(2, i));
        run.judge.gap(run.subscriptions[2], 14, 23);
        (20..N).for_each(|i| run.deliver(2, i));
        let verdict = run.verdict();
        assert_found(&verdict, if allowed { 0 } else { 10 }, 0, 0, 0, 0);
        assert_eq!(verdict.gaps, 1);
    }
}

#[test]
fn examples_are_few_and_counts_are_complete() {
    let mut run = room3();
    (0..2).for_each(|subscription| run.deliver_all(subscription));
    let verdict = run.verdict();
    assert_found(&verdict, N as u64, 0, 0, 0, 0);
    assert_eq!(verdict.examples.len(), EXAMPLES);
}
