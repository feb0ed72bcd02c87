//! Who sent what and who got what: finds every message that was lost, came twice, out of order, with a wrong number or
//! to someone it was not meant for. Pure bookkeeping, a few bytes for each message and about a bit for each
//! delivery, so that it can follow millions of them. It never talks to a server and reads no clock.
//!
//! A *seat* is one reader's view of one room, over as many sockets as the reader needs for it. Tell the judge of a
//! send before it leaves ([`Judge::sent`]), so that no delivery can be faster.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
};

use serde::Serialize;

use crate::model::{Seq, UserId};

/// Examples kept of each kind of fault.
const EXAMPLES: usize = 3;
/// The numbers of one room that are followed; the memory is linear in them.
const MAX_SEQ: Seq = 1 << 28;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomNo(u32);

/// One reader's view of one room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeatNo(u32);

/// Something whose sends keep their order: one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionNo(u32);

/// A message as its room, sender and `clientMsgId` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

#[derive(Default)]
pub struct Judge {
    /// An explicit `gap` counts, but what it covers is not lost.
    allow_gaps: bool,
    rooms: Vec<Room>,
    seats: Vec<Seat>,
    connections: u32,
    sends: Vec<Sent>,
    /// Where a key's send is in `sends`.
    by_key: HashMap<Key, u32>,
    /// Every `clientMsgId`, end to end: for the examples.
    names: String,
    found: Found,
    delivered: u64,
}

struct Room {
    label: String,
    /// What each number turned out to be.
    numbers: Vec<u32>,
    seats: Vec<SeatNo>,
}

/// In `Room::numbers`: nobody has been told yet. Anything else is a place in `sends`, counted from 1.
const UNKNOWN: u32 = 0;
/// In `Room::numbers`: an event that is no new message.
const OTHER: u32 = u32::MAX;

struct Seat {
    label: String,
    room: RoomNo,
    /// The reader sees the room from after this number on.
    base: Seq,
    /// The highest number it has been given or caught up to.
    last: Seq,
    /// A bit for each number above `base` that it was given.
    given: Vec<u64>,
    /// Ranges (both ends included) where events may be left out: answers to a resume, and pages of history.
    summarised: Vec<(Seq, Seq)>,
    gaps: Vec<(Seq, Seq)>,
    /// It has gone and expects nothing above this.
    until: Option<Seq>,
}

struct Sent {
    key: Key,
    name: u32,
    room: RoomNo,
    connection: ConnectionNo,
    /// 0 until a delivery tells it.
    seq: u32,
    accepted: bool,
    /// Sent again, perhaps by another connection: its place in a connection's order is open.
    repeated: bool,
}

#[derive(Default)]
struct Found {
    duplicated: Fault,
    reordered: Fault,
    unexpected: Fault,
    wrong_seq: Fault,
    gaps: u64,
}

#[derive(Default, Clone)]
struct Fault {
    count: u64,
    examples: Vec<String>,
}

impl Fault {
    fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// What came of it all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub sent: u64,
    pub accepted: u64,
    /// Messages that someone was given: they have a number.
    pub stored: u64,
    /// New messages given to seats, each one counted.
    pub delivered: u64,
    /// How many deliveries the accepted messages call for.
    pub expected: u64,
    /// Accepted, and never given to a seat that should have it.
    pub lost: u64,
    pub duplicated: u64,
    /// Given to a seat after something later, or numbered against the order of one connection.
    pub reordered: u64,
    /// Given though nobody sent it, or to a seat that was gone.
    pub unexpected: u64,
    /// A number twice, one message with two numbers, or a number that no event has.
    pub wrong_seq: u64,
    /// Explicit `gap` events.
    pub gaps: u64,
    /// A few of each, for people.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Nothing lost, twice, out of order, foreign or misnumbered. A gap that was not allowed shows as lost or as a
    /// missing number.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.unexpected + self.wrong_seq == 0
    }

    /// One line for each kind of fault with its examples; for test failures.
    pub fn explain(&self) -> String {
        let mut text = format!(
            "sent {}, accepted {}, stored {}, delivered {} of {}: {} lost, {} duplicated, {} reordered, {} unexpected, {} wrong seq, {} gaps",
            self.sent,
            self.accepted,
            self.stored,
            self.delivered,
            self.expected,
            self.lost,
            self.duplicated,
            self.reordered,
            self.unexpected,
            self.wrong_seq,
            self.gaps
        );
        for example in &self.examples {
            let _ = write!(text, "\n  {example}");
        }
        text
    }
}

impl Judge {
    pub fn new() -> Self {
        Judge::default()
    }

    /// For runs in which a `gap` is an honest answer, such as after the loss of the database.
    pub fn allowing_gaps() -> Self {
        Judge {
            allow_gaps: true,
            ..Judge::default()
        }
    }

