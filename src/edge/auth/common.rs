//! Rejects easily guessed passwords: the 10,000 most common ones of sufficient length, and those derived from the
//! account.
//!
//! The list (`common-passwords.txt`, sorted, lower case) is that of Django 5.2
//! (`django/contrib/auth/common-passwords.txt.gz`, BSD-3-Clause, based on Have I Been Pwned), continued with that of
//! zxcvbn 3.1.1 (MIT); see `NOTICE`. Both are ordered by frequency. Passwords below 8 bytes are omitted, since their
//! length is rejected anyway.

/// One password per line, sorted by bytes.
const LIST: &str = include_str!("common-passwords.txt");

/// Whether the password is on the list, ignoring case.
pub fn is_common(password: &str) -> bool {
    let password = password.trim().to_lowercase();
    if password.contains('\n') {
        return false;
    }
    // Binary search over bytes: each step moves to the beginning of the line at the middle.
    let bytes = LIST.as_bytes();
    let (mut low, mut high) = (0, bytes.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = bytes[low..middle]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(low, |at| low + at + 1);
        let end = bytes[start..high]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(high, |at| start + at);
        match bytes[start..end].cmp(password.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    false
}

/// Whether the password is one of the account's words (names, an address, or the part before its `@`), ignoring case.
pub fn is_own<'a>(password: &str, words: impl IntoIterator<Item = &'a str>) -> bool {
    let password = password.trim().to_lowercase();
    words.into_iter().any(|word| {
        let local = word.split('@').next().unwrap_or(word);
        [word, local]
            .iter()
            .any(|word| word.trim().to_lowercase() == password)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_searched() {
        let lines: Vec<&str> = LIST.lines().collect();
        assert_eq!(lines.len(), 10_000);
        assert!(lines.is_sorted_by(|a, b| a < b), "in order, each once");
        for line in lines {
            assert!(is_common(line), "{line}");
            assert!(line.len() >= 8 && line == line.to_lowercase(), "{line}");
        }
    }

    #[test]
    fn common_passwords_are_found_in_any_case() {
        for bad in [
            "password",
            "12345678",
            "PassWord1",
            " iloveyou ",
            "qwertyuiop",
        ] {
            assert!(is_common(bad), "{bad}");
        }
        for good in [
            "correct horse",
            "battery staple",
            "",
            "\n",
            "password\n12345678",
            "!qaz1qa",
            "zzzzzzzzzzzzzzzzzzzzzz",
            "the password of ada",
        ] {
            assert!(!is_common(good), "{good}");
        }
    }

    #[test]
    fn a_users_own_name_is_no_password() {
        let words = ["ada-lovelace", "Ada Lovelace", "countess.ada@example.com"];
        for bad in [
            "Ada-Lovelace",
            "ada lovelace",
            "countess.ada",
            "COUNTESS.ada@example.com",
        ] {
            assert!(is_own(bad, words), "{bad}");
        }
        assert!(!is_own("ada-lovelace1", words));
    }
}
