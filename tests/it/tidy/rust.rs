//! Reads as much of Rust as the checks need.

pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line))
}

pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The first name after each `crate::`, with its line; all names of a list in braces.
pub(super) fn crate_paths(code: &str) -> Vec<(usize, String)> {
    const ROOT: &str = "crate::";
    let mut found = Vec::new();
    for (at, _) in code.match_indices(ROOT) {
        let rest = at + ROOT.len();
        // `$crate::` belongs to a macro.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let starts = if code[rest..].starts_with('{') {
            list_items(code, rest)
        } else {
            vec![rest]
        };
        for start in starts {
            let name = words(&code[start..]).next().unwrap_or_default();
            found.push((code[..start].matches('\n').count() + 1, name.to_owned()));
        }
    }
    found
}

/// Every path that begins with `crate::`, `super::` or `self::`, as a path from the crate's root; each item of a list in braces
/// is a path. `here` is the module in which the code stands.
pub(super) fn module_paths(code: &str, here: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_$:".contains(c)) {
                expand(code, at, here.to_vec(), &mut found);
            }
        }
    }
    found
}

/// Follows the path at `at`, which continues `before`.
fn expand(code: &str, at: usize, mut before: Vec<String>, found: &mut Vec<Vec<String>>) {
    if code[at..].starts_with('{') {
        for start in list_items(code, at) {
            expand(code, start, before.clone(), found);
        }
        return;
    }
    let name = words(&code[at..]).next().unwrap_or_default();
    match name {
        "crate" => before.clear(),
        "super" => drop(before.pop()),
        "self" | "" => {}
        name => before.push(name.to_owned()),
    }
    let end = at + name.len();
    match code[end..].strip_prefix("::") {
        Some(_) if !name.is_empty() => expand(code, end + 2, before, found),
        _ => found.push(before),
    }
}

/// The position of each item of the list in braces at `open`.
fn list_items(code: &str, open: usize) -> Vec<usize> {
    let (mut depth, mut expecting, mut starts) = (0, false, Vec::new());
    for (i, c) in code[open..].char_indices() {
        match c {
            '{' => {
                depth += 1;
                expecting = depth == 1;
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => expecting = true,
            c if expecting && !c.is_whitespace() => {
                starts.push(open + i);
                expecting = false;
            }
            _ => {}
        }
    }
    starts
}

/// The text with comments and strings replaced by spaces; line numbers are unchanged.
pub(super) fn without_comments_and_strings(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut code = String::with_capacity(source.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..chars.len())
                .find(|&j| at(j) == '\n')
                .unwrap_or(chars.len()),
            ('/', '*') => end_of_comment(&chars, i),
            ('"', _) => end_of_string(&chars, i),
            ('r', '"' | '#') if !at(i.wrapping_sub(1)).is_alphanumeric() => {
                end_of_raw_string(&chars, i)
            }
            // A character; a lifetime has no second quote.
            ('\'', '\\') => (i + 3..chars.len()).find(|&j| at(j) == '\'').unwrap_or(i) + 1,
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end == i {
            code.push(at(i));
            i += 1;
        } else {
            code.extend(
                chars[i..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            i = end;
        }
    }
    code
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < chars.len() {
        match chars.get(i..i + 2) {
            Some(['/', '*']) => depth += 1,
            Some(['*', '/']) => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            break;
        }
    }
    i
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// `start` itself for a raw name such as `r#type`.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let closes = |i: &usize| {
        chars[*i] == '"'
            && chars[i + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    (open + 1..chars.len())
        .find(closes)
        .map_or(chars.len(), |i| i + 1 + hashes)
}

/// Replaces the item after each `#[cfg(test)]` by spaces: up to the end of its braces, or to its semicolon.
pub(super) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut product = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        product.push_str(&rest[..at]);
        let mut depth = 0;
        let end = rest[at..].char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == '}' || c == ';')).then_some(at + i + 1)
        });
        let end = end.unwrap_or(rest.len());
        product.extend(
            rest[at..end]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' }),
        );
        rest = &rest[end..];
    }
    product + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_code_only() {
        let source = r##"
use crate::{
    bus::{self, Bus}, // crate::comment
    error::Result,
};
/* crate::comment /* nested */ crate::comment */
const A: &str = "crate::string \" crate::string"; const B: char = '"'; const C: &str = r#"crate::"raw"#;
fn f<'a>() -> crate::model::Seq { crate::command::room::apply() }
#[cfg(test)]
mod tests {
    use crate::worker::{Worker, run};
}
use crate::store;
"##;
        let used: Vec<(usize, String)> =
            crate_paths(&without_tests(&without_comments_and_strings(source)));
        let used: Vec<(usize, &str)> = used
            .iter()
            .map(|(line, name)| (*line, name.as_str()))
            .collect();
        assert_eq!(
            used,
            [
                (3, "bus"),
                (4, "error"),
                (8, "model"),
                (8, "command"),
                (13, "store")
            ]
        );
    }

    #[test]
    fn paths_are_resolved_from_their_module() {
        let source = "use super::{plan::{Plan, Script}, *};\nuse crate::error::Result;\nfn f() -> self::inner::T {}";
        let here = ["load".to_owned(), "run".to_owned()];
        let found = module_paths(source, &here);
        let found: Vec<String> = found.iter().map(|path| path.join("/")).collect();
        assert_eq!(
            found,
            [
                "error/Result",
                "load/plan/Plan",
                "load/plan/Script",
                "load",
                "load/run/inner/T"
            ]
        );
    }
}