    /// A room. `label` is for the examples.
    pub fn room(&mut self, label: impl Into<String>) -> RoomNo {
        self.rooms.push(Room {
            label: label.into(),
            numbers: Vec::new(),
            seats: Vec::new(),
        });
        RoomNo(self.rooms.len() as u32 - 1)
    }

    /// A reader who has joined `room` and sees everything above `base`.
    pub fn seat(&mut self, room: RoomNo, label: impl Into<String>, base: Seq) -> SeatNo {
        let seat = SeatNo(self.seats.len() as u32);
        self.seats.push(Seat {
            label: label.into(),
            room,
            base,
            last: base,
            given: Vec::new(),
            summarised: Vec::new(),
            gaps: Vec::new(),
            until: None,
        });
        self.rooms[room.0 as usize].seats.push(seat);
        seat
    }

    pub fn connection(&mut self) -> ConnectionNo {
        self.connections += 1;
        ConnectionNo(self.connections - 1)
    }

    /// The same on every call with the same three.
    pub fn key(&self, room: RoomNo, sender: UserId, client_msg_id: &str) -> Key {
        let mut hasher = DefaultHasher::new();
        (room.0, sender, client_msg_id).hash(&mut hasher);
        Key(hasher.finish())
    }

    // ---- sends

    /// Is about to be sent. The order of these calls is the order of the connection. Call it again for a repeat.
    pub fn sent(
        &mut self,
        connection: ConnectionNo,
        room: RoomNo,
        sender: UserId,
        client_msg_id: &str,
    ) -> Key {
        let key = self.key(room, sender, client_msg_id);
        if let Some(at) = self.by_key.get(&key) {
            self.sends[*at as usize].repeated = true;
            return key;
        }
        self.by_key.insert(key, self.sends.len() as u32);
        self.sends.push(Sent {
            key,
            name: self.names.len() as u32,
            room,
            connection,
            seq: 0,
            accepted: false,
            repeated: false,
        });
        self.names.push_str(client_msg_id);
        key
    }

    /// The server has acknowledged it: from now on it has to come to everyone.
    pub fn accepted(&mut self, key: Key) {
        if let Some(at) = self.by_key.get(&key) {
            self.sends[*at as usize].accepted = true;
        }
    }

    // ---- what readers get

    /// A `newMessage` on a live socket.
    pub fn delivered(&mut self, seat: SeatNo, seq: Seq, change_seq: Seq, key: Key) {
        self.delivered += 1;
        if seq != change_seq {
            self.found.wrong_seq.add(|| {
                let place = place(&self.seats, &self.rooms, seat, seq);
                format!("wrong seq: {place} came as a new message with changeSeq {change_seq}")
            });
        }
        self.message(seat, seq, key);
        self.live(seat, change_seq);
    }

    /// Any other durable event on a live socket.
    pub fn event(&mut self, seat: SeatNo, change_seq: Seq) {
        self.number(seat, change_seq, OTHER);
        self.live(seat, change_seq);
    }

    /// A `gap` event.
    pub fn gap(&mut self, seat: SeatNo, from: Seq, to: Seq) {
        self.found.gaps += 1;
        let seat = &mut self.seats[seat.0 as usize];
        seat.gaps.push((from, to));
        seat.last = seat.last.max(to);
    }

    /// An answer to `joinRoom` with `afterSeq`, or a page of history: `messages` are those above the seat's place as
    /// `(seq, key)`, and the place is `upto` afterwards. What else happened may be left out, and a message from below the
    /// place may be shown again, since it may have changed.
    pub fn caught_up(
        &mut self,
        seat: SeatNo,
        messages: impl IntoIterator<Item = (Seq, Key)>,
        upto: Seq,
    ) {
        let place = self.seats[seat.0 as usize].last;
        for (seq, key) in messages {
            if seq > place {
                self.delivered += 1;
                self.message(seat, seq, key);
                self.give(seat, seq);
            }
        }
        let seat = &mut self.seats[seat.0 as usize];
        if upto > place {
            seat.summarised.push((place + 1, upto));
            seat.last = upto;
        }
    }

    pub fn seats(&self) -> impl Iterator<Item = SeatNo> + use<> {
        (0..self.seats.len() as u32).map(SeatNo)
    }

    /// The seat has gone: left, removed, or disconnected for good. Without `upto` it owes nothing above what it
    /// was given.
    pub fn left(&mut self, seat: SeatNo, upto: Option<Seq>) {
        let seat = &mut self.seats[seat.0 as usize];
        seat.until = Some(upto.unwrap_or(seat.last));
    }

    /// The highest number the seat has: the `afterSeq` to resume with.
    pub fn position(&self, seat: SeatNo) -> Seq {
        self.seats[seat.0 as usize].last
    }

