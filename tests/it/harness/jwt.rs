//! Access tokens made by the test (RFC 7515, section 3.1): valid ones and almost valid ones.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};

/// The signature algorithm of a token.
#[derive(Clone, Copy)]
pub enum Algorithm {
    HS256,
    HS512,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// A token with these claims, signed with `secret`.
pub fn sign(claims: &Value, secret: &str, algorithm: Algorithm) -> String {
    let name = match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::HS512 => "HS512",
    };
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = json!({"typ": "JWT", "alg": name});
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = match algorithm {
        Algorithm::HS256 => mac::<Hmac<Sha256>>(secret, &signed),
        Algorithm::HS512 => mac::<Hmac<Sha512>>(secret, &signed),
    };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn mac<M: Mac + KeyInit>(secret: &str, text: &str) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}
