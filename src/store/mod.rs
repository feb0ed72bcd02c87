//! The truth: accounts, rooms and their feeds. Two stores stand behind one port, PostgreSQL for a cluster and
//! SQLite for one process, and one contract suite holds both to the same behaviour.
//!
//! The port is cut in two. An edge is handed [`Reads`] only, so it *cannot* write the database; [`Writes`]
//! belongs to workers. The stores decide nothing: what a command does to a room is worked out by
//! `job::room` between [`Writes::begin`] and [`Transaction::commit`].

pub mod notify;
pub mod postgres;
mod rotation;
pub mod sqlite;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;

pub use crate::config::AddMembers;
use crate::{
    error::{Error, Result},
    model::{
        Account, Credentials, EventKind, FeedEvent, LoginId, Member, Message, MessageId, Room,
        RoomId, Seq, Timestamp, User, UserId,
    },
};

/// Which messages of a room, by `seq`; a page always comes back in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// The newest ones.
    Latest,
    /// The newest ones below this number.
    Before(Seq),
    /// The oldest ones above this number.
    After(Seq),
    /// Half below this number, half from it on (the larger half); a side that is short is not made up for by
    /// the other.
    Around(Seq),
}

/// One login of a user, kept so that its refresh token can be rotated and revoked.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub id: LoginId,
    pub user: UserId,
    /// SHA-256 of the refresh token that is good now.
    pub token_hash: Vec<u8>,
    pub expires_at: Timestamp,
}

debug_of!(Login {
    id,
    user,
    expires_at
});

/// How many events one call of [`Reads::events`] returns. Numbers have no gaps, so it bounds the range as well.
const MAX_EVENTS: i64 = 1000;

/// An event as its store found it.
struct StoredEvent {
    seq: Seq,
    kind: String,
    data: Option<String>,
    message: Option<Message>,
}

/// Makes events ready for the wire. One whose content is gone is left out, so that clients hear of a `gap`
/// rather than lose the whole room.
fn feed_events(room: RoomId, stored: Vec<StoredEvent>) -> Result<Vec<FeedEvent>> {
    let mut events = Vec::with_capacity(stored.len());
    for StoredEvent {
        seq,
        kind,
        data,
        message,
    } in stored
    {
        let kind = EventKind::parse(&kind)
            .ok_or_else(|| Error::internal(format!("no such event kind: {kind}")))?;
        let data = match (data, message) {
            (Some(data), _) => data,
            (None, Some(mut message)) => {
                message.change_seq = seq;
                serde_json::to_string(&message).map_err(Error::internal)?
            }
            (None, None) => {
                tracing::error!(%room, seq, %kind, "an event of the feed has no content");
                continue;
            }
        };
        events.push(FeedEvent { seq, kind, data });
    }
    Ok(events)
}

fn ascending(mut messages: Vec<Message>) -> Vec<Message> {
    messages.sort_unstable_by_key(|message| message.seq);
    messages
}

/// What someone finds who enters a room.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Not deleted.
    pub room: Room,
    pub member: Option<Member>,
    /// What [`Reads::unread`] says of a member; 0 for others.
    pub unread: u32,
}

#[async_trait]
pub trait Reads: Send + Sync {
    /// By user name, compared without regard to case.
    async fn credentials(&self, username: &str) -> Result<Option<Credentials>>;
    async fn account(&self, user: UserId) -> Result<Option<Account>>;
    /// [`Reads::account`] of each, in the order asked; any number of users.
    async fn accounts(&self, users: &[UserId]) -> Result<Vec<Option<Account>>> {
        let mut accounts = Vec::with_capacity(users.len());
        for user in users {
            accounts.push(self.account(*user).await?);
        }
        Ok(accounts)
    }
    /// Those that exist, in any order.
    async fn users(&self, ids: &[UserId]) -> Result<Vec<User>>;
    /// A login that is neither revoked nor expired.
    async fn login(&self, login: LoginId) -> Result<Option<Login>>;
    /// Those of them that were revoked; any number of logins.
    async fn revoked(&self, logins: &[LoginId]) -> Result<Vec<LoginId>>;

