//! User names: syntax and confusability. Plain ASCII, so that a name can be typed on any keyboard and follow an `@`.

/// Maximum length of a user name in characters.
pub const MAX_LENGTH: usize = 64;

/// Names that stand for something else, in lower case: groups of members, and the server itself.
const RESERVED: [&str; 5] = ["admin", "all", "everyone", "here", "system"];

/// `^[A-Za-z0-9_][A-Za-z0-9_.\-\[\]{}|^]{1,63}$`. The punctuation is that of IRC, Slack and Mattermost names, without
/// the backslash and the backtick, which escape and quote in Markdown. No character has a meaning in HTML, in the
/// address of a mail, or around a mention.
pub fn is_username(name: &str) -> bool {
    (2..=MAX_LENGTH).contains(&name.len())
        && name.starts_with(is_first)
        && name.chars().all(is_inner)
}

/// Whether a user name may begin with this character.
pub fn is_first(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a user name may contain this character after its first.
pub fn is_inner(c: char) -> bool {
    is_first(c) || ".-[]{}|^".contains(c)
}

/// Whether a new account must not have this name: it is one of `all`, `here`, `everyone`, `admin` and `system`, or
/// looks like one of them in either case, punctuation around it aside.
pub fn is_reserved(name: &str) -> bool {
    let looks = skeleton(name);
    let looks = looks.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let same = |reserved: &str| looks == skeleton(reserved);
    (RESERVED.iter()).any(|reserved| same(reserved) || same(&reserved.to_ascii_uppercase()))
}

/// Equal for names that look alike: covers what UTS #39 (section 4) calls confusable among the characters of user names
/// in either case (`I l 1 |`, `O 0 o`, `rn m`), plus `vv w`. Skeletons are stored, so this function must never change;
/// Unicode's own data changes between versions, and a unit test compares against it. The migrations that fill
/// `users.skeleton` implement the same rule in SQL, without `|`, which names of that time did not contain.
pub fn skeleton(name: &str) -> String {
    // Lowercasing would hide that a capital I looks like l.
    name.replace(['I', '|'], "l")
        .to_ascii_lowercase()
        .replace('1', "l")
        .replace('0', "o")
        .replace('m', "rn")
        .replace("vv", "w")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const ALPHABET: &str =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-[]{}|^";

    #[test]
    fn names_and_what_is_none() {
        let longest = "a".repeat(64);
        for good in [
            "ab",
            "_a",
            "Ada.Lovelace-1815",
            "John[1]",
            "Ep|phany",
            "away^_^",
            "x{y}",
            &longest,
        ] {
            assert!(is_username(good), "{good}");
        }
        let long = "a".repeat(65);
        for bad in [
            "", "a", ".a", "-a", "a b", "ä1", "a\0b", "a@b", "pаypal", "[ab]", "|ab", "^ab", "{ab",
            &long,
        ] {
            assert!(!is_username(bad), "{bad:?}");
        }
    }

    #[test]
    fn lookalikes_share_a_skeleton() {
        for (a, b) in [
            ("paypal", "PaypaI"),
            ("paypal", "paypa1"),
            ("google", "g00gle"),
            ("GOOGLE", "g0ogle"),
            ("admin", "adrnin"),
            ("Moderator", "rnoderator"),
            ("wanda", "vvanda"),
            ("ada", "ADA"),
            ("a1", "al"),
            ("Ep|phany", "Eplphany"),
            ("Ep|phany", "EpIphany"),
            ("John[1]", "john[l]"),
        ] {
            assert_eq!(skeleton(a), skeleton(b), "{a} {b}");
        }
    }

    /// Characters that quote, escape or delimit in HTML, addresses, paths, Markdown code and mentions.
    #[test]
    fn no_name_has_a_character_with_a_meaning() {
        for c in "@\"'<>&/\\ :;,`$#!?*=+%()~\0\n\t\u{7F}".chars() {
            assert!(!is_username(&format!("a{c}b")), "{c:?}");
        }
    }

    #[test]
    fn reserved_names_and_their_lookalikes() {
        for reserved in [
            "all", "ALL", "a11", "AII", "a|l", "aLL", "here", "HERE", "everyone", "EVERY0NE",
            "every0ne", "admin", "Admin", "ADMIN", "adrnin", "ADM1N", "adm|n", "system", "systern",
            "SYSTEM", "_admin_", "admin.", "all--", "here[]", "system^",
        ] {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for free in [
            "al",
            "allan",
            "ally",
            "hereford",
            "where",
            "everyone1x",
            "admins",
            "badmin",
            "admin-ada",
            "systems",
            "sys.tem",
            "ada",
            "a_ll",
        ] {
            assert!(!is_reserved(free), "{free}");
        }
    }

    #[test]
    fn numbered_names_stay_apart() {
        let names =
            (0..3000).flat_map(|i| [format!("user{i}"), format!("load-{i}"), format!("u.{i:x}")]);
        let mut seen = HashMap::new();
        for name in names {
            if let Some(other) = seen.insert(skeleton(&name), name.clone()) {
                panic!("{name} and {other} look alike");
            }
        }
    }

    /// Names that Unicode calls confusable have equal skeletons here, for every pair of characters.
    #[test]
    fn unicode_skeletons_distinguish_no_more_names() {
        let letters = || ALPHABET.chars();
        let names = letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")));
        let mut ours = HashMap::new();
        for name in letters().map(String::from).chain(names) {
            let theirs: String = unicode_security::skeleton(&name).collect();
            let first = ours.entry(theirs).or_insert_with(|| name.clone()).clone();
            assert_eq!(skeleton(&first), skeleton(&name), "{first} and {name}");
        }
    }
}
