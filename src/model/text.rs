//! Validation of short single-line texts for display: display names and room names. One function defines what they may
//! contain, so that no name hides, reorders or overflows the text around it. Message bodies are not restricted, except
//! for U+0000.

pub mod emoji;

use std::fmt;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Maximum consecutive combining marks. Vietnamese needs two, Tibetan and Hebrew with cantillation up to five.
const MAX_MARKS: usize = 8;

/// Why a text is rejected, in a form for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfit(pub &'static str);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Returns the text in Unicode normalisation form C (UAX #15), so that each name has one spelling.
///
/// # Errors
/// If the text has no visible character, or contains a control character, a line or paragraph separator, a
/// bidirectional override or isolate (UAX #9), another invisible character (UTS #39 section 5.5 and Unicode's
/// `Default_Ignorable_Code_Point`), a private or unassigned character, or more than 8 consecutive combining marks.
/// Emoji sequences (UTS #51) are accepted with their joiners and tags; ZWJ and ZWNJ are also accepted between letters
/// of the scripts whose spelling uses them.
pub fn label(text: &str) -> Result<String, Unfit> {
    let text: String = text.nfc().collect();
    let (mut visible, mut marks) = (false, 0);
    let (mut before, mut rest) = (None, text.as_str());
    while let Some(c) = rest.chars().next() {
        if let Some(length) = emoji::prefix(rest) {
            (visible, marks) = (true, 0);
            (before, rest) = (rest[..length].chars().next_back(), &rest[length..]);
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match class(c) {
            Class::Visible => (visible, marks) = (true, 0),
            Class::Blank => marks = 0,
            Class::Mark => {
                marks += 1;
                if marks > MAX_MARKS {
                    return Err(Unfit("must not stack more than 8 combining marks"));
                }
            }
            // Selects a variant of the preceding character, which must be visible.
            Class::Selector if before.is_some_and(|c| class(c) == Class::Visible) => {}
            Class::Joiner if joins(before, rest.chars().next()) => {}
            Class::Selector | Class::Joiner | Class::Hidden => {
                return Err(Unfit("must not hold invisible characters"));
            }
            Class::Direction => {
                return Err(Unfit(
                    "must not hold characters that change the direction of writing",
                ));
            }
            Class::Control => {
                return Err(Unfit("must not hold control characters or line breaks"));
            }
            Class::Unassigned => {
                return Err(Unfit("must not hold private or unassigned characters"));
            }
        }
        before = Some(c);
    }
    if visible {
        return Ok(text);
    }
    Err(Unfit("must hold something that can be seen"))
}

/// A stored name, possibly older than these rules, as one line of another text such as a mail's subject: control
/// characters and line breaks become spaces, direction controls are removed.
pub fn one_line(text: &str) -> String {
    let shown = text.chars().filter_map(|c| match class(c) {
        Class::Control => Some(' '),
        Class::Direction => None,
        _ => Some(c),
    });
    shown.collect()
}

/// The class of a character in a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Visible,
    /// A space, or an invisible mark used in right-to-left names.
    Blank,
    /// Combines with the preceding character.
    Mark,
    /// A variation selector.
    Selector,
    /// ZWJ or ZWNJ.
    Joiner,
    /// Invisible and not needed in names.
    Hidden,
    /// An embedding, override or isolate.
    Direction,
    Control,
    Unassigned,
}