    /// A room that is not deleted.
    async fn room(&self, room: RoomId) -> Result<Option<Room>>;
    /// The room, and what `user` is in it: one round trip, for every check of rights.
    async fn membership(
        &self,
        room: RoomId,
        user: UserId,
    ) -> Result<Option<(Room, Option<Member>)>>;
    /// What each of these finds who enters a room, in the order asked; any number of them.
    async fn entries(&self, who: &[(RoomId, UserId)]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(who.len());
        for (room, user) in who {
            let Some((room, member)) = self.membership(*room, *user).await? else {
                entries.push(None);
                continue;
            };
            let unread = match &member {
                Some(member) if member.read_seq < room.head => {
                    self.unread(room.id, member.read_seq).await?
                }
                _ => 0,
            };
            entries.push(Some(Entry {
                room,
                member,
                unread,
            }));
        }
        Ok(entries)
    }
    /// Those of these pairs where the user is a member and the room is not deleted, in any order; any number of pairs.
    async fn are_members(&self, who: &[(RoomId, UserId)]) -> Result<Vec<(RoomId, UserId)>>;
    /// Members by user id, those above `after`.
    async fn members(&self, room: RoomId, after: Option<UserId>, limit: u32)
    -> Result<Vec<Member>>;
    /// Rooms the user is in, by room id, those above `after`.
    async fn rooms_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<(Room, Member)>>;
    /// Public rooms by room id, those above `after`.
    async fn public_rooms(&self, after: Option<RoomId>, limit: u32) -> Result<Vec<Room>>;
    /// The newest number of each room that exists and is not deleted; any number of rooms.
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(RoomId, Seq)>>;
    /// Every event with `after < seq <= upto`, ascending, at most 1,000: the caller keeps the range within
    /// that. An event that carries a message shows it as it is now, with `changeSeq` set to the event's number.
    async fn events(&self, room: RoomId, after: Seq, upto: Seq) -> Result<Vec<FeedEvent>>;
    /// Messages of a room, ascending by `seq`; deleted ones are there with an empty body.
    async fn messages(&self, room: RoomId, window: Window, limit: u32) -> Result<Vec<Message>>;
    async fn message(&self, room: RoomId, id: MessageId) -> Result<Option<Message>>;
    /// How many messages stand above `read_seq`, deleted ones included, counted up to 1,000.
    async fn unread(&self, room: RoomId, read_seq: Seq) -> Result<u32>;
    /// `Ok` when the store answers a query.
    async fn ping(&self) -> Result<()>;
}

/// What a batch of room commands will need to know, gathered before anything is locked.
#[derive(Debug, Default, Clone)]
pub struct Scope {
    /// Locked in id order for the whole transaction.
    pub rooms: BTreeSet<RoomId>,
    /// Messages that may exist: ids about to be edited, deleted, replied to.
    pub messages: HashSet<MessageId>,
    /// Ids about to be stored; they may exist if their commands come again.
    pub new_messages: HashSet<MessageId>,
    /// Membership and ban of these.
    pub members: HashSet<(RoomId, UserId)>,
    /// Users who must be known by name although they are no members.
    pub users: HashSet<UserId>,
    /// Members looked for by user name, in lower case.
    pub named: HashSet<(RoomId, String)>,
    /// Who would take these members' places if they went for good.
    pub heirs: HashSet<(RoomId, UserId)>,
    /// The actor and someone who is to be added: are both members of any one room that is not deleted?
    pub acquaintances: HashSet<(UserId, UserId)>,
}

impl Scope {
    /// There is nothing to look at.
    pub fn is_empty(&self) -> bool {
        let Scope {
            rooms,
            messages,
            new_messages,
            members,
            users,
            named,
            heirs,
            acquaintances,
        } = self;
        rooms.is_empty()
            && messages.is_empty()
            && new_messages.is_empty()
            && members.is_empty()
            && users.is_empty()
            && named.is_empty()
            && heirs.is_empty()
            && acquaintances.is_empty()
    }
}

/// What is true of a [`Scope`]: while its rooms are locked, or when someone looked.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Deleted rooms are there too, with `deleted` set.
    pub rooms: HashMap<RoomId, Room>,
    /// With `change_seq` as stored.
    pub messages: HashMap<MessageId, Message>,
    pub members: HashMap<(RoomId, UserId), Member>,
    /// Every user named in the scope whose account was not deleted, members included. Those of [`Scope::users`] stay
    /// so until the transaction ends.
    pub users: HashMap<UserId, User>,
    /// Who is kept out, until when; `None` is for good.
    pub bans: HashMap<(RoomId, UserId), Option<Timestamp>>,
    /// Mutes of users who are not members, and until when they last. A member's mute is in [`Member::muted_until`].
    pub mutes: HashMap<(RoomId, UserId), Timestamp>,
    /// Those of [`Scope::acquaintances`] who are members of a common room.
    pub acquaintances: HashSet<(UserId, UserId)>,
    /// `rooms.add_members`; not read from the store.
    pub add_members: AddMembers,
    /// Whose user names, in lower case, the scope asked for: those who are members of that room. They are in
    /// `members` too.
    pub named: HashMap<String, UserId>,
    /// Of each room in [`Scope::heirs`] that its member owns, or that is a direct room: the admin, or else the member,
    /// who has been there longest, of those whose accounts were not deleted. They are in `members` too.
    pub heirs: HashMap<RoomId, UserId>,
}

