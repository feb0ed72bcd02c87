//! Lines of progress, the table of faults, and the timeline of a violation.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    judge::Violation,
    nemesis::{Diary, Incident},
    plan::Kind,
    record::{Event, Millis, Record, Seen, Seq},
};

/// Lines of one timeline.
const LINES: usize = 80;
/// Faults this long before and after the events are shown, too.
const AROUND: Millis = 15_000;

fn seconds(at: Millis) -> String {
    format!("{}.{:03}", at / 1000, at % 1000)
}

/// `00:30  9 faults (3 kill-edge …), 1204 acked, 31 busy, no ack for 0.2 s; now: freeze-edge 1`.
pub fn progress(now: Millis, diary: &Diary, acks: &[Millis], busy: u64) -> String {
    let mut by_kind = BTreeMap::<Kind, usize>::new();
    for incident in &diary.incidents {
        *by_kind.entry(incident.kind).or_default() += 1;
    }
    let kinds: Vec<String> = by_kind
        .iter()
        .map(|(kind, n)| format!("{n} {}", kind.name()))
        .collect();
    let open = diary
        .incidents
        .iter()
        .filter(|incident| incident.to.is_none());
    let open: Vec<&str> = open.map(|incident| incident.what.as_str()).collect();
    format!(
        "{:02}:{:02}  {} faults ({}), {} acked, {busy} busy, no ack for {} s; now: {}",
        now / 60_000,
        now / 1000 % 60,
        diary.incidents.len(),
        kinds.join(", "),
        acks.len(),
        seconds(now.saturating_sub(acks.last().copied().unwrap_or_default())),
        if open.is_empty() {
            "no fault".to_owned()
        } else {
            open.join("; ")
        }
    )
}

/// The figures of one kind of fault.
#[derive(Default)]
struct Row {
    count: usize,
    silence: Millis,
    delivery: Millis,
}

/// For each kind of fault: how often it happened, the longest time without an acknowledgement, and the longest time
/// from an acknowledged send to its last delivery. Of several faults at the same time, each has these times.
pub fn table(record: &Record, diary: &Diary, acks: &[Millis]) -> String {
    let deliveries = deliveries(record);
    let mut rows = BTreeMap::<Kind, Row>::new();
    for incident in &diary.incidents {
        let row = rows.entry(incident.kind).or_default();
        if diary.skipped.contains_key(&incident.kind) {
            continue;
        }
        row.count += 1;
        let end = incident.to.unwrap_or(Millis::MAX);
        let overlaps = |from: Millis, to: Millis| from <= end && to >= incident.from;
        for pair in acks.windows(2).filter(|pair| overlaps(pair[0], pair[1])) {
            row.silence = row.silence.max(pair[1] - pair[0]);
        }
        for (from, to) in deliveries.iter().filter(|(from, to)| overlaps(*from, *to)) {
            row.delivery = row.delivery.max(to - from);
        }
    }
    let mut text = String::from(
        "| fault | count | longest time without an ack, s | longest time to delivery, s |\n|---|---|---|---|\n",
    );
    for (kind, row) in rows {
        let (silence, delivery) = (row.silence as f64 / 1000.0, row.delivery as f64 / 1000.0);
        let _ = match diary.skipped.get(&kind) {
            Some(why) => writeln!(text, "| {} | skipped: {why} | | |", kind.name()),
            None => writeln!(
                text,
                "| {} | {} | {silence:.1} | {delivery:.1} |",
                kind.name(),
                row.count
            ),
        };
    }
    text
}

/// For each acknowledged send, when it was acknowledged and when the last of the clients that stay members had it.
fn deliveries(record: &Record) -> Vec<(Millis, Millis)> {
    let mut found = Vec::new();
    for (room, truth) in record.rooms.iter().enumerate() {
        // When each number was received, by the slowest of those clients.
        let mut last = vec![0; truth.feed.len() + 1];
        for views in record.views.iter().take(super::client::membership::STABLE) {
            let mut position: Seq = 0;
            for seen in &views[room].seen {
                let (at, upto) = match seen {
                    Seen::Page { at, upto, .. } => (*at, *upto),
                    Seen::Live { at, seq, .. } => (*at, *seq),
                    Seen::Gap { .. } | Seen::Reset { .. } => continue,
                };
                for seq in position + 1..=upto {
                    if let Some(known) = usize::try_from(seq).ok().and_then(|seq| last.get_mut(seq))
                    {
                        *known = at.max(*known);
                    }
                }
                position = position.max(upto);
            }
        }
        let by_name: BTreeMap<_, _> = truth
            .history
            .iter()
            .map(|m| ((m.sender, m.name.as_str()), m.seq))
            .collect();
        for op in record
            .ops
            .iter()
            .filter(|op| op.room == room && op.is_done())
        {
            let super::record::Action::Send { name, .. } = &op.action else {
                continue;
            };
            let seq = by_name.get(&(record.users[op.client], name.as_str()));
            let at = seq.and_then(|seq| last.get(usize::try_from(*seq).ok()?));
            if let (Some(at), Some(answered)) = (at, op.answered) {
                found.push((answered, *at.max(&answered)));
            }
        }
    }
    found
}

