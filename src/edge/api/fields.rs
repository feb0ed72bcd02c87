//! Validation of request fields. All invalid fields are reported, not only the first.

use crate::{
    edge::auth::common,
    error::{Code, Error, Result},
    model::{
        address::{EmailAddress, PhoneNumber},
        derived_id, text,
        username::{MAX_LENGTH, is_reserved, is_username},
    },
    protocol::check_text,
};

/// Shortest and longest password in bytes. NIST SP 800-63B requires a minimum of 8.
const PASSWORD: std::ops::RangeInclusive<usize> = 8..=256;
/// The longest display name in characters.
const MAX_DISPLAY_NAME: usize = 64;
/// The longest room name in bytes.
const MAX_ROOM_NAME: usize = 128;
/// The longest idempotency key in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 128;

/// Combines checks: `Ok`, the only failure, or one error that lists all invalid fields.
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

/// Checks the syntax of a user name, see [`is_username`].
pub fn username(name: &str) -> Result<()> {
    if is_username(name) {
        return Ok(());
    }
    Err(Error::field(
        "username",
        format!(
            "must be 2 to {MAX_LENGTH} of the characters A-Z a-z 0-9 _ . - [ ] {{ }} | ^ and must begin with a letter, \
             a digit or _"
        ),
    ))
}

/// Checks the name of a new account. Accounts that have a reserved name already keep it.
pub fn new_username(name: &str) -> Result<()> {
    username(name)?;
    if is_reserved(name) {
        return Err(Error::field(
            "username",
            "must not be all, here, everyone, admin or system, nor look like one of them; choose another",
        ));
    }
    Ok(())
}

/// Checks a new password. `own` are the account's names and addresses, as far as they are set.
pub fn new_password(field: &str, password: &str, own: &[Option<&str>]) -> Result<()> {
    if !PASSWORD.contains(&password.len()) {
        return Err(Error::field(
            field,
            format!(
                "must be {} to {} bytes long",
                PASSWORD.start(),
                PASSWORD.end()
            ),
        ));
    }
    if common::is_common(password) {
        return Err(Error::field(
            field,
            "is too common and easily guessed; choose another, such as three or four unrelated words",
        ));
    }
    if common::is_own(password, own.iter().copied().flatten()) {
        return Err(Error::field(
            field,
            "must not be the account's name or address; choose another",
        ));
    }
    Ok(())
}

/// Normalizes a display name in place (see [`text::label`]) and checks its length.
pub fn display_name(name: Option<&mut String>) -> Result<()> {
    let Some(name) = name else {
        return Ok(());
    };
    label("displayName", name)?;
    if name.chars().count() <= MAX_DISPLAY_NAME {
        return Ok(());
    }
    Err(Error::field(
        "displayName",
        format!("must be at most {MAX_DISPLAY_NAME} characters long"),
    ))
}

fn label(field: &str, name: &mut String) -> Result<()> {
    *name = text::label(name).map_err(|unfit| Error::field(field, unfit.0))?;
    Ok(())
}

/// Checks an e-mail address and normalizes it in place. Whether it receives mail is verified by a code.
pub fn email(address: Option<&mut String>) -> Result<()> {
    let Some(address) = address else {
        return Ok(());
    };
    let Some(parsed) = EmailAddress::parse(address) else {
        return Err(Error::field(
            "email",
            "must be a plain e-mail address, such as someone@example.com",
        ));
    };
    *address = parsed.into();
    Ok(())
}

pub fn phone(number: Option<&mut String>) -> Result<()> {
    match number {
        Some(number) if PhoneNumber::parse(number).is_none() => Err(Error::field(
            "phone",
            "must be in international form, such as +4915112345678 (E.164)",
        )),
        _ => Ok(()),
    }
}

/// Normalizes a room name in place (see [`text::label`]) and checks its length.
pub fn room_name(name: &mut String) -> Result<()> {
    check_text("name", name, 1, MAX_ROOM_NAME)?;
    label("name", name)?;
    // Normalization can lengthen a name.
    check_text("name", name, 1, MAX_ROOM_NAME)
}

/// Checks that the key is 1 to 128 visible ASCII characters.
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

