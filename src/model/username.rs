//! User names: syntax and confusability. Plain ASCII, so that a name can be typed on any keyboard and follow an `@`.

/// Length of a user name in characters.
const LENGTH: std::ops::RangeInclusive<usize> = 2..=32;

/// `^[A-Za-z0-9_][A-Za-z0-9_.-]{1,31}$`
pub fn is_username(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    LENGTH.contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '.' || c == '-')
}

/// Equal for names that look alike: covers what UTS #39 (section 4) calls confusable among the characters of user names
/// in either case (`I l 1`, `O 0 o`, `rn m`), plus `vv w`. Skeletons are stored, so this function must never change;
/// Unicode's own data changes between versions, and a unit test compares against it. The migrations that fill
/// `users.skeleton` implement the same rule in SQL.
pub fn skeleton(name: &str) -> String {
    // Lowercasing would hide that a capital I looks like l.
    name.replace('I', "l")
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

    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

    #[test]
    fn names_and_what_is_none() {
        let longest = "a".repeat(32);
        for good in ["ab", "_a", "Ada.Lovelace-1815", &longest] {
            assert!(is_username(good), "{good}");
        }
        let long = "a".repeat(33);
        for bad in [
            "", "a", ".a", "-a", "a b", "ä1", "a\0b", "a@b", "pаypal", &long,
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
        ] {
            assert_eq!(skeleton(a), skeleton(b), "{a} {b}");
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
