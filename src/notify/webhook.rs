//! Callbacks from providers: verification of their signatures, and their meaning. Signatures are compared in constant
//! time, over the raw bytes.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use p256::{
    ecdsa::{Signature, VerifyingKey, signature::Verifier},
    pkcs8::DecodePublicKey,
};
use serde::Deserialize;
use sha1::Sha1;
use uuid::Uuid;

use crate::model::{
    address::PhoneNumber,
    notify::{DeliveryState, Report},
};

/// Maximum age and maximum lead of a signed timestamp, in seconds. SendGrid retries an event for a day; repeats within
/// that time are detected by their id.
const MAX_AGE: i64 = 86_400 + 3600;
const MAX_AHEAD: i64 = 600;

/// Verifies SendGrid's signature: ECDSA on P-256 over timestamp and raw body
/// (<https://docs.sendgrid.com/for-developers/tracking-events/getting-started-event-webhook-security-features>).
pub fn sendgrid_signed(key: &str, signature: &str, timestamp: &str, body: &[u8], now: i64) -> bool {
    let fresh = timestamp
        .parse::<i64>()
        .is_ok_and(|at| at > now - MAX_AGE && at < now + MAX_AHEAD);
    let signed = || {
        let key = VerifyingKey::from_public_key_der(&STANDARD.decode(key).ok()?).ok()?;
        let signature = Signature::from_der(&STANDARD.decode(signature).ok()?).ok()?;
        let mut message = timestamp.as_bytes().to_vec();
        message.extend_from_slice(body);
        key.verify(&message, &signature).ok()
    };
    fresh && signed().is_some()
}

/// Verifies Twilio's signature: HMAC-SHA1 over the exact URL and the sorted parameters
/// (<https://www.twilio.com/docs/usage/security#validating-requests>).
pub fn twilio_signed(
    token: &str,
    signature: &str,
    url: &str,
    form: &BTreeMap<String, String>,
) -> bool {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(token.as_bytes()) else {
        return false;
    };
    mac.update(url.as_bytes());
    for (name, value) in form {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    STANDARD
        .decode(signature)
        .is_ok_and(|signature| mac.verify_slice(&signature).is_ok())
}

/// The reports of a SendGrid callback that concern deliveries of this server; `None` if the body is not a list of
/// events.
pub fn sendgrid_reports(body: &[u8]) -> Option<Vec<Report>> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        event: String,
        #[serde(default)]
        sg_event_id: String,
        notification_id: Option<Uuid>,
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    let events: Vec<serde_json::Value> = serde_json::from_slice(body).ok()?;
    let events = events
        .into_iter()
        .filter_map(|event| serde_json::from_value::<Event>(event).ok());
    let reports = events.filter_map(|event| {
        use DeliveryState::{Bounced, Delivered, Failed};
        let blocked = event.kind.as_deref() == Some("blocked");
        let (state, reason, suppress) = match event.event.as_str() {
            "delivered" => (Delivered, "the recipient's server took it", false),
            "bounce" if blocked => (Bounced, "the recipient's server refused it", false),
            "bounce" => (Bounced, "the address does not exist", true),
            "dropped" => (Failed, "the provider dropped it", false),
            "spamreport" => (Delivered, "the recipient reported it as unwanted", true),
            "unsubscribe" | "group_unsubscribe" => (Delivered, "the recipient unsubscribed", true),
            _ => return None,
        };
        Some(Report {
            delivery: event.notification_id?,
            id: event.sg_event_id,
            state,
            reason: reason.to_owned(),
            suppress,
        })
    });
    Some(reports.collect())
}

/// The report of a Twilio status callback; `None` for intermediate states.
pub fn twilio_report(delivery: Uuid, form: &BTreeMap<String, String>) -> Option<Report> {
    use DeliveryState::{Bounced, Delivered, Failed};
    let status = form.get("MessageStatus").or(form.get("SmsStatus"))?;
    let code = form
        .get("ErrorCode")
        .map(String::as_str)
        .unwrap_or_default();
    let (state, reason) = match status.as_str() {
        "delivered" | "read" => (Delivered, "it arrived".to_owned()),
        "undelivered" => (Bounced, format!("it did not arrive (error {code})")),
        "failed" => (Failed, format!("it could not be sent (error {code})")),
        _ => return None,
    };
    Some(Report {
        delivery,
        id: format!("{}:{status}", form.get("MessageSid")?),
        state,
        reason,
        // The recipient replied STOP, or the number cannot get messages.
        suppress: ["21610", "21614", "30005"].contains(&code),
    })
}