impl Facts {
    /// What was seen of other places, or of messages.
    pub fn add(&mut self, seen: Facts) {
        self.rooms.extend(seen.rooms);
        self.messages.extend(seen.messages);
        self.members.extend(seen.members);
        self.named.extend(seen.named);
    }

    fn add_members(&mut self, members: impl IntoIterator<Item = Member>) {
        let by_place = |member: Member| ((member.room, member.user.id), member);
        self.members.extend(members.into_iter().map(by_place));
    }
}

/// An entry of the feed that is not a new message (those are rows of their own).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntry {
    pub room: RoomId,
    pub seq: Seq,
    pub kind: EventKind,
    /// The message it is about; its event shows that message as it is when read.
    pub message: Option<MessageId>,
    /// The event's JSON where it is not about a message; `None` where `message` is set.
    pub data: Option<String>,
    pub at: Timestamp,
}

/// What a batch does, written in one transaction. It says how things are in the end: a member, a ban, a mute or a message
/// stands in one list only, and once.
#[derive(Debug, Default, Clone)]
pub struct Changes {
    /// New rooms and rooms whose name or `deleted` changed, `head` included.
    pub rooms: Vec<Room>,
    /// New heads of rooms, including those in `rooms`.
    pub heads: HashMap<RoomId, Seq>,
    pub new_messages: Vec<Message>,
    /// Messages whose body, mentions, reactions, metadata, `change_seq`, `edited_at` or `deleted_at` changed.
    /// The other fields are what they were.
    pub updated_messages: Vec<Message>,
    pub entries: Vec<FeedEntry>,
    /// New or changed members (role, `read_seq`, mute).
    pub members: Vec<Member>,
    pub removed_members: Vec<(RoomId, UserId)>,
    pub bans: Vec<(RoomId, UserId, Option<Timestamp>)>,
    pub lifted_bans: Vec<(RoomId, UserId)>,
    /// Mutes of users who are not members (any more).
    pub mutes: Vec<(RoomId, UserId, Timestamp)>,
    /// Mutes that ended, or whose users are members again: their row in `members` has it.
    pub lifted_mutes: Vec<(RoomId, UserId)>,
    /// Users whose names the room's old events forget. They are no members any more.
    pub forgotten: Vec<(RoomId, UserId)>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.new_messages.is_empty() && self.is_only_new_messages()
    }

    /// New messages and the heads that they move, or nothing.
    fn is_only_new_messages(&self) -> bool {
        self.rooms.is_empty()
            && self.updated_messages.is_empty()
            && self.entries.is_empty()
            && self.members.is_empty()
            && self.removed_members.is_empty()
            && self.bans.is_empty()
            && self.lifted_bans.is_empty()
            && self.mutes.is_empty()
            && self.lifted_mutes.is_empty()
            && self.forgotten.is_empty()
    }

    /// For [`Writes::append`].
    fn check_only_new_messages(&self, before: &HashMap<RoomId, Seq>) -> Result<()> {
        if !self.is_only_new_messages() {
            return Err(Error::internal("only new messages are appended"));
        }
        self.check(|room| before.contains_key(room))
    }

    /// Refuses what no store may write: a change of a room that is not locked, a thing that is changed twice (a
    /// store could only guess which of the two counts), and U+0000, which PostgreSQL cannot keep.
    fn check(&self, is_locked: impl Fn(&RoomId) -> bool) -> Result<()> {
        let fault = |what: &str| Err(Error::internal(what));
        let members = self.members.iter().map(|m| (m.room, m.user.id));
        let members = members.chain(self.removed_members.iter().copied());
        let bans = self.bans.iter().map(|&(room, user, _)| (room, user));
        let bans = bans.chain(self.lifted_bans.iter().copied());
        let mutes = self.mutes.iter().map(|&(room, user, _)| (room, user));
        let mutes = mutes.chain(self.lifted_mutes.iter().copied());

        let rooms = self.rooms.iter().map(|room| room.id);
        let mut touched = rooms
            .chain(self.heads.keys().copied())
            .chain(self.new_messages.iter().map(|m| m.room))
            .chain(self.updated_messages.iter().map(|m| m.room))
            .chain(self.entries.iter().map(|e| e.room))
            .chain(members.clone().map(|(room, _)| room))
            .chain(bans.clone().map(|(room, _)| room))
            .chain(mutes.clone().map(|(room, _)| room))
            .chain(self.forgotten.iter().map(|(room, _)| *room));
        if !touched.all(|room| is_locked(&room)) {
            return fault("a batch changes a room that it has not locked");
        }

        if repeats(self.rooms.iter().map(|room| room.id))
            || repeats(self.updated_messages.iter().map(|m| m.id))
            || repeats(members)
            || repeats(bans)
            || repeats(mutes)
        {
            return fault("a batch changes the same thing twice");
        }

        let texts = self.rooms.iter().map(|room| room.name.as_str());
        let messages = self.new_messages.iter().chain(&self.updated_messages);
        let mut texts = texts
            .chain(messages.flat_map(|m| [m.body.as_str(), m.client_msg_id.as_str()]))
            .chain(self.entries.iter().filter_map(|e| e.data.as_deref()));
        if texts.any(|text| text.contains('\0')) {
            return fault("a batch holds a text with U+0000 in it");
        }
        Ok(())
    }
}

