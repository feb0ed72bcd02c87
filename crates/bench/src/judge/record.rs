//! Recording: rooms, subscriptions, sends and what readers receive.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    ids::{ConnectionNo, Key, RoomNo, Seq, SubscriptionNo, UserId},
    state::{Judge, MAX_SEQ, OTHER, Room, Sent, UNKNOWN, describe, name},
    subscription::Subscription,
};

impl Judge {
    pub fn new() -> Self {
        Judge::default()
    }

    /// For runs in which a `gap` event is a correct answer, such as after the loss of the database.
    pub fn allowing_gaps() -> Self {
        Judge {
            allow_gaps: true,
            ..Judge::default()
        }
    }

    /// Adds a room. `label` is for the examples.
    pub fn room(&mut self, label: impl Into<String>) -> RoomNo {
        self.rooms.push(Room {
            label: label.into(),
            numbers: Vec::new(),
            subscriptions: Vec::new(),
        });
        RoomNo(self.rooms.len() as u32 - 1)
    }

    /// Adds a reader who has joined `room` and receives every event above `base`.
    pub fn subscribe(
        &mut self,
        room: RoomNo,
        label: impl Into<String>,
        base: Seq,
    ) -> SubscriptionNo {
        let number = SubscriptionNo(self.subscriptions.len() as u32);
        let subscription = Subscription::new(label.into(), room, base);
        self.subscriptions.push(subscription);
        self.rooms[room.0 as usize].subscriptions.push(number);
        number
    }

    pub fn connection(&mut self) -> ConnectionNo {
        self.connections += 1;
        ConnectionNo(self.connections - 1)
    }

    /// The key of a message: equal for equal arguments.
    pub fn key(&self, room: RoomNo, sender: UserId, client_msg_id: &str) -> Key {
        let mut hasher = DefaultHasher::new();
        (room.0, sender, client_msg_id).hash(&mut hasher);
        Key(hasher.finish())
    }

    /// Records a send before it leaves. The order of the calls is the order of the connection. A message that is sent
    /// again is recorded again.
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

    /// Records the server's acknowledgement: from now on every subscription of the room must receive the message.
    pub fn accepted(&mut self, key: Key) {
        if let Some(at) = self.by_key.get(&key) {
            self.sends[*at as usize].accepted = true;
        }
    }

    /// Records a `newMessage` on a live socket.
    pub fn delivered(&mut self, subscription: SubscriptionNo, seq: Seq, change_seq: Seq, key: Key) {
        self.delivered += 1;
        if seq != change_seq {
            self.faults.wrong_seq.add(|| {
                let at = describe(&self.subscriptions, &self.rooms, subscription, seq);
                format!("wrong seq: {at} came as a new message with changeSeq {change_seq}")
            });
        }
        self.message(subscription, seq, key);
        self.live(subscription, change_seq);
    }

    /// Records any other durable event on a live socket.
    pub fn event(&mut self, subscription: SubscriptionNo, change_seq: Seq) {
        self.number(subscription, change_seq, OTHER);
        self.live(subscription, change_seq);
    }

    /// Records a `gap` event.
    pub fn gap(&mut self, subscription: SubscriptionNo, from: Seq, to: Seq) {
        self.faults.gaps += 1;
        let subscription = &mut self.subscriptions[subscription.0 as usize];
        subscription.gaps.push((from, to));
        subscription.last = subscription.last.max(to);
    }

    /// Records an answer to `joinRoom` with `afterSeq`, or a page of history: `messages` are `(seq, key)`, and the
    /// subscription's position is `upto` afterwards. Events other than messages may be left out, and a message below the
    /// position may be shown again, since it may have changed.
    pub fn caught_up(
        &mut self,
        subscription: SubscriptionNo,
        messages: impl IntoIterator<Item = (Seq, Key)>,
        upto: Seq,
    ) {
        let position = self.position(subscription);
        for (seq, key) in messages {
            if seq > position {
                self.delivered += 1;
                self.message(subscription, seq, key);
                self.receive(subscription, seq);
            }
        }
        let subscription = &mut self.subscriptions[subscription.0 as usize];
        if upto > position {
            subscription.summarised.push((position + 1, upto));
            subscription.last = upto;
        }
    }