fn class(c: char) -> Class {
    use GeneralCategory as G;
    match c {
        '\u{200C}' | '\u{200D}' => return Class::Joiner,
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => return Class::Direction,
        // Left-to-right, right-to-left and Arabic letter mark; the blank of Braille.
        '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{2800}' => return Class::Blank,
        '\u{FE00}'..='\u{FE0F}' | '\u{E0100}'..='\u{E01EF}' => return Class::Selector,
        '\u{180B}'..='\u{180D}' | '\u{180F}' => return Class::Selector,
        // Hangul fillers, the combining grapheme joiner and two Khmer vowels: invisible, although not format characters
        // by category.
        '\u{115F}' | '\u{1160}' | '\u{3164}' | '\u{FFA0}' => return Class::Hidden,
        '\u{034F}' | '\u{17B4}' | '\u{17B5}' => return Class::Hidden,
        // The place of an embedded object, two blank hieroglyphs, a filler of Khitan, a note head without ink.
        '\u{FFFC}' | '\u{13441}' | '\u{13442}' | '\u{16FE4}' | '\u{1D159}' => {
            return Class::Hidden;
        }
        // Signs written before or around a number (Prepended_Concatenation_Mark).
        '\u{0600}'..='\u{0605}'
        | '\u{06DD}'
        | '\u{070F}'
        | '\u{0890}'
        | '\u{0891}'
        | '\u{08E2}' => {
            return Class::Visible;
        }
        '\u{110BD}' | '\u{110CD}' => return Class::Visible,
        _ => {}
    }
    match c.general_category() {
        G::Control | G::LineSeparator | G::ParagraphSeparator => Class::Control,
        G::SpaceSeparator => Class::Blank,
        G::NonspacingMark | G::EnclosingMark | G::SpacingMark => Class::Mark,
        G::Format => Class::Hidden,
        G::Unassigned | G::PrivateUse | G::Surrogate => Class::Unassigned,
        _ => Class::Visible,
    }
}

/// Whether a joiner between these two is part of the spelling.
fn joins(before: Option<char>, after: Option<char>) -> bool {
    let spelt = |c: Option<char>| c.is_some_and(spells_with_joiners);
    spelt(before) && spelt(after)
}

