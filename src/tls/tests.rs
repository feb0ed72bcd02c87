//! Pairs that are valid, and every reason for which one is not.

use chrono::{Days, TimeDelta};
use rcgen::{CertificateParams, KeyPair};

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("chat-tls-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        Dir(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A certificate of 2026 and its key, as PEM.
fn made() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["chat.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn a_pair_is_valid_in_its_period() {
    let dir = Dir::new();
    let (cert, key) = made();
    let files = Files {
        cert: dir.write("cert", &cert),
        key: dir.write("key", &key),
    };
    let expires = at("2027-01-01T00:00:00Z");
    let pair = files.load_at(expires).unwrap();
    assert_eq!(pair.expires, expires);
    assert_eq!(pair.config.alpn_protocols, [b"http/1.1".to_vec()]);
    let late = files.load_at(expires + TimeDelta::seconds(1));
    let reason = late.err().unwrap();
    assert_eq!(reason.setting, Setting::Cert);
    assert!(
        reason
            .reason
            .ends_with("cert expired on 2027-01-01T00:00:00Z"),
        "{reason}"
    );
    let early = files.load_at(expires - Days::new(366)).err().unwrap();
    assert!(
        early
            .reason
            .contains("is not valid before 2026-01-01T00:00:00Z"),
        "{early}"
    );
    // The chain expires with its first certificate to expire.
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 12, 1);
    let intermediate = params.self_signed(&key).unwrap().pem();
    let chained = Files {
        cert: dir.write("chain", &format!("{cert}{intermediate}")),
        ..files
    };
    let pair = chained.load_at(at("2026-11-01T00:00:00Z")).unwrap();
    assert_eq!(pair.expires, at("2026-12-01T00:00:00Z"));
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let dir = Dir::new();
    let (cert, key) = made();
    let (_, other) = made();
    let now = at("2026-06-01T00:00:00Z");
    let missing = dir.0.join("missing");
    let sealed =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cert_file = dir.write("good-cert", &cert);
    let key_file = dir.write("good-key", &key);
    let large = "x".repeat(LARGEST as usize + 1);
    for (setting, file, reason) in [
        (
            Setting::Cert,
            missing.clone(),
            "cannot be read: No such file",
        ),
        (Setting::Cert, dir.0.clone(), "is not a file"),
        (
            Setting::Cert,
            dir.write("a", ""),
            "contains no certificate in PEM",
        ),
        (
            Setting::Cert,
            key_file.clone(),
            "contains no certificate in PEM",
        ),
        (Setting::Cert, dir.write("b", broken), "cannot be read"),
        (
            Setting::Cert,
            dir.write("c", &cert[..200]),
            "is not valid PEM",
        ),
        (Setting::Cert, dir.write("d", &large), "has more than"),
        (Setting::Key, missing, "cannot be read: No such file"),
        (
            Setting::Key,
            dir.write("e", ""),
            "contains no private key in PEM",
        ),
        (
            Setting::Key,
            dir.write("f", sealed),
            "contains no private key in PEM",
        ),
        (Setting::Key, dir.write("g", &key[..60]), "is not valid PEM"),
        (
            Setting::Key,
            dir.write("h", &other),
            "is not the key of the certificate",
        ),
    ] {
        let files = match setting {
            Setting::Cert => Files {
                cert: file,
                key: key_file.clone(),
            },
            Setting::Key => Files {
                cert: cert_file.clone(),
                key: file,
            },
        };
        let found = files.load_at(now).err().expect(reason);
        assert_eq!(found.setting, setting, "{found}");
        assert!(found.reason.contains(reason), "{found}: {reason}");
    }
}
