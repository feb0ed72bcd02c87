//! Finds the candidates for `@username` in a message body; docs/texts.md has the rules for clients. Whether they are
//! members is decided by the store and [`super::apply()`]. A body without `@` costs one byte search.

mod scripts;
mod skip;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use self::scripts::{is_word, joins_word};
use crate::{
    model::username::{self, MAX_LENGTH},
    protocol::bounds::MAX_MENTIONS,
};

/// Maximum different names per body that are looked up, known or not: each costs the batch a lookup.
const MAX_CANDIDATES: usize = 200;
/// Maximum readings of one `@`: `@bob...` may be `bob..`, `bob.` or `bob`.
const MAX_READINGS: usize = 8;

/// Calls `known` with the candidates of each mention, in lower case, longest first. `Some` accepts a candidate and
/// skips its shorter readings.
pub fn resolve(body: &str, mut known: impl FnMut(&str) -> Option<()>) {
    let mut found: HashSet<String> = HashSet::new();
    each(body, |readings| {
        let accepted = readings.iter().find(|name| known(name).is_some());
        found.extend(accepted.cloned());
        found.len() < MAX_MENTIONS
    });
}

/// All candidates of all mentions, in lower case and without duplicates: the names to look up.
pub fn names(body: &str) -> HashSet<String> {
    each(body, |_| true)
}

/// Calls `found` with the readings of each mention until it returns `false`. Returns the names that were found.
fn each(body: &str, mut found: impl FnMut(&[String]) -> bool) -> HashSet<String> {
    let mut names = HashSet::new();
    let bytes = body.as_bytes();
    if memchr::memchr(b'@', bytes).is_none() {
        return names;
    }
    let skipped = skip::code_and_urls(body);
    let mut skipped = skipped.iter().peekable();
    for at in memchr::memchr_iter(b'@', bytes) {
        while skipped.next_if(|range| range.end <= at).is_some() {}
        if skipped.peek().is_some_and(|range| range.start <= at) || ends_in_word(&body[..at]) {
            continue;
        }
        let readings = readings(&body[at + 1..]);
        if readings.is_empty() {
            continue;
        }
        // The same limit for both callers: a name beyond it is no mention, even if another message had it looked up.
        let new = readings.iter().filter(|name| !names.contains(*name));
        if names.len() + new.count() > MAX_CANDIDATES {
            break;
        }
        names.extend(readings.iter().cloned());
        if !found(&readings) {
            break;
        }
    }
    names
}

/// Whether the text ends inside a word that an `@` would continue, as in `someone@example.com`.
fn ends_in_word(text: &str) -> bool {
    for c in text.chars().rev() {
        match c {
            // The sign of a keycap emoji, whose first character is a digit.
            '\u{20E3}' => return false,
            c if scripts::attaches(c) => {}
            c => return is_word(c),
        }
    }
    false
}

/// The names that may be meant at the beginning of `text`, in lower case, longest first.
///
/// A name ends where no letter follows: at the end of the characters that names may contain, or before punctuation. A
/// single `.` or `-` between letters is part of the name, so `@bob.smith` never means `bob`.
fn readings(text: &str) -> Vec<String> {
    let run = text.find(|c| !username::is_inner(c)).unwrap_or(text.len());
    if !text.starts_with(username::is_first) {
        return Vec::new();
    }
    let ends = (2..=run.min(MAX_LENGTH)).rev().filter(|&end| {
        let rest = &text[end..];
        match rest.chars().next() {
            Some('.' | '-') if end < run => !joins_word(&rest[1..]),
            _ if end == run => !joins_word(rest),
            Some(c) => !is_word(c),
            None => true,
        }
    });
    let mut ends: Vec<usize> = ends.collect();
    if ends.len() > MAX_READINGS {
        ends.drain(1..=ends.len() - MAX_READINGS);
    }
    let names = ends.into_iter().map(|end| text[..end].to_ascii_lowercase());
    names.collect()
}