    /// How many accepted messages the seat still lacks; 0 is what a test waits for. Looks at every send.
    pub fn missing(&self, seat: SeatNo) -> usize {
        let seat = &self.seats[seat.0 as usize];
        self.sends
            .iter()
            .filter(|sent| sent.accepted && sent.room == seat.room && self.lacks(seat, sent))
            .count()
    }

    /// Adds up. What has not come by now counts as lost.
    pub fn verdict(&self) -> Verdict {
        let mut lost = Fault::default();
        let mut expected = 0;
        let (mut accepted, mut stored) = (0, 0);
        for sent in &self.sends {
            accepted += u64::from(sent.accepted);
            stored += u64::from(sent.seq > 0);
            if !sent.accepted {
                continue;
            }
            for seat in &self.rooms[sent.room.0 as usize].seats {
                let seat = &self.seats[seat.0 as usize];
                if seat.expects(sent) {
                    expected += 1;
                    if self.lacks(seat, sent) {
                        lost.add(|| self.lost_example(seat, sent));
                    }
                }
            }
        }
        let mut reordered = self.found.reordered.clone();
        self.check_connections(&mut reordered);
        let mut wrong_seq = self.found.wrong_seq.clone();
        self.check_holes(&mut wrong_seq);

        let (duplicated, unexpected) = (&self.found.duplicated, &self.found.unexpected);
        Verdict {
            sent: self.sends.len() as u64,
            accepted,
            stored,
            delivered: self.delivered,
            expected,
            lost: lost.count,
            duplicated: duplicated.count,
            reordered: reordered.count,
            unexpected: unexpected.count,
            wrong_seq: wrong_seq.count,
            gaps: self.found.gaps,
            examples: [&lost, duplicated, &reordered, unexpected, &wrong_seq]
                .iter()
                .flat_map(|fault| fault.examples.iter().cloned())
                .collect(),
        }
    }

    // ---- inside

    /// Takes `seq` to be the message `key`, and says so if anything speaks against it.
    fn message(&mut self, seat: SeatNo, seq: Seq, key: Key) {
        let room = self.seats[seat.0 as usize].room;
        let known = self.by_key.get(&key).copied();
        let Some(at) = known.filter(|at| self.sends[*at as usize].room == room) else {
            self.found.unexpected.add(|| {
                let place = place(&self.seats, &self.rooms, seat, seq);
                format!("unexpected: nobody sent to the room what came as {place}")
            });
            return;
        };
        let known = self.sends[at as usize].seq;
        if known == 0 {
            self.sends[at as usize].seq = seq as u32;
        } else if Seq::from(known) != seq {
            self.found.wrong_seq.add(|| {
                let name = name(&self.sends, &self.names, at);
                let place = place(&self.seats, &self.rooms, seat, seq);
                format!("wrong seq: {name:?} was {known} before it came as {place}")
            });
        }
        self.number(seat, seq, at + 1);
    }

    /// Takes `seq` to be `what` in the seat's room, and says so if it is something else already.
    fn number(&mut self, seat: SeatNo, seq: Seq, what: u32) {
        let room = self.seats[seat.0 as usize].room;
        if !(1..MAX_SEQ).contains(&seq) {
            self.found.wrong_seq.add(|| {
                let place = place(&self.seats, &self.rooms, seat, seq);
                format!("wrong seq: {place} is out of range")
            });
            return;
        }
        let numbers = &mut self.rooms[room.0 as usize].numbers;
        let at = seq as usize;
        if numbers.len() <= at {
            numbers.resize(at + 1, UNKNOWN);
        }
        if numbers[at] == UNKNOWN {
            numbers[at] = what;
        } else if numbers[at] != what {
            self.found.wrong_seq.add(|| {
                let place = place(&self.seats, &self.rooms, seat, seq);
                format!("wrong seq: {place} is another event than others got under this number")
            });
        }
    }

    /// A number on a live socket: once, and after those before it.
    fn live(&mut self, seat: SeatNo, seq: Seq) {
        let last = self.seats[seat.0 as usize].last;
        if self.give(seat, seq) && seq < last {
            self.found.reordered.add(|| {
                let place = place(&self.seats, &self.rooms, seat, seq);
                format!("reordered: {place} came after {last}")
            });
        }
        let seat = &mut self.seats[seat.0 as usize];
        seat.last = seat.last.max(seq);
    }