/// Parses a reply to a text message: `true` opts out, `false` opts in again. The keywords are Twilio's
/// (<https://help.twilio.com/articles/223134027>); a messaging service that handles them reports the recognised one in
/// `OptOutType`.
pub fn twilio_opt_out(form: &BTreeMap<String, String>) -> Option<(PhoneNumber, bool)> {
    let said = form.get("OptOutType").or(form.get("Body"))?;
    let stop = match said.trim().to_uppercase().as_str() {
        "STOP" | "STOPALL" | "UNSUBSCRIBE" | "CANCEL" | "END" | "QUIT" | "REVOKE" | "OPTOUT" => {
            true
        }
        "START" | "UNSTOP" | "YES" => false,
        _ => return None,
    };
    Some((PhoneNumber::parse(form.get("From")?)?, stop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::{
        ecdsa::{SigningKey, signature::Signer},
        pkcs8::EncodePublicKey,
    };

    #[test]
    fn only_recent_valid_sendgrid_signatures_are_accepted() {
        let signing = SigningKey::from_slice(&[7; 32]).unwrap();
        let der = signing.verifying_key().to_public_key_der().unwrap();
        let key = STANDARD.encode(der.as_bytes());
        let sign = |timestamp: &str, body: &str| {
            let signature: Signature = signing.sign(format!("{timestamp}{body}").as_bytes());
            STANDARD.encode(signature.to_der().as_bytes())
        };
        let (now, body) = (1_800_000_000, "[]");
        let good = sign("1800000000", body);
        let signed = |signature: &str, timestamp: &str, body: &str| {
            sendgrid_signed(&key, signature, timestamp, body.as_bytes(), now)
        };
        assert!(signed(&good, "1800000000", body));
        assert!(!signed(&good, "1800000001", body), "another time");
        assert!(!signed(&good, "1800000000", "[ ]"), "another body");
        assert!(!signed("", "1800000000", body));
        let stale = (now - MAX_AGE - 1).to_string();
        assert!(!signed(&sign(&stale, body), &stale, body), "a replay");
        assert!(
            !sendgrid_signed("", &good, "1800000000", body.as_bytes(), now),
            "no key"
        );
    }

    #[test]
    fn twilios_own_example_is_signed() {
        // From Twilio's documentation of request validation.
        let form = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ];
        let form: BTreeMap<_, _> = form.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        let signed = |signature: &str, url: &str| twilio_signed("12345", signature, url, &form);
        assert!(signed("RSOYDt4T1cUTdK1PDd93/VVr8B8=", url));
        assert!(!signed(
            "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
            "https://mycompany.com/"
        ));
        assert!(!signed("", url) && !signed("AAAA", url));
    }

    #[test]
    fn stop_and_start_are_understood() {
        let understood = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            twilio_opt_out(&pairs.collect())
        };
        let from = ("From", "+4915112345678");
        let number = PhoneNumber::parse(from.1).unwrap();
        let yes = |stop| Some((number.clone(), stop));
        assert_eq!(understood(&[from, ("Body", " Stop ")]), yes(true));
        assert_eq!(understood(&[from, ("Body", "start")]), yes(false));
        let both = [from, ("Body", "Arrêt"), ("OptOutType", "STOP")];
        assert_eq!(understood(&both), yes(true));
        assert_eq!(understood(&[from, ("Body", "stop it, please")]), None);
        assert_eq!(understood(&[("Body", "STOP")]), None);
        let odd = ("From", "whatsapp:+4915112345678");
        assert_eq!(understood(&[odd, ("Body", "STOP")]), None);
    }

    #[test]
    fn reports_are_read_and_strange_ones_left_out() {
        let id = Uuid::now_v7();
        let body = format!(
            r#"[{{"event":"processed","sg_event_id":"a","notification_id":"{id}"}},
                {{"event":"bounce","sg_event_id":"b","notification_id":"{id}","type":"bounce"}},
                {{"event":"delivered","sg_event_id":"c","notification_id":"no id"}},
                {{"event":"delivered","sg_event_id":"d"}}, 7]"#
        );
        let reports = sendgrid_reports(body.as_bytes()).unwrap();
        assert_eq!(reports.len(), 1);
        assert!(reports[0].suppress && reports[0].state == DeliveryState::Bounced);
        assert!(sendgrid_reports(b"{}").is_none());
    }
}
