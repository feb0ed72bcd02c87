//! User-written text in notifications. One function makes it safe to show beside other text, for names and message
//! bodies alike: no control character other than a line feed, and no character that changes the direction of writing.

use unicode_segmentation::UnicodeSegmentation;

use crate::model::text::one_line;

/// Text of several lines. Line breaks of any kind become `\n`, other control characters become spaces, and Unicode's
/// bidirectional controls (UAX #9, `Bidi_Control`) are removed: they would also reorder what the template writes.
pub fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // CR LF is one line break.
    let text = text.replace("\r\n", "\n");
    for (number, line) in text.split(is_line_break).enumerate() {
        if number > 0 {
            out.push('\n');
        }
        out.extend(one_line(line).chars().filter(|c| !is_direction_mark(*c)));
    }
    out
}

/// As [`lines`], on one line: for subjects, names and text messages.
pub fn line(text: &str) -> String {
    lines(text).replace('\n', " ")
}

fn is_line_break(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// The bidirectional controls that [`one_line`] keeps, because names may need them.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}')
}

/// The longest beginning of at most `max` characters that ends between two grapheme clusters (UAX #29), with `…` if
/// something is left out.
pub fn shorten(text: &str, max: usize) -> String {
    let Some((limit, _)) = text.char_indices().nth(max) else {
        return text.to_owned();
    };
    let end = text
        .grapheme_indices(true)
        .map(|(at, _)| at)
        .take_while(|at| *at <= limit)
        .last();
    format!("{}…", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn user_text_does_not_reorder_or_hide_other_text() {
        for (text, shown) in [
            ("a\r\nb\rc\u{2028}d\u{85}e\u{C}f", "a\nb\nc\nd\ne\nf"),
            ("\u{202E}gnp.exe", "gnp.exe"),
            ("a\u{2066}b\u{2069}\u{200F}c\u{61C}\u{200E}", "abc"),
            ("a\0\u{1B}[31mb\tc\u{7F}", "a  [31mb c "),
            ("שלום @דן 👩‍👧 é", "שלום @דן 👩‍👧 é"),
            ("", ""),
        ] {
            assert_eq!(lines(text), shown, "{text:?}");
        }
        assert_eq!(line("a\r\nBcc: b\n"), "a Bcc: b ");
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        for (text, max, shown) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "abc…"),
            // A family of five code points, a flag of two, a letter with a mark, Hangul of three parts.
            ("ab👩‍👩‍👧x", 4, "ab…"),
            ("ab👩‍👩‍👧x", 7, "ab👩‍👩‍👧…"),
            ("🇩🇪🇫🇷", 3, "🇩🇪…"),
            ("ae\u{301}x", 2, "a…"),
            ("\u{1112}\u{1161}\u{11AB}x", 2, "…"),
            ("👍🏽👍🏽", 3, "👍🏽…"),
            ("a\r\nb", 2, "a…"),
            ("x", 0, "…"),
        ] {
            assert_eq!(shorten(text, max), shown, "{text:?} to {max}");
        }
    }

    proptest! {
        #[test]
        fn shown_text_is_clean_and_cut_between_clusters(
            text in "(\\PC|\\PC|[\\p{Cc}\\p{Cf}\\p{M}]|👩‍👧|\r\n){0,40}",
            max in 0_usize..40,
        ) {
            let clean = lines(&text);
            prop_assert!(!clean.chars().any(|c| c.is_control() && c != '\n'));
            let controls = ['\u{61C}', '\u{200E}', '\u{200F}', '\u{202A}', '\u{202E}', '\u{2066}', '\u{2069}'];
            let reordered = clean.contains(controls);
            prop_assert!(!reordered);
            prop_assert_eq!(&lines(&clean), &clean);
            prop_assert!(!line(&text).contains('\n'));
            let short = shorten(&clean, max);
            prop_assert!(short.chars().count() <= max + 1);
            if short != clean {
                let kept = short.strip_suffix('…').unwrap();
                let boundary = clean.grapheme_indices(true).any(|(at, _)| at == kept.len());
                prop_assert!(clean.starts_with(kept) && boundary);
            }
        }
    }
}
