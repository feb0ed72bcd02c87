//! The length of text messages, in the segments that a provider charges for.
//!
//! A text in the alphabet of GSM 7 bit (3GPP TS 23.038, sections 6.2.1 and 6.2.1.1) has 160 septets in a single message
//! and 153 in each of several; the characters of the extension table take two. Any other text is UTF-16: 70 and 67 code
//! units. Neither an escape sequence nor a surrogate pair is divided between two segments (TS 23.040, section
//! 9.2.3.24.1), which can leave one unit of a segment unused.

use unicode_segmentation::UnicodeSegmentation;

/// The default alphabet, without the escape character.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// The extension table.
const EXTENSION: &str = "\u{C}^{}\\[~]|€";
/// Ends a text that was cut. The character `…` is not in the alphabet, and would more than halve the rest.
const CUT: &str = "...";

/// An alphabet: the units of a single message, and of each segment of a longer one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Alphabet {
    single: usize,
    part: usize,
}

const GSM_7: Alphabet = Alphabet {
    single: 160,
    part: 153,
};
const UTF_16: Alphabet = Alphabet {
    single: 70,
    part: 67,
};

/// The septets of a character; `None` if it is not in the alphabet.
fn septets(c: char) -> Option<usize> {
    if BASIC.contains(c) {
        Some(1)
    } else {
        EXTENSION.contains(c).then_some(2)
    }
}

/// The number of segments of a text; 1 for an empty one.
pub fn count(text: &str) -> usize {
    let septets: Option<Vec<usize>> = text.chars().map(septets).collect();
    match septets {
        Some(septets) => parts(&septets, GSM_7),
        None => {
            let units: Vec<usize> = text.chars().map(char::len_utf16).collect();
            parts(&units, UTF_16)
        }
    }
}

fn parts(units: &[usize], alphabet: Alphabet) -> usize {
    if units.iter().sum::<usize>() <= alphabet.single {
        return 1;
    }
    let (mut parts, mut used) = (1, 0);
    for unit in units {
        if used + unit > alphabet.part {
            (parts, used) = (parts + 1, 0);
        }
        used += unit;
    }
    parts
}

