//! The parts of a body in which an `@` mentions nobody: code, inline and fenced (CommonMark 0.31, sections 4.5 and
//! 6.1), and URLs. Takes time proportional to the length of the body, whatever it holds.

use std::{collections::HashMap, ops::Range};

use memchr::{memchr, memchr2};

/// Longest scheme and longest host name that are recognised, in bytes.
const MAX_SCHEME: usize = 32;
const MAX_HOST: usize = 253;

/// Sorted and disjoint.
pub(super) fn code_and_urls(body: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    code(body, &mut ranges);
    let code = ranges.len();
    urls(body, &mut ranges);
    if code > 0 && ranges.len() > code {
        ranges.sort_unstable_by_key(|range| range.start);
    }
    ranges
}

// ---- code

struct Fence {
    start: usize,
    mark: u8,
    length: usize,
    quoted: bool,
}

fn code(body: &str, ranges: &mut Vec<Range<usize>>) {
    let bytes = body.as_bytes();
    if memchr2(b'`', b'~', bytes).is_none() {
        return;
    }
    let mut fence: Option<Fence> = None;
    // The beginning of the current paragraph: code spans do not extend beyond it.
    let mut paragraph = 0;
    let mut start = 0;
    for line in body.split_inclusive('\n') {
        let end = start + line.len();
        let (text, quoted) = unquoted(line);
        if let Some(open) =
            fence.take_if(|open| (open.quoted && !quoted) || closes(text, open.mark, open.length))
        {
            let inside = if open.quoted && !quoted { start } else { end };
            ranges.push(open.start..inside);
            paragraph = inside;
        }
        if fence.is_none() && paragraph <= start {
            if let Some((mark, length)) = opens(text) {
                let unclosed = spans(body, paragraph..start, ranges);
                let bare = closes(text, b'`', length);
                let opened = unclosed.iter().find(|open| bare && open.1 == length);
                if let Some((open, _)) = opened {
                    // Not CommonMark, but common: text before the opening fence, on its line.
                    let inside = ranges.partition_point(|range| range.start < *open);
                    ranges.truncate(inside);
                    ranges.push(*open..end);
                    paragraph = end;
                    start = end;
                    continue;
                }
                fence = Some(Fence {
                    start,
                    mark,
                    length,
                    quoted,
                });
            } else if begins_block(text) {
                spans(body, paragraph..start, ranges);
                paragraph = start;
            }
        }
        start = end;
    }
    match fence {
        Some(open) => ranges.push(open.start..body.len()),
        None => {
            spans(body, paragraph..body.len(), ranges);
        }
    }
}

/// A line without its indentation, quote marks and list mark, and whether it is quoted.
fn unquoted(line: &str) -> (&str, bool) {
    let text = line.trim_start_matches([' ', '\t', '>']);
    let quoted = line[..line.len() - text.len()].contains('>');
    let item = ["- ", "* ", "+ "]
        .iter()
        .find_map(|mark| text.strip_prefix(mark).map(str::trim_start));
    match item {
        Some(item) if opens(item).is_some() => (item, quoted),
        _ => (text, quoted),
    }
}

/// Whether a line ends the paragraph before it: a blank line, a list item or a heading.
fn begins_block(text: &str) -> bool {
    let text = text.trim_end();
    if text.is_empty()
        || ["- ", "* ", "+ ", "# "]
            .iter()
            .any(|mark| text.starts_with(mark))
    {
        return true;
    }
    let heading = text.trim_start_matches('#');
    let item = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (heading.len() < text.len() && heading.starts_with(' '))
        || (item.len() < text.len() && (item.starts_with(". ") || item.starts_with(") ")))
}

/// The mark and length of an opening code fence.
fn opens(text: &str) -> Option<(u8, usize)> {
    let mark = *text.as_bytes().first()?;
    if mark != b'`' && mark != b'~' {
        return None;
    }
    let length = text.bytes().take_while(|byte| *byte == mark).count();
    let inline = mark == b'`' && text[length..].contains('`');
    (length >= 3 && !inline).then_some((mark, length))
}

fn closes(text: &str, mark: u8, length: usize) -> bool {
    let text = text.trim_end().as_bytes();
    text.len() >= length && text.iter().all(|byte| *byte == mark)
}