/// The id of a new resource of `user`. The same idempotency key yields the same id, so a repeat finds the existing
/// resource.
pub fn id_for(kind: &str, user: crate::model::UserId, key: Option<&str>) -> uuid::Uuid {
    match key {
        Some(key) => derived_id(kind, &[user.as_bytes(), key.as_bytes()]),
        None => crate::model::new_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(password: &str, own: &[Option<&str>]) -> Result<()> {
        new_password("password", password, own)
    }

    #[test]
    fn user_names() {
        for good in [
            "ab",
            "_a",
            "Ada.Lovelace-1815",
            "0123456789abcdef0123456789abcdef",
            "John[1]",
            &"x".repeat(64),
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
            &"x".repeat(65),
            "a@b",
        ] {
            assert!(username(bad).is_err(), "{bad:?}");
        }
        for reserved in ["admin", "AII", "every0ne"] {
            username(reserved).unwrap();
            let refused = new_username(reserved).unwrap_err();
            assert_eq!(refused.fields[0].field, "username");
        }
        new_username("John[1]").unwrap();
        assert!(new_username("a b").is_err());
    }

    #[test]
    fn addresses() {
        let mut address = "Ada@BÜCHER.example".to_owned();
        email(Some(&mut address)).unwrap();
        assert_eq!(address, "Ada@xn--bcher-kva.example");
        email(None).unwrap();
        for bad in ["", "x<gone@example.com>", "a\r\nBcc: x@y"] {
            assert!(email(Some(&mut bad.to_owned())).is_err(), "{bad:?}");
        }
        phone(Some(&mut "+4915112345678".to_owned())).unwrap();
        phone(None).unwrap();
        assert!(phone(Some(&mut "+49 151".to_owned())).is_err());
    }

    #[test]
    fn lengths() {
        password("1234567€", &[]).unwrap();
        password("8 bytes!", &[]).unwrap();
        assert!(password("7 bytes", &[]).is_err());
        password(&"x".repeat(256), &[]).unwrap();
        assert!(password(&"x".repeat(257), &[]).is_err());
        display_name(Some(&mut "ä".repeat(64))).unwrap();
        assert!(display_name(Some(&mut "ä".repeat(65))).is_err());
        assert!(display_name(Some(&mut "  ".to_owned())).is_err());
        display_name(None).unwrap();
        room_name(&mut "x".repeat(128)).unwrap();
        assert!(room_name(&mut "x".repeat(129)).is_err());
        // Normalization turns these three bytes into six.
        assert!(room_name(&mut "\u{FB2C}".repeat(40)).is_err());
        for bad in ["", " ", "a\u{202E}b"] {
            assert!(room_name(&mut bad.to_owned()).is_err(), "{bad:?}");
        }
        let mut name = "A\u{30A}".to_owned();
        room_name(&mut name).unwrap();
        assert_eq!(name, "Å");
        assert!(idempotency_key(Some("")).is_err());
        assert!(idempotency_key(Some("a b")).is_err());
        idempotency_key(Some("550e8400-e29b-41d4-a716-446655440000")).unwrap();
    }

    #[test]
    fn passwords_that_are_guessed_first() {
        for bad in [
            "password",
            "12345678",
            "PASSWORD",
            "Ada-Lovelace",
            "countess",
        ] {
            let own = [Some("ada-lovelace"), None, Some("countess@example.com")];
            let refused = password(bad, &own).unwrap_err();
            assert!(refused.message.contains("choose another"), "{bad}");
        }
        password("correct horse", &[Some("ada-lovelace"), None]).unwrap();
    }

    #[test]
    fn every_wrong_field_is_named() {
        let error = all([username("?"), Ok(()), password("short", &[])]).unwrap_err();
        let names: Vec<_> = error.fields.iter().map(|f| f.field.as_str()).collect();
        assert_eq!(names, ["username", "password"]);
        assert_eq!(all([username("?")]).unwrap_err().fields.len(), 1);
    }

    #[test]
    fn an_idempotency_key_gives_one_id_per_user() {
        let (a, b) = (crate::model::new_id(), crate::model::new_id());
        assert_eq!(id_for("room", a, Some("k")), id_for("room", a, Some("k")));
        assert_ne!(id_for("room", a, Some("k")), id_for("room", b, Some("k")));
        assert_ne!(id_for("room", a, None), id_for("room", a, None));
    }
}
