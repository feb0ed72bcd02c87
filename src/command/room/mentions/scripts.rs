//! Which characters continue a word. Letters of scripts without spaces between words do not, so a mention may be
//! directly between such letters.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// A letter, a digit or `_`, except of a script without spaces between words.
pub(super) fn is_word(c: char) -> bool {
    (c.is_alphanumeric() || c == '_') && !is_spaceless(c)
}

/// Whether the text begins with a character that continues a word, combining marks included.
pub(super) fn joins_word(text: &str) -> bool {
    match text.chars().next() {
        None | Some('\u{FE0E}' | '\u{FE0F}' | '\u{20E3}') => false,
        Some(c) if is_mark(c) => !is_spaceless(c),
        Some(c) => is_word(c),
    }
}

/// Belongs to the character before it: a combining mark or a joiner.
pub(super) fn attaches(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}') || is_mark(c)
}

fn is_mark(c: char) -> bool {
    !c.is_ascii() && c.general_category_group() == GeneralCategoryGroup::Mark
}

/// Blocks whose letters allow a line break without a space: the classes ID, CJ, SA, H2, H3, JL, JV and JT of UAX #14.
/// This includes Hangul, whose particles follow a Latin name directly.
fn is_spaceless(c: char) -> bool {
    matches!(c,
        // Thai, Lao, Tibetan, Myanmar.
        '\u{0E00}'..='\u{0FFF}' | '\u{1000}'..='\u{109F}'
        // Hangul letters, Khmer, Tai Le, New Tai Lue, Khmer symbols, Tai Tham, Balinese.
        | '\u{1100}'..='\u{11FF}' | '\u{1780}'..='\u{17FF}' | '\u{1950}'..='\u{19FF}'
        | '\u{1A20}'..='\u{1AAF}' | '\u{1B00}'..='\u{1B7F}'
        // Radicals, ideographic marks and numbers, Hiragana, Katakana, Bopomofo, Hangul letters, Han, Yi.
        | '\u{2E80}'..='\u{2FDF}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}'
        | '\u{3031}'..='\u{3035}' | '\u{3038}'..='\u{303C}' | '\u{3041}'..='\u{31FF}'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{A4CF}'
        // More Hangul letters, Javanese, more Myanmar, Tai Viet, Hangul syllables.
        | '\u{A960}'..='\u{A97F}' | '\u{A980}'..='\u{A9FF}' | '\u{AA60}'..='\u{AADF}'
        | '\u{AC00}'..='\u{D7FF}'
        // Compatibility ideographs, half-width Katakana and Hangul.
        | '\u{F900}'..='\u{FAFF}' | '\u{FF66}'..='\u{FFDC}'
        // Tangut, Khitan, historic Kana, the supplementary ideographic planes.
        | '\u{16FE0}'..='\u{18DFF}' | '\u{1AFF0}'..='\u{1B2FF}' | '\u{20000}'..='\u{3FFFD}')
}
