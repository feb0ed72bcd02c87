//! One pass over metadata: removes whitespace between tokens, and finds what is not I-JSON (RFC 7493).

use std::ops::Range;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::number;
use crate::error::{Error, Result};

/// Maximum nesting depth of arrays and objects.
pub const MAX_METADATA_DEPTH: usize = 16;
/// Maximum number of member names, over all objects.
pub const MAX_METADATA_KEYS: usize = 256;

pub(super) const FIELD: &str = "metadata";

/// Where metadata comes from. Decides whether violations are refused or repaired.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A client: violations are refused.
    Client,
    /// The queue: checked by an edge. Numbers are repaired, since the edge may be of a version that did not check them.
    Queue,
    /// The store: stored by any version. Repaired as far as possible, since a limit introduced later must not hide a
    /// message; only the depth is limited.
    Store,
}

struct Scan<'a> {
    json: &'a str,
    source: Source,
    /// The result, up to `copied`.
    compact: String,
    /// Everything before this offset is in `compact` or was omitted.
    copied: usize,
    /// A string was repaired, so names may have become equal.
    mended: bool,
}

/// Scans valid JSON; a [`RawValue`] is always valid. Returns the text without whitespace and as far as necessary
/// repaired; `None` if the input is that already.
pub(super) fn scan(json: &str, source: Source) -> Result<Option<String>> {
    let mut scan = Scan {
        json,
        source,
        compact: String::new(),
        copied: 0,
        mended: false,
    };
    let repeats = scan.run()?;
    if scan.copied > 0 {
        scan.compact.push_str(&json[scan.copied..]);
    }
    let compact = (scan.copied > 0).then_some(scan.compact);
    if scan.mended {
        // Nothing is left to mend.
        let text = compact.unwrap_or_default();
        return Ok(Some(self::scan(&text, source)?.unwrap_or(text)));
    }
    if repeats {
        let text = compact.as_deref().unwrap_or(json);
        let mut once = String::with_capacity(text.len());
        last_of_each_name(text, &mut once).map_err(Error::internal)?;
        return Ok(Some(once));
    }
    Ok(compact)
}

impl Scan<'_> {
    /// Returns whether an object contains a duplicate name.
    fn run(&mut self) -> Result<bool> {
        let bytes = self.json.as_bytes();
        let mut open: Vec<usize> = Vec::new();
        let mut objects = 0;
        let mut last_string = 0..0;
        let mut names: Vec<(usize, Range<usize>)> = Vec::new();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    let end = self.string(at)?;
                    last_string = at..end;
                    at = end;
                    continue;
                }
                b'{' | b'[' => {
                    objects += 1;
                    open.push(objects);
                    if open.len() > MAX_METADATA_DEPTH {
                        return refuse(format!(
                            "is nested too deep; at most {MAX_METADATA_DEPTH} levels are allowed"
                        ));
                    }
                }
                b'}' | b']' => {
                    open.pop();
                }
                b':' => {
                    names.push((open.last().copied().unwrap_or(0), last_string.clone()));
                    if names.len() > MAX_METADATA_KEYS && self.source != Source::Store {
                        return refuse(format!(
                            "has too many names; at most {MAX_METADATA_KEYS} are allowed"
                        ));
                    }
                }
                b' ' | b'\t' | b'\n' | b'\r' => self.replace(at..at + 1, ""),
                b'-' | b'0'..=b'9' => {
                    at = self.number(at)?;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        let repeats = names.len() > 1 && any_twice(self.json, names);
        if repeats && self.source == Source::Client {
            return refuse("has an object with the same name twice");
        }
        Ok(repeats)
    }

    fn replace(&mut self, range: Range<usize>, by: &str) {
        self.compact.push_str(&self.json[self.copied..range.start]);
        self.compact.push_str(by);
        self.copied = range.end;
    }

    /// The offset after the number that begins at `start`.
    fn number(&mut self, start: usize) -> Result<usize> {
        let rest = &self.json[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c));
        let token = &rest[..end.unwrap_or(rest.len())];
        let end = start + token.len();
        if !number::fits(token) {
            if self.source == Source::Client {
                return refuse(number::RULE);
            }
            self.replace(start..end, &number::nearest(token));
        }
        Ok(end)
    }

    /// The offset after the closing quote of the string that begins at `start`.
    fn string(&mut self, start: usize) -> Result<usize> {
        let bytes = self.json.as_bytes();
        let mut at = start + 1;
        loop {
            match memchr::memchr2(b'"', b'\\', &bytes[at.min(bytes.len())..]) {
                // Impossible in valid JSON.
                None => return Ok(bytes.len()),
                Some(step) if bytes[at + step] == b'"' => return Ok(at + step + 1),
                Some(step) => {
                    at += step + 2;
                    if bytes.get(at - 1) == Some(&b'u') {
                        at = self.escape(at)?;
                    }
                }
            }
        }
    }

    /// Checks the `\u` escape whose digits begin at `at`; returns its end, including the second half of a surrogate
    /// pair.
    fn escape(&mut self, at: usize) -> Result<usize> {
        let bytes = self.json.as_bytes();
        match unit(bytes, at) {
            Some(0) if self.source != Source::Store => {
                refuse("must not contain the character U+0000")
            }
            Some(0xD800..=0xDBFF)
                if bytes.get(at + 4..at + 6) == Some(b"\\u")
                    && matches!(unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) =>
            {
                Ok(at + 10)
            }
            Some(0xD800..=0xDFFF) if self.source == Source::Store => {
                self.replace(at - 2..at + 4, "\\ufffd");
                self.mended = true;
                Ok(at + 4)
            }
            Some(0xD800..=0xDFFF) => refuse("must not contain half of a surrogate pair"),
            _ => Ok(at + 4),
        }
    }
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::field(FIELD, message))
}

/// Four hexadecimal digits.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = std::str::from_utf8(bytes.get(at..at + 4)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

/// Whether an object contains a duplicate name, after unescaping.
fn any_twice(json: &str, names: Vec<(usize, Range<usize>)>) -> bool {
    let text = |range: Range<usize>| {
        let token = &json[range];
        if token.contains('\\') {
            serde_json::from_str(token).unwrap_or_else(|_| token.to_owned())
        } else {
            token.trim_matches('"').to_owned()
        }
    };
    let mut names: Vec<(usize, String)> = names
        .into_iter()
        .map(|(object, range)| (object, text(range)))
        .collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// Appends `json` without duplicate names: the first position and the last value win, as in JavaScript. The depth of
/// `json` is already validated.
fn last_of_each_name(json: &str, out: &mut String) -> serde_json::Result<()> {
    match json.as_bytes().first() {
        Some(b'{') => {
            let mut members: Vec<(String, &RawValue)> = Vec::new();
            for (name, value) in serde_json::from_str::<Members<'_>>(json)?.0 {
                match members.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, before)) => *before = value,
                    None => members.push((name, value)),
                }
            }
            out.push('{');
            for (number, (name, value)) in members.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(name)?);
                out.push(':');
                last_of_each_name(value.get(), out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json)?;
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                last_of_each_name(item.get(), out)?;
            }
            out.push(']');
        }
        _ => out.push_str(json),
    }
    Ok(())
}

/// An object's members in order, duplicates included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