    /// Ends a subscription: its reader left, was removed, or disconnected for good. Nothing above `upto` is expected any
    /// more, or above the last number received where it is `None`.
    pub fn unsubscribe(&mut self, subscription: SubscriptionNo, upto: Option<Seq>) {
        let subscription = &mut self.subscriptions[subscription.0 as usize];
        subscription.until = Some(upto.unwrap_or(subscription.last));
    }

    pub fn subscriptions(&self) -> impl Iterator<Item = SubscriptionNo> + use<> {
        (0..self.subscriptions.len() as u32).map(SubscriptionNo)
    }

    /// The highest number of a subscription: the `afterSeq` to resume with.
    pub fn position(&self, subscription: SubscriptionNo) -> Seq {
        self.subscriptions[subscription.0 as usize].last
    }

    /// Records that `seq` is the message `key`.
    fn message(&mut self, subscription: SubscriptionNo, seq: Seq, key: Key) {
        let room = self.subscriptions[subscription.0 as usize].room;
        let known = self.by_key.get(&key).copied();
        let Some(at) = known.filter(|at| self.sends[*at as usize].room == room) else {
            self.faults.unexpected.add(|| {
                let at = describe(&self.subscriptions, &self.rooms, subscription, seq);
                format!("unexpected: nobody sent to the room what came as {at}")
            });
            return;
        };
        let known = self.sends[at as usize].seq;
        if known == 0 {
            self.sends[at as usize].seq = seq as u32;
        } else if Seq::from(known) != seq {
            self.faults.wrong_seq.add(|| {
                let name = name(&self.sends, &self.names, at);
                let at = describe(&self.subscriptions, &self.rooms, subscription, seq);
                format!("wrong seq: {name:?} was {known} before it came as {at}")
            });
        }
        self.number(subscription, seq, at + 1);
    }

    /// Records which event `seq` is in the subscription's room.
    fn number(&mut self, subscription: SubscriptionNo, seq: Seq, event: u32) {
        let room = self.subscriptions[subscription.0 as usize].room;
        if !(1..MAX_SEQ).contains(&seq) {
            self.faults.wrong_seq.add(|| {
                let at = describe(&self.subscriptions, &self.rooms, subscription, seq);
                format!("wrong seq: {at} is out of range")
            });
            return;
        }
        let numbers = &mut self.rooms[room.0 as usize].numbers;
        let at = seq as usize;
        if numbers.len() <= at {
            numbers.resize(at + 1, UNKNOWN);
        }
        if numbers[at] == UNKNOWN {
            numbers[at] = event;
        } else if numbers[at] != event {
            self.faults.wrong_seq.add(|| {
                let at = describe(&self.subscriptions, &self.rooms, subscription, seq);
                format!("wrong seq: {at} is another event than others got under this number")
            });
        }
    }

    /// Records a number on a live socket: it must be new, and above those before it.
    fn live(&mut self, subscription: SubscriptionNo, seq: Seq) {
        let last = self.position(subscription);
        if self.receive(subscription, seq) && seq < last {
            self.faults.reordered.add(|| {
                let at = describe(&self.subscriptions, &self.rooms, subscription, seq);
                format!("reordered: {at} came after {last}")
            });
        }
        let subscription = &mut self.subscriptions[subscription.0 as usize];
        subscription.last = subscription.last.max(seq);
    }

    /// Marks a number as received. `false` if it was before, or was not to be delivered at all.
    fn receive(&mut self, number: SubscriptionNo, seq: Seq) -> bool {
        let subscription = &mut self.subscriptions[number.0 as usize];
        if seq <= subscription.base || seq >= MAX_SEQ || subscription.until.is_some() {
            let why = match subscription.until {
                Some(_) => "after the subscription had ended".to_owned(),
                None => format!("though the subscription began at {}", subscription.base),
            };
            self.faults.unexpected.add(|| {
                let at = describe(&self.subscriptions, &self.rooms, number, seq);
                format!("unexpected: {at} came {why}")
            });
            return false;
        }
        let is_new = subscription.mark(seq);
        if !is_new {
            self.faults.duplicated.add(|| {
                let at = describe(&self.subscriptions, &self.rooms, number, seq);
                format!("duplicated: {at} came again")
            });
        }
        is_new
    }
}
