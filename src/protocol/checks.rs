//! Checks of request fields that REST and sockets share.

use crate::{
    error::{Code, Error, Result},
    model::text::emoji::is_reaction,
};

/// Maximum length of `clientMsgId` in bytes.
pub const MAX_CLIENT_MSG_ID: usize = 128;
/// Maximum length of a reaction in bytes; longer than any emoji sequence.
pub const MAX_EMOJI: usize = 64;
/// Maximum messages or events per page.
pub const MAX_PAGE: u32 = 200;
/// Page size if the request has no `limit`.
pub const DEFAULT_PAGE: u32 = 50;

/// Checks a message body: 1 to `max` bytes, no U+0000 (PostgreSQL cannot store it).
pub fn check_body(body: &str, max: usize) -> Result<()> {
    check_text("body", body, 1, max)
}

/// Checks a `clientMsgId`: 1 to [`MAX_CLIENT_MSG_ID`] bytes, no U+0000.
pub fn check_client_msg_id(id: &str) -> Result<()> {
    check_text("clientMsgId", id, 1, MAX_CLIENT_MSG_ID)
}

/// Checks a new reaction: one emoji or a short plain word. One that is being removed may predate that rule.
pub fn check_reaction(emoji: &str, on: bool) -> Result<()> {
    check_text("emoji", emoji, 1, MAX_EMOJI)?;
    if !on || is_reaction(emoji) {
        return Ok(());
    }
    Err(Error::field(
        "emoji",
        "must be one emoji, or a word of 1 to 32 of the characters a-z 0-9 _ + - such as thumbsup",
    ))
}

/// Checks a text: `min..=max` bytes, no U+0000.
pub fn check_text(field: &str, text: &str, min: usize, max: usize) -> Result<()> {
    if text.len() < min {
        return Err(Error::field(field, "must not be empty"));
    }
    if text.len() > max {
        return Err(too_long(field, text.len(), max));
    }
    if text.contains('\0') {
        return Err(Error::field(field, "must not contain the character U+0000"));
    }
    Ok(())
}

fn too_long(field: &str, len: usize, max: usize) -> Error {
    let message = format!("is {len} bytes long; at most {max} are allowed");
    Error {
        code: Code::TooLarge,
        ..Error::field(field, message)
    }
}

/// Checks a page size: an excessive one is an error, it is not reduced.
pub fn check_limit(limit: Option<u32>) -> Result<u32> {
    match limit {
        None => Ok(DEFAULT_PAGE),
        Some(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        Some(limit) => Err(Error::field(
            "limit",
            format!("{limit} is out of range; allowed: 1 to {MAX_PAGE}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reaction_is_one_emoji_or_one_word() {
        for good in [
            "👍",
            "👍\u{FE0F}",
            "❤",
            "❤\u{FE0F}",
            "👍🏽",
            "👩‍❤️‍💋‍👨",
            "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
            "🇩🇪",
            "1️⃣",
            "thumbsup",
            "+1",
        ] {
            check_reaction(good, true).unwrap();
            check_reaction(good, false).unwrap();
        }
        for bad in [
            " ",
            "\u{200B}",
            "\u{3164}",
            "\u{00AD}",
            "\u{FE0F}",
            "\u{FE0F}\u{FE0F}",
            "👍\u{FE0F}\u{FE0F}",
            "👍\u{FE0E}",
            "👍\u{200B}",
            "a sentence",
            "This is a sentence.",
            "<img src=x>",
            "<img src=x onerror=alert(1)>",
            "👍👍👍👍",
            "👍 👍",
            "❤❤",
            "❤\u{FE0F}❤\u{FE0F}",
            "\n",
            "漢",
        ] {
            let refused = check_reaction(bad, true).unwrap_err();
            assert_eq!(refused.code, Code::Invalid, "{bad:?}");
            assert_eq!(refused.fields[0].field, "emoji", "{bad:?}");
            // It may have been stored before the rule existed.
            check_reaction(bad, false).unwrap();
        }
        let long = "x".repeat(MAX_EMOJI + 1);
        for (bad, code) in [
            ("", Code::Invalid),
            ("a\0", Code::Invalid),
            (&long, Code::TooLarge),
        ] {
            for on in [true, false] {
                assert_eq!(check_reaction(bad, on).unwrap_err().code, code, "{bad:?}");
            }
        }
    }
}