fn repeats<T: Eq + std::hash::Hash>(mut items: impl Iterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    !items.all(|item| seen.insert(item))
}

/// An open transaction that holds the locks of its [`Scope`]. Dropped without `commit`, it changes nothing.
#[async_trait]
pub trait Transaction: Send {
    /// Writes everything or nothing; durable when it returns `Ok`.
    async fn commit(self: Box<Self>, changes: Changes) -> Result<()>;
}

/// A new account together with its first login.
#[derive(Clone)]
pub struct NewAccount {
    pub account: Account,
    pub password_hash: String,
}

debug_of!(NewAccount { account });

/// What became of an account or login command. Repeating a command gives the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The user name belongs to someone else.
    NameTaken,
    /// Another account's name looks the same.
    NameConfusable,
    /// The login is unknown or expired, or the command is an old one that was delivered again.
    LoginRefused,
    /// The login is revoked: it was before, or its token was used before, which revokes it now. Its sockets must close.
    LoginRevoked,
    NoSuchUser,
}

/// A refresh token's replacement by the next one.
#[derive(Clone, PartialEq, Eq)]
pub struct Rotation {
    pub login: LoginId,
    pub old_hash: Vec<u8>,
    pub new_hash: Vec<u8>,
    pub expires_at: Timestamp,
    /// When the client asked. The command may have waited in the queue since.
    pub asked_at: Timestamp,
    /// When it is done, which is what a repeat is measured from: clients repeat what nobody answered.
    pub applied_at: Timestamp,
    pub grace: Duration,
}

debug_of!(Rotation {
    login,
    expires_at,
    asked_at,
    applied_at
});

/// A change of one's own account; `None` leaves a field, an empty string clears it. A cleared display name is the
/// user name again.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AccountPatch {
    pub display_name: Option<String>,
    pub email: Option<String>,
    pub phone: Option<String>,
}

debug_of!(AccountPatch {});

/// Under which name a deleted account's messages stay. Nobody can register it: it has a space in it.
pub const DELETED_USERNAME: &str = "deleted user";
pub const DELETED_DISPLAY_NAME: &str = "Deleted user";

/// In the place of the lower-case user name, which is unique: no name begins like this.
fn deleted_key(user: UserId) -> String {
    format!("~{user}")
}

/// What an erased account leaves of its own, in both stores; the user is the only parameter. That it was to be told of
/// everything in a room stays until it expires: messages may wait to be looked at.
const ERASE: [&str; 6] = [
    "UPDATE logins SET revoked = true WHERE user_id = $1",
    "DELETE FROM notify_settings WHERE user_id = $1",
    "DELETE FROM notify_rooms WHERE user_id = $1 AND mode <> 'all'",
    "DELETE FROM verified_addresses WHERE user_id = $1",
    "DELETE FROM verification_codes WHERE user_id = $1",
    "DELETE FROM restrictions WHERE user_id = $1",
];

/// A kind of `restrictions`: what is said of a user in a room and outlives their membership. Each has an end.
const MUTE: &str = "mute";

