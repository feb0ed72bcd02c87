//! The judge is judged: faults are planted, and it has to find these and no others.

use super::*;

/// A room of three readers in which two connections send by turns, delivered without a fault.
struct Room3 {
    judge: Judge,
    room: RoomNo,
    seats: Vec<SeatNo>,
    keys: Vec<Key>,
}

const N: usize = 200;

/// `N` accepted messages with the numbers 4, 5, …: the readers' joining was 1 to 3.
fn room3() -> Room3 {
    let mut judge = Judge::new();
    let room = judge.room("a room");
    let seats: Vec<_> = (0..3)
        .map(|i| judge.seat(room, format!("reader {i}"), 3))
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
        seats,
        keys,
    }
}

impl Room3 {
    fn give(&mut self, seat: usize, i: usize) {
        let seq = i as Seq + 4;
        self.judge
            .delivered(self.seats[seat], seq, seq, self.keys[i]);
    }

    fn give_all(&mut self, seat: usize) {
        (0..N).for_each(|i| self.give(seat, i));
    }

    fn verdict(&self) -> Verdict {
        self.judge.verdict()
    }
}

/// Only these counts may differ from a clean run's.
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
    (0..3).for_each(|seat| run.give_all(seat));
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
fn a_loss_is_found_wherever_it_is() {
    for at in [0, 1, N / 2, N - 1] {
        let mut run = room3();
        (0..2).for_each(|seat| run.give_all(seat));
        (0..N).filter(|i| *i != at).for_each(|i| run.give(2, i));
        assert_eq!(run.judge.missing(run.seats[2]), 1);
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
fn what_nobody_got_is_lost_for_everyone() {
    let mut run = room3();
    for seat in 0..3 {
        (0..N - 1).for_each(|i| run.give(seat, i));
    }
    assert_found(&run.verdict(), 3, 0, 0, 0, 0);
}

#[test]
fn what_was_not_accepted_may_be_stored_or_not() {
    let mut run = room3();
    let connection = run.judge.connection();
    let sender = UserId::nil();
    let stored = run.judge.sent(connection, run.room, sender, "stored");
    run.judge.sent(connection, run.room, sender, "never");
    let seq = N as Seq + 4;
    for seat in 0..3 {
        run.give_all(seat);
        run.judge.delivered(run.seats[seat], seq, seq, stored);
    }
    assert_found(&run.verdict(), 0, 0, 0, 0, 0);
}

#[test]
fn a_repeat_is_found() {
    let mut run = room3();
    (0..3).for_each(|seat| run.give_all(seat));
    run.give(1, 7);
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
    (0..2).for_each(|seat| run.give_all(seat));
    for i in 0..N {
        run.give(
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
fn a_foreign_message_is_found() {
    let mut run = room3();
    (0..3).for_each(|seat| run.give_all(seat));
    let other = run.judge.room("another room");
    let connection = run.judge.connection();
    let foreign = run.judge.sent(connection, other, UserId::nil(), "m0");
    let seq = N as Seq + 4;
    run.judge.delivered(run.seats[0], seq, seq, foreign);
    let invented = run.judge.key(run.room, UserId::nil(), "invented");
    run.judge
        .delivered(run.seats[0], seq + 1, seq + 1, invented);
    assert_found(&run.verdict(), 0, 0, 0, 2, 0);
}

#[test]
fn what_comes_before_the_join_or_after_the_end_is_unexpected() {
    let mut run = room3();
    (0..3).for_each(|seat| run.give_all(seat));
    run.judge.event(run.seats[0], 3);
    run.judge.left(run.seats[1], None);
    run.judge.event(run.seats[1], N as Seq + 4);
    assert_found(&run.verdict(), 0, 0, 0, 2, 0);
}

#[test]
fn who_left_owes_nothing_after_that() {
    let mut run = room3();
    (0..2).for_each(|seat| run.give_all(seat));
    (0..N / 2).for_each(|i| run.give(2, i));
    run.judge.left(run.seats[2], None);
    let verdict = run.verdict();
    assert_found(&verdict, 0, 0, 0, 0, 0);
    assert_eq!(verdict.expected, (2 * N + N / 2) as u64);
    // The server said that it left later than what it got.
    let mut run = room3();
    (0..2).for_each(|seat| run.give_all(seat));
    (0..N / 2).for_each(|i| run.give(2, i));
    run.judge.left(run.seats[2], Some(N as Seq / 2 + 3 + 5));
    assert_found(&run.verdict(), 5, 0, 0, 0, 0);
}

#[test]
fn a_hole_in_the_numbers_is_found_for_each_reader() {
    let mut run = room3();
    for seat in 0..3 {
        for i in 0..N {
            let seq = i as Seq + if i < 50 { 4 } else { 5 };
            run.judge.delivered(run.seats[seat], seq, seq, run.keys[i]);
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
    for seat in 0..3 {
        run.give_all(seat);
        run.judge.event(run.seats[seat], seq);
    }
    assert_found(&run.verdict(), 0, 0, 0, 0, 0);
    // A message under the number of an event.
    let connection = run.judge.connection();
    let key = run.judge.sent(connection, run.room, UserId::nil(), "late");
    let seat = run.judge.seat(run.room, "reader 3", seq - 1);
    run.judge.delivered(seat, seq, seq, key);
    assert_found(&run.verdict(), 0, 0, 0, 0, 1);
}

#[test]
fn one_message_with_two_numbers_is_found() {
    let mut run = room3();
    (0..2).for_each(|seat| run.give_all(seat));
    (0..N - 2).for_each(|i| run.give(2, i));
    let last = N as Seq + 3;
    run.judge
        .delivered(run.seats[2], last - 1, last - 1, run.keys[N - 1]);
    run.judge
        .delivered(run.seats[2], last, last, run.keys[N - 2]);
    let verdict = run.verdict();
    // Each of the two has another number than before, and each number is another message.
    assert_found(&verdict, 0, 0, 0, 0, 4);
}

#[test]
fn a_new_message_has_its_seq_as_change_seq() {
    let mut run = room3();
    (0..2).for_each(|seat| run.give_all(seat));
    (0..N - 1).for_each(|i| run.give(2, i));
    let last = N as Seq + 3;
    run.judge
        .delivered(run.seats[2], last, last + 1, run.keys[N - 1]);
    assert!(run.verdict().wrong_seq > 0);
}

#[test]
fn one_connections_sends_out_of_order_are_found() {
    let mut run = room3();
    // m6 and m8 are one connection's; their numbers are swapped for everyone.
    for seat in 0..3 {
        for i in 0..N {
            let key = match i {
                6 => run.keys[8],
                8 => run.keys[6],
                i => run.keys[i],
            };
            let seq = i as Seq + 4;
            run.judge.delivered(run.seats[seat], seq, seq, key);
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
fn a_send_that_was_repeated_has_no_place_in_the_order() {
    let mut run = room3();
    let connection = run.judge.connection();
    run.judge
        .sent(connection, run.room, UserId::from_u128(0), "m6");
    for seat in 0..3 {
        for i in 0..N {
            let key = match i {
                6 => run.keys[7],
                7 => run.keys[6],
                i => run.keys[i],
            };
            let seq = i as Seq + 4;
            run.judge.delivered(run.seats[seat], seq, seq, key);
        }
    }
    let verdict = run.verdict();
    assert_found(&verdict, 0, 0, 0, 0, 0);
    assert_eq!(verdict.sent, N as u64);
}

#[test]
fn a_resume_brings_what_was_missed_once() {
    let caught = |from: usize, run: &Room3| -> Vec<(Seq, Key)> {
        (from..N).map(|i| (i as Seq + 4, run.keys[i])).collect()
    };
    let mut run = room3();
    (0..2).for_each(|seat| run.give_all(seat));
    (0..60).for_each(|i| run.give(2, i));
    assert_eq!(run.judge.position(run.seats[2]), 63);
    // Two more events than messages; the first message is one that was changed.
    let missed = [(4, run.keys[0])].into_iter().chain(caught(60, &run));
    run.judge.caught_up(run.seats[2], missed, N as Seq + 5);
    assert_found(&run.verdict(), 0, 0, 0, 0, 0);
    assert_eq!(run.judge.position(run.seats[2]), N as Seq + 5);
    // What the answer brought comes again as an event.
    run.give(2, 70);
    assert_found(&run.verdict(), 0, 1, 0, 0, 0);

    let mut run = room3();
    (0..2).for_each(|seat| run.give_all(seat));
    (0..60).for_each(|i| run.give(2, i));
    let missed = caught(61, &run);
    run.judge.caught_up(run.seats[2], missed, N as Seq + 3);
    assert_found(&run.verdict(), 1, 0, 0, 0, 0);
}

#[test]
fn a_gap_is_lost_messages_unless_it_is_allowed() {
    for allowed in [false, true] {
        let mut run = room3();
        run.judge.allow_gaps = allowed;
        (0..2).for_each(|seat| run.give_all(seat));
        (0..10).for_each(|i| run.give(2, i));
        run.judge.gap(run.seats[2], 14, 23);
        (20..N).for_each(|i| run.give(2, i));
        let verdict = run.verdict();
        assert_found(&verdict, if allowed { 0 } else { 10 }, 0, 0, 0, 0);
        assert_eq!(verdict.gaps, 1);
    }
}

#[test]
fn examples_are_few_and_counts_whole() {
    let mut run = room3();
    (0..2).for_each(|seat| run.give_all(seat));
    let verdict = run.verdict();
    assert_found(&verdict, N as u64, 0, 0, 0, 0);
    assert_eq!(verdict.examples.len(), EXAMPLES);
}