    /// Marks a number as given. `false` if it was before, or should not have come at all.
    fn give(&mut self, seat_no: SeatNo, seq: Seq) -> bool {
        let seat = &mut self.seats[seat_no.0 as usize];
        if seq <= seat.base || seq >= MAX_SEQ || seat.until.is_some() {
            let why = match seat.until {
                Some(_) => "after the seat had gone".to_owned(),
                None => format!("though the seat joined at {}", seat.base),
            };
            self.found.unexpected.add(|| {
                let place = place(&self.seats, &self.rooms, seat_no, seq);
                format!("unexpected: {place} came {why}")
            });
            return false;
        }
        let bit = (seq - seat.base - 1) as usize;
        if seat.given.len() <= bit / 64 {
            seat.given.resize(bit / 64 + 1, 0);
        }
        if seat.given[bit / 64] & 1 << (bit % 64) != 0 {
            self.found.duplicated.add(|| {
                let place = place(&self.seats, &self.rooms, seat_no, seq);
                format!("duplicated: {place} came again")
            });
            return false;
        }
        seat.given[bit / 64] |= 1 << (bit % 64);
        true
    }

    fn lacks(&self, seat: &Seat, sent: &Sent) -> bool {
        let seq = Seq::from(sent.seq);
        seat.expects(sent)
            && !(seq > 0 && (seat.has(seq) || (self.allow_gaps && within(&seat.gaps, seq))))
    }

    /// One connection's messages of a room stand in the order in which it sent them.
    fn check_connections(&self, reordered: &mut Fault) {
        let mut last: HashMap<(ConnectionNo, RoomNo), usize> = HashMap::new();
        for (at, sent) in self.sends.iter().enumerate() {
            if sent.seq == 0 || sent.repeated {
                continue;
            }
            let before = last.insert((sent.connection, sent.room), at);
            if let Some(before) = before.filter(|before| self.sends[*before].seq > sent.seq) {
                reordered.add(|| {
                    format!(
                        "reordered: connection {} sent {:?} before {:?}, which have the numbers {} and {} in {}",
                        sent.connection.0,
                        name(&self.sends, &self.names, before as u32),
                        name(&self.sends, &self.names, at as u32),
                        self.sends[before].seq,
                        sent.seq,
                        self.rooms[sent.room.0 as usize].label
                    )
                });
            }
        }
    }

    /// Every number between a seat's first and last is an event it got.
    fn check_holes(&self, wrong_seq: &mut Fault) {
        for seat in &self.seats {
            let end = seat.until.map_or(seat.last, |until| until.min(seat.last));
            for seq in seat.base + 1..=end {
                let numbers = &self.rooms[seat.room.0 as usize].numbers;
                let what = numbers.get(seq as usize).copied().unwrap_or(UNKNOWN);
                // A message is counted as lost, if it was accepted.
                let message = what != UNKNOWN && what != OTHER;
                let accepted = message && self.sends[what as usize - 1].accepted;
                let excused =
                    within(&seat.summarised, seq) || (self.allow_gaps && within(&seat.gaps, seq));
                if !seat.has(seq) && !accepted && !excused {
                    wrong_seq.add(|| {
                        format!(
                            "wrong seq: no event has the number {seq} for {} in {}",
                            seat.label, self.rooms[seat.room.0 as usize].label
                        )
                    });
                }
            }
        }
    }

    fn lost_example(&self, seat: &Seat, sent: &Sent) -> String {
        let at = self.by_key.get(&sent.key).copied().unwrap_or_default();
        let number = match sent.seq {
            0 => "that nobody got".to_owned(),
            seq => format!("with the number {seq}"),
        };
        format!(
            "lost: {:?} {number} never came to {} in {}",
            name(&self.sends, &self.names, at),
            seat.label,
            self.rooms[seat.room.0 as usize].label
        )
    }
}

impl Seat {
    fn has(&self, seq: Seq) -> bool {
        let bit = seq - self.base - 1;
        bit >= 0
            && self
                .given
                .get(bit as usize / 64)
                .is_some_and(|word| word & 1 << (bit % 64) != 0)
    }

    /// Whether this message is for it.
    fn expects(&self, sent: &Sent) -> bool {
        match (Seq::from(sent.seq), self.until) {
            (0, until) => until.is_none(),
            (seq, until) => seq > self.base && until.is_none_or(|until| seq <= until),
        }
    }
}

fn within(ranges: &[(Seq, Seq)], seq: Seq) -> bool {
    ranges.iter().any(|(from, to)| (*from..=*to).contains(&seq))
}

fn name<'a>(sends: &[Sent], names: &'a str, at: u32) -> &'a str {
    let start = sends[at as usize].name as usize;
    let end = sends
        .get(at as usize + 1)
        .map_or(names.len(), |next| next.name as usize);
    &names[start..end]
}

fn place(seats: &[Seat], rooms: &[Room], seat: SeatNo, seq: Seq) -> String {
    let seat = &seats[seat.0 as usize];
    format!(
        "number {seq} at {} in {}",
        seat.label, rooms[seat.room.0 as usize].label
    )
}