/// Rows that were deleted because nobody can use them any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    pub logins: u64,
    pub codes: u64,
    pub bans: u64,
    pub mutes: u64,
    pub notifications: u64,
    pub deliveries: u64,
    /// There may be more.
    pub more: bool,
}

impl Expired {
    pub fn rows(&self) -> u64 {
        self.logins + self.codes + self.bans + self.mutes + self.notifications + self.deliveries
    }

    /// Whether one of the kinds reached its bound, and may have more rows.
    fn filled(&self) -> bool {
        let all = [
            self.logins,
            self.codes,
            self.bans,
            self.mutes,
            self.notifications,
            self.deliveries,
        ];
        all.into_iter().any(|rows| rows >= EXPIRE_AT_ONCE.into())
    }

    pub fn add(&mut self, other: &Expired) {
        self.logins += other.logins;
        self.codes += other.codes;
        self.bans += other.bans;
        self.mutes += other.mutes;
        self.notifications += other.notifications;
        self.deliveries += other.deliveries;
        self.more = other.more;
    }
}

/// Rows of each kind that one [`Writes::expire`] deletes at most: few enough to be done in milliseconds.
pub const EXPIRE_AT_ONCE: u32 = 1000;

/// The writing half. Room commands go through [`Writes::begin`] in batches, account commands one at a time.
#[async_trait]
pub trait Writes: Send + Sync {
    /// Opens a transaction, locks the scope's rooms in id order, and reads the scope under those locks (the
    /// reads must see what was committed while waiting for a lock).
    ///
    /// A room that does not exist yet cannot be locked. When two transactions create the same one, the second
    /// `commit` fails with a retryable error; run again, it finds the room.
    async fn begin(&self, scope: &Scope) -> Result<(Facts, Box<dyn Transaction>)>;

    /// Reads a scope's `members`, with their rooms, its `messages` and its `named`, and locks nothing.
    async fn look(&self, scope: &Scope) -> Result<Facts>;
    /// Stores new messages, which are expected to be new, and the heads that they move, all or nothing. `before` has the
    /// head of each room that they were numbered from.
    ///
    /// Everything that bears on who may write in a room moves its head: where the heads are what someone saw, so is all
    /// the rest but the names of users.
    ///
    /// # Errors
    /// [`Code::Conflict`](crate::error::Code) where a head is another one or a message is there already.
    async fn append(&self, before: &HashMap<RoomId, Seq>, changes: &Changes) -> Result<()>;

    /// The same id and name again is `Done`, not `NameTaken`.
    async fn register(&self, new: &NewAccount) -> Result<Applied>;
    async fn update_account(&self, user: UserId, patch: &AccountPatch) -> Result<Applied>;
    /// The same login again is `Done` and changes nothing, whatever became of it since.
    async fn open_login(&self, login: &Login) -> Result<Applied>;
    /// Replaces the token `old_hash` by `new_hash`. A repeat of the last rotation, asked for before it or within
    /// `grace` after it, is `Done`; an older token used again revokes the login. A repeat brings the same `new_hash`:
    /// the new token must follow from the old one. Anything else asked for before the last rotation is a
    /// redelivery: refused, no more.
    async fn rotate_login(&self, rotation: &Rotation) -> Result<Applied>;
    /// Closing it again is `Done`.
    async fn close_login(&self, login: LoginId) -> Result<Applied>;

    /// Ends an account for good: nobody logs in with it, its logins are revoked, and of what was personal nothing is
    /// left but the memberships. The row stays under [`DELETED_USERNAME`], and the user name is free. Again it is `Done`
    /// and erases what has come since.
    async fn erase_account(&self, user: UserId, at: Timestamp) -> Result<Applied>;
    /// All of a user's logins that have not expired.
    async fn logins_of(&self, user: UserId) -> Result<Vec<LoginId>>;
    /// Rooms that are not deleted and have the user as a member, by id, those above `after`.
    async fn member_of(
        &self,
        user: UserId,
        after: Option<RoomId>,
        limit: u32,
    ) -> Result<Vec<RoomId>>;

    /// Deletes logins, codes, bans and mutes that ended longer than `after` ago, what accounts that ended so long ago left, and what the ledger of notifications has held
    /// for longer than `keep`; at most [`EXPIRE_AT_ONCE`] rows of each. By the store's own clock: a node whose clock
    /// jumps must not delete what is good. An open digest stays, however old.
    async fn expire(&self, after: Duration, keep: Duration) -> Result<Expired>;
}
