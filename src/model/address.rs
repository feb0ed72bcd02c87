//! Notification addresses: e-mail addresses and phone numbers, parsed once on input. Sending, suppression and rate
//! limiting take these types, so nothing is sent to an unparsed address, and no address contains a line break, bracket,
//! comma or other character that a mail header or a form could interpret as structure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::channel::ChannelKind;

/// Maximum length of an e-mail address in bytes (RFC 5321 section 4.5.3.1.3, without the angle brackets).
const MAX_EMAIL: usize = 254;
/// Maximum length of the local part in bytes (RFC 5321 section 4.5.3.1.1).
const MAX_LOCAL: usize = 64;
/// Number of digits of an E.164 number, including the country code. No country has numbers shorter than 7.
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// A plain `local@domain`, as accepted by a browser's `<input type=email>` (WHATWG HTML, section 4.10.5.1.5) and valid
/// in SMTP without quotes (RFC 5321 `Dot-string`). No display names, comments, quotes, brackets or address literals.
/// The domain is stored in lower case and as A-labels (RFC 5891), the local part as written.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress {
    text: String,
    /// Byte offset of the `@`.
    at: usize,
}

impl EmailAddress {
    /// `None` if the text is not a valid address.
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&byte);
        let atom = |atom: &str| !atom.is_empty() && atom.bytes().all(plain);
        if local.len() > MAX_LOCAL || !local.split('.').all(atom) {
            return None;
        }
        let domain = domain_to_ascii(domain)?;
        let text = format!("{local}@{domain}");
        (text.len() <= MAX_EMAIL).then_some(EmailAddress {
            at: local.len(),
            text,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// In lower case, as A-labels.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// Equal for addresses of the same mailbox: local parts are compared without case, since no common provider
    /// distinguishes them by case, although RFC 5321 permits it.
    pub fn key(&self) -> String {
        self.text.to_ascii_lowercase()
    }
}

/// Lower-case A-labels of a domain whose labels are 1 to 63 of `a-z 0-9 -` without a hyphen at either end.
fn domain_to_ascii(domain: &str) -> Option<String> {
    // UTS #46 maps several characters to a dot; only the ASCII one is accepted here.
    let typed = |c: char| c.is_alphanumeric() || c == '-' || c == '.' || is_mark(c);
    if !domain.chars().all(typed) {
        return None;
    }
    let domain = idna::domain_to_ascii_strict(domain).ok()?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    domain.split('.').all(label).then_some(domain)
}

fn is_mark(c: char) -> bool {
    unicode_normalization::char::is_combining_mark(c)
}

/// A phone number in international form: `+`, country code, at most 15 digits in total (ITU-T E.164).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PhoneNumber(String);

impl PhoneNumber {
    /// `None` if the text is not a valid number.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('+')?;
        let good = PHONE_DIGITS.contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| PhoneNumber(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The address of one channel.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub enum Address {
    Email(EmailAddress),
    Phone(PhoneNumber),
}

impl Address {
    /// Parses an address from the store or a provider, which may predate the grammar; nothing is sent to one that
    /// returns `None`.
    pub fn parse(channel: ChannelKind, text: &str) -> Option<Self> {
        match channel {
            ChannelKind::Email => EmailAddress::parse(text).map(Address::Email),
            ChannelKind::Sms => PhoneNumber::parse(text).map(Address::Phone),
        }
    }

    pub fn channel(&self) -> ChannelKind {
        match self {
            Address::Email(_) => ChannelKind::Email,
            Address::Phone(_) => ChannelKind::Sms,
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Address::Email(address) => address.as_str(),
            Address::Phone(number) => number.as_str(),
        }
    }

    /// The key for suppressions and rate limits; see [`EmailAddress::key`].
    pub fn key(&self) -> String {
        match self {
            Address::Email(address) => address.key(),
            Address::Phone(number) => number.as_str().to_owned(),
        }
    }

    /// The key of suppressions that were stored before addresses were parsed: lower case, the domain as typed.
    pub fn old_key(&self) -> String {
        match self {
            Address::Email(address) => {
                let (domain, _) = idna::domain_to_unicode(address.domain());
                format!("{}@{domain}", address.local()).to_lowercase()
            }
            Address::Phone(_) => self.key(),
        }
    }
}

/// The form of an address in queued commands.
#[derive(Serialize, Deserialize)]
struct Wire {
    channel: ChannelKind,
    address: String,
}

impl From<Address> for Wire {
    fn from(address: Address) -> Self {
        Wire {
            channel: address.channel(),
            address: address.as_str().to_owned(),
        }
    }
}

impl TryFrom<Wire> for Address {
    type Error = NotAnAddress;

    fn try_from(wire: Wire) -> Result<Self, NotAnAddress> {
        Address::parse(wire.channel, &wire.address).ok_or(NotAnAddress)
    }
}

/// The text is not a valid address. The text itself is omitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address that anything can be sent to")
    }
}

impl std::error::Error for NotAnAddress {}

macro_rules! text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = NotAnAddress;

            fn try_from(text: String) -> Result<Self, NotAnAddress> {
                Self::parse(&text).ok_or(NotAnAddress)
            }
        }

        impl From<$type> for String {
            fn from(address: $type) -> String {
                address.as_str().to_owned()
            }
        }

        redacted!($type);
    };
}