/// Adds the code spans of one paragraph: from a run of backticks to the next run of the same length. Returns the start
/// and length of the runs that are not closed.
fn spans(
    body: &str,
    paragraph: Range<usize>,
    ranges: &mut Vec<Range<usize>>,
) -> Vec<(usize, usize)> {
    let mut unclosed = Vec::new();
    let base = paragraph.start;
    let bytes = &body.as_bytes()[paragraph];
    let mut runs: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut at = 0;
    while let Some(step) = memchr(b'`', &bytes[at..]) {
        let start = at + step;
        let length = run(&bytes[start..]);
        runs.entry(length).or_default().push(start);
        at = start + length;
    }
    if runs.is_empty() {
        return unclosed;
    }
    at = 0;
    while let Some(step) = memchr2(b'`', b'\\', &bytes[at.min(bytes.len())..]) {
        let start = at + step;
        if bytes[start] == b'\\' {
            // The next character stands for itself.
            at = start + 2;
            continue;
        }
        let length = run(&bytes[start..]);
        at = start + length;
        let closing = runs.get(&length).and_then(|starts| {
            let after = starts.partition_point(|closing| *closing < at);
            starts.get(after)
        });
        if let Some(closing) = closing {
            at = closing + length;
            ranges.push(base + start..base + at);
        } else {
            unclosed.push((base + start, length));
        }
    }
    unclosed
}

fn run(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == b'`').count()
}

// ---- URLs

/// Adds `scheme://…` and `host.name/…`, outside of the code that `ranges` holds.
fn urls(body: &str, ranges: &mut Vec<Range<usize>>) {
    let bytes = body.as_bytes();
    let code = ranges.clone();
    let mut code = code.iter().peekable();
    // A scheme or host name cannot begin before `free`: code or a URL ends there.
    let (mut at, mut free) = (0, 0);
    while let Some(step) = memchr2(b':', b'/', &bytes[at..]) {
        let mark = at + step;
        at = mark + 1;
        while let Some(before) = code.next_if(|range| range.end <= mark) {
            free = before.end;
        }
        if let Some(inside) = code.next_if(|range| range.start <= mark) {
            (at, free) = (inside.end, inside.end);
            continue;
        }
        let before = &bytes[free..mark];
        let begins = if bytes[mark..].starts_with(b"://") {
            scheme(before)
        } else if bytes[mark] == b'/' {
            host(before)
        } else {
            None
        };
        if let Some(length) = begins {
            at = end_of_url(body, mark + 1);
            free = at;
            ranges.push(mark - length..at);
        }
    }
}

/// The length of the scheme at the end of `before`.
fn scheme(before: &[u8]) -> Option<usize> {
    let plain = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+.-".contains(byte);
    let length = (before.iter().rev().take(MAX_SCHEME).take_while(plain)).count();
    let scheme = &before[before.len() - length..];
    let first = scheme.iter().position(u8::is_ascii_alphabetic)?;
    Some(length - first)
}

/// The length of the host name, with an optional port, at the end of `before`.
fn host(before: &[u8]) -> Option<usize> {
    let window = &before[before.len().saturating_sub(MAX_HOST)..];
    let digits = window.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let digits = digits.count();
    let port = match window[..window.len() - digits].last() {
        Some(b':') if digits > 0 => digits + 1,
        _ => 0,
    };
    let window = &window[..window.len() - port];
    let plain = |byte: &&u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let length = window.iter().rev().take_while(plain).count();
    let (outside, name) = window.split_at(window.len() - length);
    // `@bob.smith/…` is a name, `a/b.c/…` a path.
    let elsewhere = outside.last().is_some_and(|byte| b"@/\\_".contains(byte));
    let name = std::str::from_utf8(name).ok()?;
    let (labels, top) = name.rsplit_once('.')?;
    let good = !labels.split('.').any(str::is_empty)
        && top.len() >= 2
        && top.bytes().all(|byte| byte.is_ascii_alphabetic());
    (good && !elsewhere).then_some(length + port)
}

/// A URL ends before white space, a quote, `<`, `>`, `|`, a backtick, a bracket that it did not open, or punctuation
/// outside of ASCII, such as an ideographic full stop.
fn end_of_url(body: &str, from: usize) -> usize {
    let (mut round, mut square) = (0, 0);
    for (step, c) in body[from..].char_indices() {
        let ends = match c {
            '<' | '>' | '"' | '`' | '|' => true,
            '(' => {
                round += 1;
                false
            }
            '[' => {
                square += 1;
                false
            }
            ')' => {
                round -= 1;
                round < 0
            }
            ']' => {
                square -= 1;
                square < 0
            }
            c if c.is_ascii() => c.is_ascii_whitespace() || c.is_ascii_control(),
            c => !c.is_alphanumeric() && !super::scripts::attaches(c),
        };
        if ends {
            return from + step;
        }
    }
    body.len()
}
