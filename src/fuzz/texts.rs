//! Addresses, names, reactions and metadata.

use crate::model::{
    ClientMetadata,
    address::{EmailAddress, PhoneNumber},
    metadata::MAX_METADATA,
    text::{self, emoji},
    username,
};

/// A parsed address contains no delimiters and parses to itself.
pub fn addresses(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(address) = EmailAddress::parse(&text) {
        let kept = address.as_str();
        assert!(kept.len() <= 254 && kept.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!kept.contains(['<', '>', '"', '(', ')', ',', ';', ':', '\\', '[', ']']));
        assert_eq!(EmailAddress::parse(kept).as_ref(), Some(&address));
        let key = EmailAddress::parse(&address.key()).expect("a key is an address");
        assert_eq!(key.key(), address.key());
        assert!(lettre::Address::new(address.local(), address.domain()).is_ok());
    }
    if let Some(number) = PhoneNumber::parse(&text) {
        assert_eq!(number.as_str(), text);
        assert!(
            text.len() <= 16
                && text
                    .bytes()
                    .all(|byte| byte == b'+' || byte.is_ascii_digit())
        );
    }
}

/// A name is one visible line and its own normal form; a reaction has no reordered or hidden text, and all spellings of
/// it are one; a skeleton is its own skeleton.
pub fn names(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(kept) = text::label(&text) {
        assert!(!kept.chars().any(char::is_control) && !kept.trim().is_empty());
        assert_eq!(text::one_line(&kept), kept);
        assert_eq!(text::label(&kept).as_ref(), Ok(&kept));
    }
    if let Some(length) = emoji::prefix(&text) {
        assert!(emoji::is_reaction(&text[..length]));
    }
    if emoji::is_reaction(&text) {
        assert!(text::label(&text).is_ok());
        let (key, shown) = (emoji::key(&text), emoji::qualified(&text));
        assert!(emoji::is_reaction(&key) && emoji::is_reaction(&shown));
        assert_eq!(emoji::key(&shown), key);
        assert_eq!(emoji::qualified(&key), shown);
    }
    if username::is_username(&text) {
        let skeleton = username::skeleton(&text);
        assert_eq!(username::skeleton(&skeleton), skeleton);
        assert_eq!(
            username::skeleton(&text.replace('I', "l").to_lowercase()),
            skeleton
        );
    }
}

/// Accepted metadata is short, one line, and is accepted again unchanged.
pub fn metadata(input: &[u8]) {
    let Ok(sent) = serde_json::from_slice::<ClientMetadata>(input) else {
        return;
    };
    if let Ok(kept) = sent.check() {
        let json = kept.as_json();
        // JSON escapes the control characters below U+0020 (RFC 8259 section 7), those from U+007F on stand for
        // themselves.
        assert!(json.len() <= MAX_METADATA && json.bytes().all(|byte| byte >= b' '));
        let again = serde_json::from_str::<ClientMetadata>(json).map(ClientMetadata::check);
        assert_eq!(
            again.expect("it is JSON").expect("it was good").as_json(),
            json
        );
    }
}