/// A text of at most `most` segments: `text` followed by `end`, or the longest beginning of `text` that ends between
/// two grapheme clusters (UAX #29), `...` and `end`. If `end` alone does not fit, it is left out.
pub fn fit(text: &str, end: &str, most: usize) -> String {
    let whole = format!("{text}{end}");
    if count(&whole) <= most {
        return whole;
    }
    let end = format!("{CUT}{end}");
    if end != CUT && count(&end) > most {
        return fit(text, "", most);
    }
    // No longer beginning can fit: each cluster takes at least one unit.
    let clusters = text.grapheme_indices(true).map(|(at, _)| at);
    let ends: Vec<usize> = clusters.take(most * GSM_7.single + 1).collect();
    // A longer beginning never has fewer segments: UTF-16 has the fewer characters per segment, also for a text of
    // nothing but extension characters (67 against 76).
    let fits = |end_of_text: &usize| count(&format!("{}{end}", &text[..*end_of_text])) <= most;
    let fitting = ends.partition_point(fits);
    let kept = fitting.checked_sub(1).map_or(0, |last| ends[last]);
    format!("{}{end}", text[..kept].trim_end())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_alphabet_has_127_characters_and_ten_more() {
        assert_eq!(BASIC.chars().count(), 127);
        assert_eq!(EXTENSION.chars().count(), 10);
        assert!(!EXTENSION.chars().any(|c| BASIC.contains(c)));
    }

    #[test]
    fn segments_are_counted_as_providers_charge_for_them() {
        let many = |c: &str, n: usize| c.repeat(n);
        for (text, segments) in [
            (String::new(), 1),
            (many("a", 160), 1),
            (many("a", 161), 2),
            (many("a", 306), 2),
            (many("a", 307), 3),
            (many("a", 459), 3),
            (many("a", 460), 4),
            (many("ä", 160), 1),
            (many("à\n", 80), 1),
            // Two septets each; 76 in a part, with one septet unused.
            (many("€", 80), 1),
            (many("€", 81), 2),
            (many("€", 152), 2),
            (many("€", 153), 3),
            (many("[", 228), 3),
            (many("[", 229), 4),
            (format!("{}€", many("a", 159)), 2),
            (format!("{}€", many("a", 158)), 1),
            // One character outside the alphabet makes the whole text UTF-16.
            (many("ç", 70), 1),
            (many("ç", 71), 2),
            (format!("{}…", many("a", 69)), 1),
            (format!("{}…", many("a", 70)), 2),
            (format!("{}`", many("a", 133)), 2),
            (format!("{}`", many("a", 134)), 3),
            (many("я", 134), 2),
            (many("я", 135), 3),
            (many("я", 201), 3),
            (many("я", 202), 4),
            // A surrogate pair is not divided: 33 in a part.
            (many("👍", 35), 1),
            (many("👍", 36), 2),
            (many("👍", 66), 2),
            (many("👍", 67), 3),
            (many("👍", 99), 3),
            (many("👍", 100), 4),
            (format!("я{}", many("👍", 66)), 2),
        ] {
            assert_eq!(count(&text), segments, "{text}");
        }
    }

    #[test]
    fn a_cut_keeps_the_alphabet_and_whole_characters() {
        const LINK: &str = " https://chat.example.com";
        // 600 plain letters stay in the alphabet: 459 septets.
        let long = fit(&"a".repeat(600), LINK, 3);
        assert_eq!((long.len(), count(&long)), (459, 3));
        assert!(long.ends_with("aaa... https://chat.example.com"), "{long}");
        let cyrillic = fit(&"я".repeat(600), LINK, 3);
        assert_eq!(
            (cyrillic.encode_utf16().count(), count(&cyrillic)),
            (201, 3)
        );
        // An emoji beyond the cut costs nothing, one before the cut does.
        let late = fit(&format!("{}👍", "a".repeat(600)), LINK, 3);
        assert_eq!(late, long);
        let early = fit(&format!("👍{}", "a".repeat(600)), LINK, 3);
        assert_eq!((early.encode_utf16().count(), count(&early)), (201, 3));
        let family = fit(&"👩‍👩‍👧‍👦".repeat(40), "", 1);
        assert_eq!(family, format!("{}...", "👩‍👩‍👧‍👦".repeat(6)));
        let flags = fit(&"🇩🇪".repeat(40), "", 1);
        assert_eq!(flags, format!("{}...", "🇩🇪".repeat(16)));
        // One cluster that is longer than all segments.
        assert_eq!(fit(&format!("e{}", "\u{301}".repeat(300)), "", 3), "...");
        assert_eq!(fit("hello", LINK, 1), format!("hello{LINK}"));
        // The link does not fit.
        let link = format!(" https://{}.example", "x".repeat(200));
        assert_eq!(fit("hello", &link, 1), "hello");
        assert_eq!(
            fit(&"a".repeat(161), &link, 1),
            format!("{}...", "a".repeat(157))
        );
    }

    proptest! {
        #[test]
        fn never_more_than_the_segments_allowed(
            text in prop_oneof![
                "(a|[a-z ]{0,40}|€|\\[|ä|я|漢|👍🏽|👩‍👧|🇩🇪|e\u{301}|\\PC){0,90}",
                "[a-z€ ]{0,700}",
                "[a-zя👍 ]{0,300}",
            ],
            end in prop_oneof![Just(String::new()), " https://[a-z]{1,60}", " https://[я€a]{1,90}"],
            most in 1_usize..=10,
        ) {
            let sent = fit(&text, &end, most);
            prop_assert!(count(&sent) <= most);
            let whole = format!("{text}{end}");
            if count(&whole) <= most {
                prop_assert_eq!(sent, whole);
            } else {
                let end = if count(&format!("{CUT}{end}")) <= most { end } else { String::new() };
                let kept = sent.strip_suffix(end.as_str()).unwrap();
                if kept != text {
                    let kept = kept.strip_suffix(CUT).unwrap();
                    let rest = text.strip_prefix(kept).unwrap();
                    let at = text.len() - rest.trim_start().len();
                    let mut ends = text.grapheme_indices(true).map(|(at, _)| at);
                    prop_assert!(ends.any(|end| (kept.len()..=at).contains(&end)));
                    // The cut is as late as it can be.
                    let longer = text.grapheme_indices(true).map(|(at, _)| at).find(|end| *end > at);
                    if let Some(longer) = longer {
                        let longer = format!("{}{CUT}{end}", &text[..longer]);
                        prop_assert!(count(&longer) > most, "{} fits as well", longer);
                    }
                }
            }
        }
    }
}