/// The entries that concern a violation, in order of time, between the faults.
pub fn timeline(violation: &Violation, record: &Record, incidents: &[Incident]) -> String {
    let truth = &record.rooms[violation.room];
    let mut seqs = violation.seqs;
    let message = violation.message.or_else(|| {
        let (from, _) = seqs?;
        let change = truth.feed.get(usize::try_from(from - 1).ok()?)?;
        change.event.is_of_message().then_some(change.subject)
    });
    let stored = truth
        .history
        .iter()
        .find(|stored| Some(stored.id) == message);
    if let (None, Some(stored)) = (seqs, stored) {
        seqs = Some((stored.seq, stored.seq));
    }
    let mut lines: Vec<(Millis, String)> = Vec::new();
    if let Some(at) = violation.at {
        lines.push((at, "<- here".to_owned()));
    }
    for op in record.ops.iter().filter(|op| op.room == violation.room) {
        let name = stored.map(|stored| {
            (
                record.users.iter().position(|u| *u == stored.sender),
                &stored.name,
            )
        });
        if !concerns(
            &op.action,
            message,
            name.map(|(client, name)| (client == Some(op.client), name)),
        ) {
            continue;
        }
        let by = match op.connection {
            usize::MAX => "over REST".to_owned(),
            number => format!("on connection {number}"),
        };
        lines.push((
            op.sent,
            format!("client {} sends {:?} {by}", op.client, op.action),
        ));
        if let Some(at) = op.answered {
            let attempts = op.attempts;
            lines.push((
                at,
                format!(
                    "client {} has {:?} after {attempts} attempts",
                    op.client, op.outcome
                ),
            ));
        }
    }
    if let Some((from, to)) = seqs {
        for change in truth
            .feed
            .iter()
            .filter(|change| (from..=to.min(from + 20)).contains(&change.seq))
        {
            lines.push((0, format!("the feed has {change:?}")));
        }
        for (client, views) in record.views.iter().enumerate() {
            let seen = views[violation.room].seen.iter();
            let only = violation.client.is_none_or(|only| only == client);
            for seen in seen.filter(|seen| only && touches(seen, from, to)) {
                lines.push((
                    seen.at(),
                    format!("client {client} receives {}", brief(seen)),
                ));
            }
        }
    }
    let times = lines.iter().map(|(at, _)| *at).filter(|at| *at > 0);
    let (first, last) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
    for incident in incidents {
        let end = incident.to.unwrap_or(Millis::MAX);
        if incident.from <= last.saturating_add(AROUND) && end.saturating_add(AROUND) >= first {
            lines.push((incident.from, format!("FAULT  {}", incident.what)));
            lines.push((end, format!("ENDED  {}", incident.what)));
        }
    }
    lines.sort();
    let cut = lines.len().saturating_sub(LINES);
    let mut text = String::new();
    for (at, line) in lines.iter().take(LINES) {
        let _ = writeln!(text, "    {:>9}  {line}", seconds(*at));
    }
    if cut > 0 {
        let _ = writeln!(text, "    and {cut} more");
    }
    text
}

fn concerns(
    action: &super::record::Action,
    message: Option<uuid::Uuid>,
    send: Option<(bool, &String)>,
) -> bool {
    use super::record::Action;
    match action {
        Action::Send { name, .. } => send.is_some_and(|(own, stored)| own && stored == name),
        Action::Edit { message: of, .. }
        | Action::Delete { message: of }
        | Action::React { message: of, .. } => Some(*of) == message,
        Action::Read { .. } => false,
        Action::Join | Action::Leave | Action::Add { .. } | Action::Remove { .. } => {
            message.is_none()
        }
    }
}

fn touches(seen: &Seen, from: Seq, to: Seq) -> bool {
    match seen {
        Seen::Page { after, upto, .. } => *after < to && *upto >= from - 1,
        Seen::Live { seq, .. } => (from - 1..=to).contains(seq),
        Seen::Gap { from: a, to: b, .. } => *a <= to && *b >= from,
        Seen::Reset { .. } => true,
    }
}

fn brief(seen: &Seen) -> String {
    match seen {
        Seen::Page {
            after,
            upto,
            messages,
            events,
            gaps,
            ..
        } => format!(
            "a page {after}..{upto} with {} messages, {} events, gaps {gaps:?}",
            messages.len(),
            events.len()
        ),
        Seen::Live {
            seq,
            event: Event::Joined | Event::Left,
            subject,
            ..
        } => {
            format!("{seq}, a membership of {subject}")
        }
        Seen::Live {
            seq,
            event,
            subject,
            ..
        } => format!("{event:?} {seq} of {subject}"),
        Seen::Gap { from, to, .. } => format!("gap {from}..{to}"),
        Seen::Reset { .. } => "reset".to_owned(),
    }
}
