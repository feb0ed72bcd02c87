//! Finds the candidates for `@username` in a message body. Whether they are members is decided by the store and
//! [`super::apply()`]. A body without `@` costs one byte search.

/// Maximum candidates per body: each costs the batch a lookup.
const MAX_NAMES: usize = 50;
/// Maximum length of a user name.
const MAX_NAME: usize = 32;

/// Calls `known` with the candidates of each mention, in lower case, longest first. `Some` accepts a candidate and
/// skips its shorter readings.
pub fn resolve(body: &str, mut known: impl FnMut(&str) -> Option<()>) {
    each(body, |name| {
        let name = name.to_ascii_lowercase();
        readings(&name).find_map(&mut known);
    });
}

/// All candidates of all mentions, in lower case: the names to look up.
pub fn names(body: &str) -> Vec<String> {
    let mut names = Vec::new();
    each(body, |name| {
        let name = name.to_ascii_lowercase();
        names.extend(readings(&name).map(str::to_owned));
    });
    names
}

fn each(body: &str, mut found: impl FnMut(&str)) {
    let mut count = 0;
    for (at, _) in body.match_indices('@') {
        // Not inside a word: someone@example.com is no mention.
        let inside = body[..at]
            .chars()
            .next_back()
            .is_some_and(char::is_alphanumeric);
        let rest = &body[at + 1..];
        let end = rest.find(|c: char| !letter(c)).unwrap_or(rest.len());
        if inside || end == 0 || !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        {
            continue;
        }
        found(&rest[..end.min(MAX_NAME)]);
        count += 1;
        if count == MAX_NAMES {
            return;
        }
    }
}

/// Characters that a user name may contain after its first.
fn letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

/// "bob." is a valid name, but more often the end of a sentence.
fn readings(name: &str) -> impl Iterator<Item = &str> {
    let bare = name.trim_end_matches(['.', '-']);
    std::iter::once(name)
        .chain((bare.len() < name.len()).then_some(bare))
        .filter(|name| name.len() >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mentions_are_found_in_running_text() {
        assert_eq!(names("hi @Bob, and @a_b-c"), ["bob", "a_b-c"]);
        assert_eq!(names("ask @bob."), ["bob.", "bob"]);
        assert_eq!(names("(@bob)@carol"), ["bob", "carol"]);
        assert!(names("mail bob@example.com or @ or @. or @x").is_empty());
        assert!(names("nothing here").is_empty());
        assert_eq!(names(&"@ab ".repeat(80)).len(), MAX_NAMES);
    }

    #[test]
    fn a_name_begins_with_a_letter_a_digit_or_an_underscore() {
        assert_eq!(names("@_bob @7up"), ["_bob", "7up"]);
        assert!(names("@-ab @.ab @ ab @").is_empty());
        assert_eq!(names("é@ab"), [""; 0], "inside a word of any script");
        assert_eq!(names("\u{301}@ab -@cd"), ["ab", "cd"]);
        assert_eq!(names("@ab.- @cd-"), ["ab.-", "ab", "cd-", "cd"]);
        assert_eq!(names("@a. @b-"), ["a.", "b-"], "a bare name is too short");
        assert_eq!(names("@aé"), [""; 0]);
    }

    #[test]
    fn a_name_is_no_longer_than_names_are() {
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(names(&format!("@{long}")), [&long[1..]]);
        assert_eq!(names(&format!("@{}", &long[1..])), [&long[1..]]);
    }

    #[test]
    fn the_number_of_names_per_message_is_limited() {
        let text: Vec<String> = (0..60).map(|number| format!("@u{number}")).collect();
        let found = names(&text.join(" "));
        assert_eq!(found.len(), MAX_NAMES);
        assert_eq!(found.last().map(String::as_str), Some("u49"));
    }

    #[test]
    fn the_longest_reading_that_is_known_counts() {
        let mut asked = Vec::new();
        resolve("@bob. @carol.", |name| {
            asked.push(name.to_owned());
            (name == "carol.").then_some(())
        });
        assert_eq!(asked, ["bob.", "bob", "carol."]);
    }
}
