//! What the fields of requests may hold. Every wrong field is named, not just the first.

use crate::{
    error::{Code, Error, Result},
    model::derived_id,
    protocol::check_text,
};

/// The shortest and the longest password, in bytes. NIST SP 800-63B asks for at least 8.
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=256;
/// The longest display name, in characters.
const MAX_DISPLAY_NAME: usize = 64;
/// The longest e-mail address (RFC 5321 section 4.5.3.1.3, without the angle brackets).
const MAX_EMAIL: usize = 254;
/// The longest room name, in bytes.
const MAX_ROOM_NAME: usize = 128;
/// The longest idempotency key, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 128;

/// All checks at once: none failed, the one that failed, or one error that names all the fields.
pub fn all<const N: usize>(checks: [Result<()>; N]) -> Result<()> {
    let mut failed: Vec<Error> = checks.into_iter().filter_map(Result::err).collect();
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.remove(0)),
        count => Err(Error {
            fields: failed.into_iter().flat_map(|error| error.fields).collect(),
            ..Error::new(
                Code::Invalid,
                format!("{count} fields are wrong; `errors` names each"),
            )
        }),
    }
}

/// `^[A-Za-z0-9_][A-Za-z0-9_.-]{1,31}$`
pub fn username(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = (2..=32).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '.' || c == '-');
    if good {
        return Ok(());
    }
    Err(Error::field(
        "username",
        "must be 2 to 32 of the characters A-Z a-z 0-9 _ . - and begin with none of . and -",
    ))
}

pub fn password(password: &str) -> Result<()> {
    if PASSWORD.contains(&password.len()) {
        return Ok(());
    }
    Err(Error::field(
        "password",
        format!(
            "must be {} to {} bytes long",
            PASSWORD.start(),
            PASSWORD.end()
        ),
    ))
}

pub fn display_name(name: &str) -> Result<()> {
    let good = !name.trim().is_empty()
        && name.chars().count() <= MAX_DISPLAY_NAME
        && !name.chars().any(char::is_control);
    if good {
        return Ok(());
    }
    Err(Error::field(
        "displayName",
        format!(
            "must be 1 to {MAX_DISPLAY_NAME} characters, not all of them spaces, and none a control character"
        ),
    ))
}

/// Light: whether mail arrives is found out by sending some.
pub fn email(address: &str) -> Result<()> {
    let good = address.len() <= MAX_EMAIL
        && !address.contains(|c: char| c.is_whitespace() || c.is_control())
        && address.rsplit_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !user.contains('@')
        });
    if good {
        return Ok(());
    }
    Err(Error::field(
        "email",
        "must be an e-mail address, such as someone@example.com",
    ))
}

/// E.164: `+`, the country's digits, and at most 15 digits in all.
pub fn phone(number: &str) -> Result<()> {
    let good = number.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|b| b.is_ascii_digit())
    });
    if good {
        return Ok(());
    }
    Err(Error::field(
        "phone",
        "must be in international form, such as +4915112345678 (E.164)",
    ))
}

/// The name of a room that has one.
pub fn room_name(name: &str) -> Result<()> {
    check_text("name", name, 1, MAX_ROOM_NAME)?;
    if name.trim().is_empty() {
        return Err(Error::field("name", "must not be all spaces"));
    }
    Ok(())
}

/// 1 to 128 visible ASCII characters.
pub fn idempotency_key(key: Option<&str>) -> Result<()> {
    match key {
        Some(key)
            if !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())
                || !key.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Err(Error::field(
                "Idempotency-Key",
                format!("must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters"),
            ))
        }
        _ => Ok(()),
    }
}

/// The id of something that `user` makes: the same for the same key, so that a repeat finds what the first one made.
pub fn id_for(kind: &str, user: crate::model::UserId, key: Option<&str>) -> uuid::Uuid {
    match key {
        Some(key) => derived_id(kind, &[user.as_bytes(), key.as_bytes()]),
        None => crate::model::new_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names() {
        for good in [
            "ab",
            "_a",
            "Ada.Lovelace-1815",
            "0123456789abcdef0123456789abcdef",
        ] {
            username(good).unwrap();
        }
        for bad in [
            "",
            "a",
            ".a",
            "-a",
            "a b",
            "ä1",
            "a\0b",
            "0123456789abcdef0123456789abcdef0",
            "a@b",
        ] {
            assert!(username(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses() {
        for good in ["a@b", "first.last+tag@example.com"] {
            email(good).unwrap();
        }
        for bad in ["", "@b", "a@", "a b@c", "a@b@c", "a\r\nBcc: x@y"] {
            assert!(email(bad).is_err(), "{bad:?}");
        }
        phone("+4915112345678").unwrap();
        for bad in [
            "",
            "015112345678",
            "+0151123456",
            "+49 151",
            "+1234567890123456",
        ] {
            assert!(phone(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lengths() {
        password("12345678").unwrap();
        assert!(password("1234567").is_err());
        assert!(password(&"x".repeat(257)).is_err());
        display_name(&"ä".repeat(64)).unwrap();
        assert!(display_name(&"ä".repeat(65)).is_err());
        assert!(display_name("  ").is_err());
        assert!(room_name(" ").is_err());
        assert!(idempotency_key(Some("")).is_err());
        assert!(idempotency_key(Some("a b")).is_err());
        idempotency_key(Some("550e8400-e29b-41d4-a716-446655440000")).unwrap();
    }

    #[test]
    fn every_wrong_field_is_named() {
        let error = all([username("?"), Ok(()), password("short")]).unwrap_err();
        let names: Vec<_> = error.fields.iter().map(|f| f.field.as_str()).collect();
        assert_eq!(names, ["username", "password"]);
        assert_eq!(all([username("?")]).unwrap_err().fields.len(), 1);
    }

    #[test]
    fn a_key_names_one_thing_for_each_user() {
        let (a, b) = (crate::model::new_id(), crate::model::new_id());
        assert_eq!(id_for("room", a, Some("k")), id_for("room", a, Some("k")));
        assert_ne!(id_for("room", a, Some("k")), id_for("room", b, Some("k")));
        assert_ne!(id_for("room", a, None), id_for("room", a, None));
    }
}