/// Letters and marks of the scripts from Arabic to Mongolian and similar ones in later blocks: they join or stack, and
/// a joiner changes the word (UAX #31 section 2.3).
fn spells_with_joiners(c: char) -> bool {
    let block = matches!(c,
        '\u{0600}'..='\u{0FFF}'
            | '\u{1000}'..='\u{109F}'
            | '\u{1700}'..='\u{18AF}'
            | '\u{1900}'..='\u{1CFF}'
            | '\u{A800}'..='\u{ABFF}'
            | '\u{FB50}'..='\u{FDFF}'
            | '\u{FE70}'..='\u{FEFE}'
            | '\u{10A00}'..='\u{10FFF}'
            | '\u{11000}'..='\u{11FFF}'
            | '\u{1E900}'..='\u{1E95F}');
    block && matches!(class(c), Class::Visible | Class::Mark)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_all_kinds_are_taken() {
        for name in [
            "Ada Lovelace",
            "Jean-Luc O’Neill, Jr. (he/him)",
            "Łukasz Żółć",
            "Nguyễn Thị Minh",
            "李小龍",
            "さくら・花",
            "한국어",
            "محمد بن سلمان",
            "می\u{200C}خواهم",
            "क्\u{200D}ष",
            "ශ්\u{200D}රී",
            "עִבְרִית",
            "ไทย",
            "བོད་ཡིག",
            "👩‍👩‍👧‍👦 family",
            "Team ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩🇪 1️⃣ 👍🏽",
            "葛\u{E0100}城",
            "שלום\u{200F} chat",
            "۱۲۳ ١٢٣",
            "C++ & Rust #1 <3",
            "🜁 ∑ ★",
        ] {
            let kept = label(name).unwrap_or_else(|why| panic!("{name:?}: {why}"));
            assert_eq!(label(&kept).as_deref(), Ok(kept.as_str()));
        }
    }

    #[test]
    fn misleading_names_are_refused() {
        for (name, why) in [
            ("", "seen"),
            (" \u{3000}\u{A0}", "seen"),
            ("\u{200F}\u{200E}", "seen"),
            ("\u{2800}", "seen"),
            ("\u{301}\u{302}", "seen"),
            ("\u{200B}", "invisible"),
            ("\u{200D}\u{200D}", "invisible"),
            ("a\u{200B}b", "invisible"),
            ("a\u{200D}b", "invisible"),
            ("Ada\u{200C}", "invisible"),
            ("م\u{200C}", "invisible"),
            ("a\u{FEFF}", "invisible"),
            ("a\u{AD}b", "invisible"),
            ("a\u{2060}b", "invisible"),
            ("a\u{2063}b", "invisible"),
            ("a\u{206A}b", "invisible"),
            ("\u{3164}", "invisible"),
            ("\u{1160}", "invisible"),
            ("\u{FFA0}", "invisible"),
            ("\u{AD}", "invisible"),
            ("\u{FFFC}", "invisible"),
            ("\u{13441}", "invisible"),
            ("\u{16FE4}", "invisible"),
            ("\u{1D159}", "invisible"),
            ("\u{E0100}", "invisible"),
            ("\u{180B}", "invisible"),
            ("\u{E0020}\u{E007F}", "invisible"),
            ("\u{2800}\u{2800}", "seen"),
            ("\u{061C}", "seen"),
            ("\u{115F}", "invisible"),
            ("a\u{34F}b", "invisible"),
            ("a\u{180E}b", "invisible"),
            ("\u{FE0F}", "invisible"),
            ("a\u{FE00}\u{FE00}", "invisible"),
            ("a\u{E0041}\u{E0042}", "invisible"),
            ("🏴\u{E0041}", "invisible"),
            ("a\u{1D173}b", "invisible"),
            ("\u{202E}nimda", "direction"),
            ("a\u{202A}b", "direction"),
            ("a\u{2066}b", "direction"),
            ("a\u{2069}b", "direction"),
            ("a\0b", "control"),
            ("a\nb", "control"),
            ("a\tb", "control"),
            ("a\u{7F}b", "control"),
            ("a\u{85}b", "control"),
            ("a\u{2028}b", "control"),
            ("a\u{2029}b", "control"),
            ("a\u{E000}b", "private"),
            ("a\u{F0000}b", "private"),
            ("a\u{FFFE}", "unassigned"),
            ("a\u{378}b", "unassigned"),
        ] {
            let refused = label(name).expect_err(name);
            assert!(refused.0.contains(why), "{name:?}: {refused}");
        }
    }

    #[test]
    fn marks_stack_only_so_high() {
        let stack = |count| format!("x{}", "\u{0335}".repeat(count));
        assert!(label(&stack(MAX_MARKS)).is_ok());
        assert!(label(&stack(MAX_MARKS + 1)).is_err());
        // Each letter resets the count.
        assert!(label(&format!("{0}{0}", stack(MAX_MARKS))).is_ok());
    }

    #[test]
    fn one_name_has_one_spelling() {
        assert_eq!(label("A\u{30A}ngstro\u{308}m").as_deref(), Ok("Ångström"));
        assert_eq!(label("\u{212B}").as_deref(), Ok("Å"));
    }

    #[test]
    fn old_names_reorder_nothing_in_a_subject() {
        assert_eq!(
            one_line("a\r\nBcc: x\u{202E}y\u{2066}z\u{2028}👩‍👧"),
            "a  Bcc: xyz 👩‍👧"
        );
    }

    proptest! {
            #[test]
            fn accepted_text_is_one_visible_line(text in "\\PC{0,12}|[\\p{M}\\p{Cf}\\p{L}\\p{So}\\p{Z}\\p{Cc}]{0,12}") {
                if let Ok(kept) = label(&text) {
                    prop_assert!(!kept.chars().any(char::is_control));
    let hidden = kept.contains(['\u{202E}', '\u{2066}', '\u{200B}', '\u{2028}']);
                    prop_assert!(!hidden);
                    prop_assert_eq!(one_line(&kept), kept.clone());
                    prop_assert_eq!(label(&kept), Ok(kept));
                }
            }
        }
}
