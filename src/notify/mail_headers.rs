//! The headers of every mail besides sender, recipient and subject.
//!
//! SendGrid refuses `x-sg-id`, `x-sg-eid`, `received`, `dkim-signature`, `Content-Type`, `Content-Transfer-Encoding`,
//! `To`, `From`, `Subject`, `Reply-To`, `CC` and `BCC` in its `headers` field
//! (<https://docs.sendgrid.com/api-reference/mail-send/mail-send>); none of these is here. It may replace `Message-ID`
//! by an id of its own, which changes nothing: no mail refers to the id of another.

use lettre::message::Mailbox;
use uuid::Uuid;

use super::Outgoing;

/// Names and values, ASCII only:
///
/// - `Auto-Submitted` (RFC 3834): automatic responders do not answer;
/// - `Message-ID`: the same for every attempt, so that servers and clients can detect duplicates;
/// - `In-Reply-To` and `References` (RFC 5322, section 3.6.4), which name the thread's root. No mail has this id:
///   programs group the mails that refer to it;
/// - `List-Unsubscribe` (RFC 8058).
pub(super) fn of(message: &Outgoing, from: &Mailbox) -> Vec<(&'static str, String)> {
    let host = host(from);
    let id = |id: Uuid| format!("<{id}@{host}>");
    let mut headers = vec![
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("Message-ID", id(message.id)),
    ];
    if let Some(thread) = message.thread {
        headers.push(("In-Reply-To", id(thread)));
        headers.push(("References", id(thread)));
    }
    if let Some(link) = &message.unsubscribe {
        headers.push(("List-Unsubscribe", format!("<{link}>")));
        let one_click = "List-Unsubscribe=One-Click".to_owned();
        headers.push(("List-Unsubscribe-Post", one_click));
    }
    headers
}

/// The domain of the sender's address, as A-labels: message ids are ASCII.
fn host(from: &Mailbox) -> String {
    let domain = from.email.domain();
    idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::Address;
    use crate::model::notify::ChannelKind;

    fn headers(from: &str, thread: Option<Uuid>, unsubscribe: Option<&str>) -> Vec<String> {
        let message = Outgoing {
            id: Uuid::from_u128(1),
            to: Address::parse(ChannelKind::Email, "bob@example.com").unwrap(),
            subject: String::new(),
            text: String::new(),
            html: String::new(),
            thread,
            unsubscribe: unsubscribe.map(str::to_owned),
            report_to: None,
        };
        let all = of(&message, &from.parse().unwrap()).into_iter();
        all.map(|(name, value)| format!("{name}: {value}"))
            .collect()
    }

    #[test]
    fn every_mail_says_that_it_is_automatic_and_digests_refer_to_their_thread() {
        let code = headers("Chat <chat@example.com>", None, None);
        assert_eq!(
            code,
            [
                "Auto-Submitted: auto-generated",
                "Message-ID: <00000000-0000-0000-0000-000000000001@example.com>"
            ]
        );
        let link = Some("https://x.example/u");
        let digest = headers("chat@bücher.example", Some(Uuid::from_u128(2)), link);
        assert_eq!(
            digest[1..],
            [
                "Message-ID: <00000000-0000-0000-0000-000000000001@xn--bcher-kva.example>",
                "In-Reply-To: <00000000-0000-0000-0000-000000000002@xn--bcher-kva.example>",
                "References: <00000000-0000-0000-0000-000000000002@xn--bcher-kva.example>",
                "List-Unsubscribe: <https://x.example/u>",
                "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
            ]
        );
    }
}