/// Addresses are personal data: `Debug` omits them, so that they stay out of logs.
macro_rules! redacted {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), "(…)"))
            }
        }
    };
}

text!(EmailAddress);
text!(PhoneNumber);
redacted!(Address);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn email(text: &str) -> Option<String> {
        EmailAddress::parse(text).map(String::from)
    }

    #[test]
    fn plain_addresses_are_taken_and_their_domains_normalised() {
        for (text, kept) in [
            ("a@b", "a@b"),
            ("first.last+tag@example.com", "first.last+tag@example.com"),
            ("O'Brien@Example.COM", "O'Brien@example.com"),
            ("a@bücher.example", "a@xn--bcher-kva.example"),
            ("a@BÜCHER.example", "a@xn--bcher-kva.example"),
            ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
            ("!#$%&'*+/=?^_`{|}~-@x.y", "!#$%&'*+/=?^_`{|}~-@x.y"),
        ] {
            assert_eq!(email(text).as_deref(), Some(kept), "{text}");
        }
        let long = format!("{}@x", "a".repeat(64));
        assert!(email(&long).is_some());
        let domain = ["b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
        assert!(email(&format!("{}@{domain}", "a".repeat(64))).is_none());
        let domain = &domain[..domain.len() - 1];
        let local = "a".repeat(MAX_LOCAL);
        assert_eq!(local.len() + 1 + domain.len(), MAX_EMAIL);
        assert!(email(&format!("{local}@{domain}")).is_some());
    }

    #[test]
    fn malformed_addresses_are_refused() {
        let long = format!("{}@x", "a".repeat(65));
        let label = format!("a@{}.com", "b".repeat(64));
        for text in [
            "",
            "@",
            "@b",
            "a@",
            "a b@c",
            "a@b@c",
            "a@b ",
            " a@b",
            "x<gone@example.com>",
            "<gone@example.com>",
            "Gone <gone@example.com>",
            "gone@example.com>",
            "(comment)a@b",
            "a(comment)@b",
            "\"a b\"@c",
            "\"a\"@c",
            "a@[127.0.0.1]",
            "a@b,c@d",
            "a@b;c@d",
            "a@b\r\nBcc: x@y",
            "a\n@b",
            "a@b\0",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a@b..c",
            "a@.b",
            "a@b.",
            "a@-b",
            "a@b-",
            "a@b_c",
            "a@b。c",
            "a@b\u{200b}c",
            "a@b\u{ad}c",
            "ä@example.com",
            "a@xn--a",
            "mailto:a@b@c",
            &long,
            &label,
        ] {
            assert_eq!(email(text), None, "{text:?}");
        }
    }

    #[test]
    fn keys_ignore_case_and_old_keys_are_found() {
        let key = |text: &str| EmailAddress::parse(text).unwrap().key();
        assert_eq!(key("Ada@Example.com"), key("ada@EXAMPLE.COM"));
        assert_ne!(key("ada+1@example.com"), key("ada@example.com"));
        let old = |text: &str| Address::parse(ChannelKind::Email, text).unwrap().old_key();
        assert_eq!(old("Ada@Bücher.example"), "ada@bücher.example");
        assert_eq!(old("Ada@Example.com"), "ada@example.com");
    }

    #[test]
    fn phone_numbers() {
        for good in ["+4915112345678", "+1234567", "+123456789012345"] {
            assert!(PhoneNumber::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "+",
            "015112345678",
            "+0151123456",
            "+49 151123",
            "+123456",
            "+1234567890123456",
            "+١٢٣٤٥٦٧٨",
            "+4915112345678\n",
            "whatsapp:+4915112345678",
        ] {
            assert!(PhoneNumber::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_not_shown_by_debug() {
        let address = Address::parse(ChannelKind::Email, "ada@example.com").unwrap();
        let Address::Email(inner) = &address else {
            unreachable!("it was parsed as one");
        };
        assert_eq!(
            format!("{address:?} {inner:?}"),
            "Address(…) EmailAddress(…)"
        );
    }

    #[test]
    fn the_wire_has_channel_and_address_and_refuses_others() {
        let json = r#"{"channel":"sms","address":"+4915112345678"}"#;
        let address: Address = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&address).unwrap(), json);
        let crossed = r#"{"channel":"email","address":"+4915112345678"}"#;
        assert!(serde_json::from_str::<Address>(crossed).is_err());
    }

    proptest! {
        #[test]
        fn accepted_addresses_parse_again(text in "[ -~]{0,12}@?[ -~äß。]{0,12}") {
            if let Some(address) = EmailAddress::parse(&text) {
                prop_assert!(address.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(!address.as_str().contains(['<', '>', '"', '(', ')', ',', ';', ':', '\\', '[', ']']));
                prop_assert_eq!(address.as_str().matches('@').count(), 1);
                prop_assert_eq!(EmailAddress::parse(address.as_str()), Some(address.clone()));
                let key = address.key();
                prop_assert_eq!(EmailAddress::parse(&key).map(|again| again.key()), Some(key));
            }
        }
    }
}
