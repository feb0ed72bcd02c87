//! Syntax of reactions: one emoji, or a short plain word such as `thumbsup` or `+1`.
//!
//! Emoji are recognised by the grammar of UTS #51 (section 1.4.9) over the `Emoji` property, not by the list of
//! recommended sequences. This accepts newer families and flags, and every qualification of a sequence, with or without
//! U+FE0F.
//!
//! Sequences that differ only in U+FE0F are one reaction. Stores compare [`key`], which is the sequence without it;
//! clients are shown [`qualified`], which has it wherever the emoji style needs it.

use std::borrow::Cow;

use unicode_properties::{EmojiStatus, UnicodeEmoji};

/// Maximum length of a word in bytes.
const MAX_WORD: usize = 32;
/// Number of letters and digits in a flag's tag sequence, such as `gbeng` for England (UTS #51 annex C).
const TAGS: std::ops::RangeInclusive<usize> = 3..=6;

const ZWJ: char = '\u{200D}';
const EMOJI_STYLE: char = '\u{FE0F}';
const KEYCAP: char = '\u{20E3}';
const BLACK_FLAG: char = '\u{1F3F4}';
const TAG_END: char = '\u{E007F}';

/// Exactly one emoji, or a word of 1 to 32 of `a-z 0-9 _ + -`.
pub fn is_reaction(text: &str) -> bool {
    prefix(text) == Some(text.len()) || is_word(text)
}

/// The form by which reactions are compared and stored: without U+FE0F. Migration 0030 does the same in SQL.
pub fn key(text: &str) -> Cow<'_, str> {
    if text.contains(EMOJI_STYLE) {
        Cow::Owned(text.replace(EMOJI_STYLE, ""))
    } else {
        Cow::Borrowed(text)
    }
}

/// The form that clients are shown: an emoji fully-qualified (UTS #51, definition ED-18a), any other text as it is.
pub fn qualified(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || prefix(text) != Some(text.len()) {
        return Cow::Borrowed(text);
    }
    let text = key(text);
    let mut shown = String::with_capacity(text.len() + 4);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        shown.push(c);
        let next = rest.peek().copied();
        let styled = match c {
            '0'..='9' | '#' | '*' => true,
            _ => has_text_style(c) && !next.is_some_and(is_skin_tone),
        };
        if styled {
            shown.push(EMOJI_STYLE);
        }
    }
    Cow::Owned(shown)
}

/// Whether the character is an emoji that is shown as text unless U+FE0F follows.
fn has_text_style(c: char) -> bool {
    matches!(
        c.emoji_status(),
        EmojiStatus::EmojiOther | EmojiStatus::EmojiModifierBase
    )
}

fn is_word(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_+-".contains(&byte);
    (1..=MAX_WORD).contains(&text.len()) && text.bytes().all(plain)
}

/// The length in bytes of the emoji at the start of `text`.
pub fn prefix(text: &str) -> Option<usize> {
    let mut rest = flag(text).or_else(|| element(text))?;
    while let Some(joined) = rest.strip_prefix(ZWJ) {
        match flag(joined).or_else(|| element(joined)) {
            Some(after) => rest = after,
            None => break,
        }
    }
    Some(text.len() - rest.len())
}

/// The rest after two regional indicators.
fn flag(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(is_regional_indicator)?;
    rest.strip_prefix(is_regional_indicator)
}

/// The rest after one emoji character and its modifiers.
fn element(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let rest = &text[first.len_utf8()..];
    if matches!(first, '0'..='9' | '#' | '*') {
        let rest = rest.strip_prefix(EMOJI_STYLE).unwrap_or(rest);
        return rest.strip_prefix(KEYCAP);
    }
    if is_regional_indicator(first) || !first.is_emoji_char() {
        return None;
    }
    if first == BLACK_FLAG
        && let Some(rest) = tags(rest)
    {
        return Some(rest);
    }
    if is_skin_tone(first) {
        return Some(rest);
    }
    let modified = rest.strip_prefix(|c| c == EMOJI_STYLE || is_skin_tone(c));
    Some(modified.unwrap_or(rest))
}

/// The rest after the tag sequence of a regional flag.
fn tags(text: &str) -> Option<&str> {
    let tag = |c: &char| matches!(c, '\u{E0030}'..='\u{E0039}' | '\u{E0061}'..='\u{E007A}');
    let count = text.chars().take_while(tag).count();
    // Each tag is four bytes long.
    let rest = text.get(count * 4..)?.strip_prefix(TAG_END)?;
    TAGS.contains(&count).then_some(rest)
}

fn is_skin_tone(c: char) -> bool {
    matches!(c, '\u{1F3FB}'..='\u{1F3FF}')
}

fn is_regional_indicator(c: char) -> bool {
    matches!(c, '\u{1F1E6}'..='\u{1F1FF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sequences of Unicode's emoji-test.txt 15.0, one per line: 3,655 fully-qualified, 827 minimally-qualified,
    /// 242 unqualified, 9 components.
    const LISTED: &str = include_str!("emoji-15.0.txt");

    #[test]
    fn every_listed_emoji_is_one_reaction() {
        assert_eq!(LISTED.lines().count(), 4733);
        for emoji in LISTED.lines() {
            assert!(is_reaction(emoji), "{emoji} {}", emoji.escape_unicode());
            assert!(!is_reaction(&format!("{emoji}{emoji}")), "{emoji} twice");
            assert!(!is_reaction(&format!("{emoji}a")), "{emoji} and a letter");
            assert!(!is_reaction(&format!("{emoji} ")), "{emoji} and a space");
        }
    }

    #[test]
    fn sequences_that_differ_only_in_style_are_one_reaction() {
        let listed: std::collections::HashSet<&str> = LISTED.lines().collect();
        let mut shown = std::collections::HashSet::new();
        for emoji in LISTED.lines() {
            let (key, qualified) = (key(emoji), qualified(emoji));
            assert!(is_reaction(&key) && !key.contains(EMOJI_STYLE), "{emoji}");
            // 3,655 fully-qualified emojis and 9 components; the others are spellings of them.
            assert!(
                listed.contains(&*qualified),
                "{}",
                qualified.escape_unicode()
            );
            assert_eq!(super::key(&qualified), key, "{emoji}");
            assert_eq!(super::qualified(&key), qualified, "{emoji}");
            assert_eq!(super::qualified(&qualified), qualified, "{emoji}");
            shown.insert(qualified.into_owned());
        }
        assert_eq!(shown.len(), 3664);
        for (a, b) in [
            ("👍", "👍\u{FE0F}"),
            ("❤", "❤\u{FE0F}"),
            ("1\u{20E3}", "1\u{FE0F}\u{20E3}"),
            ("👁\u{200D}🗨", "👁\u{FE0F}\u{200D}🗨\u{FE0F}"),
        ] {
            assert_eq!((key(a), qualified(a)), (key(b), qualified(b)), "{a}");
        }
        for word in ["thumbsup", "+1", "1", "a sentence ❤\u{FE0F}"] {
            assert_eq!(qualified(word), word);
        }
    }

    #[test]
    fn words_are_short_and_plain() {
        let longest = "x".repeat(MAX_WORD);
        for good in [
            "thumbsup",
            "+1",
            "-1",
            "white_check_mark",
            "1",
            "e-mail",
            &longest,
        ] {
            assert!(is_reaction(good), "{good}");
        }
        let long = "x".repeat(MAX_WORD + 1);
        for bad in [
            "",
            " ",
            "a b",
            ":thumbsup:",
            "OK",
            "ja!",
            "né",
            "a\n",
            "#",
            "*",
            "<b>",
            "../x",
            "\u{202E}",
            "\u{200B}",
            "\0",
            &long,
        ] {
            assert!(!is_reaction(bad), "{bad:?}");
        }
    }

    #[test]
    fn sequences_that_are_no_emoji_are_refused() {
        for bad in [
            "👍👍",
            "👍 ",
            "👍\u{200D}",
            "\u{200D}👍",
            "\u{FE0F}",
            "👍\u{FE0F}\u{FE0F}",
            "👍\u{FE0E}",
            "🇩",
            "🇩🇪🇩",
            "🇩🇪🇫🇷",
            "a\u{FE0F}",
            "1\u{FE0F}",
            "\u{20E3}",
            "a\u{20E3}",
            "👍\u{E0067}\u{E007F}",
            "🏴\u{E0067}\u{E0062}",
            "🏴\u{E0067}\u{E007F}",
            "🏴\u{E0041}\u{E0042}\u{E0043}\u{E007F}",
            "漢",
            "\u{1F3FB}👍",
        ] {
            assert!(!is_reaction(bad), "{}", bad.escape_unicode());
        }
        // Not recommended for general interchange, but a valid emoji.
        for good in [
            "👩‍🚒‍🐈",
            "🏴\u{E0075}\u{E0073}\u{E0063}\u{E0061}\u{E007F}",
            "🇽🇽",
        ] {
            assert!(is_reaction(good), "{}", good.escape_unicode());
        }
    }

    #[test]
    fn a_prefix_ends_where_the_emoji_does() {
        assert_eq!(prefix("👍🏽x"), Some("👍🏽".len()));
        assert_eq!(prefix("👩\u{200D}x"), Some("👩".len()));
        assert_eq!(prefix("x👍"), None);
        assert_eq!(prefix(""), None);
    }
}
