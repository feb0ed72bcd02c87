//! Renders notifications as text and HTML: rooms, senders, message excerpts and one link. The wording comes from the
//! configured templates; this module prepares their values and limits lengths. User-written text is escaped, and a
//! subject contains no line break.

use serde::Serialize;

pub use crate::templates::{DigestMessage, escape};
use crate::{
    model::text::one_line,
    templates::{CodeValues, DigestValues, Templates},
};

/// Maximum messages shown in one e-mail; of the rest only the number is given.
const MAX_LINES: usize = 20;
/// Maximum characters shown of one message.
const MAX_CHARS: usize = 500;
/// Maximum characters of a subject.
const MAX_SUBJECT: usize = 120;
/// Maximum characters of a text message: three segments of 153.
const MAX_SMS: usize = 459;

/// A rendered mail.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    pub subject: String,
    pub text: String,
    pub html: String,
}

debug_of!(Rendered {});

/// The e-mail digest of messages, oldest first.
pub fn digest(
    templates: &Templates,
    said: &[DigestMessage],
    link: &str,
    unsubscribe: &str,
) -> Rendered {
    mail(templates, "digest", &values(said, link, unsubscribe))
}

/// The digest as a text message: senders, the beginning of the text, and the link.
pub fn short(templates: &Templates, said: &[DigestMessage], link: &str) -> String {
    let text = render(templates, "digest.sms", &values(said, link, ""));
    let room = MAX_SMS.saturating_sub(link.chars().count() + 1);
    format!("{} {link}", shorten(one_line(&text).trim(), room))
}

/// The mail with an address verification code.
pub fn code(templates: &Templates, code: &str, minutes: u64) -> Rendered {
    mail(templates, "code", &code_values(code, minutes))
}

/// The text message with a verification code.
pub fn short_code(templates: &Templates, code: &str, minutes: u64) -> String {
    let text = render(templates, "code.sms", &code_values(code, minutes));
    shorten(one_line(&text).trim(), MAX_SMS)
}

fn code_values(code: &str, minutes: u64) -> CodeValues {
    CodeValues {
        code: code.to_owned(),
        minutes,
    }
}

fn values(said: &[DigestMessage], link: &str, unsubscribe: &str) -> DigestValues {
    let mut senders: Vec<String> = said.iter().map(|line| one_line(&line.sender)).collect();
    senders.sort_unstable();
    senders.dedup();
    let shown = said.iter().take(MAX_LINES).map(|line| DigestMessage {
        room: one_line(&line.room),
        sender: one_line(&line.sender),
        body: shorten(&line.body, MAX_CHARS),
    });
    DigestValues {
        count: said.len(),
        messages: shown.collect(),
        more: said.len().saturating_sub(MAX_LINES),
        senders,
        link: link.to_owned(),
        unsubscribe: unsubscribe.to_owned(),
    }
}

fn mail(templates: &Templates, name: &str, values: &impl Serialize) -> Rendered {
    let part = |part: &str| render(templates, &format!("{name}.{part}"), values);
    Rendered {
        subject: shorten(one_line(&part("subject")).trim(), MAX_SUBJECT),
        text: part("txt"),
        html: part("html"),
    }
}

/// Falls back to the built-in template if the operator's fails, so that the notification is still sent.
fn render(templates: &Templates, name: &str, values: &impl Serialize) -> String {
    templates.render(name, values).unwrap_or_else(|error| {
        tracing::error!(
            template = name,
            error,
            "template failed; used the built-in one"
        );
        templates.render_built_in(name, values)
    })
}

fn shorten(text: &str, max: usize) -> String {
    let mut chars = text.char_indices();
    match chars.nth(max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A preview made of [`sample`]: the HTML, or the subject and text followed by the text messages and the mail with a
/// code.
pub fn preview(templates: &Templates, html: bool) -> String {
    let (link, unsubscribe) = ("https://chat.example.com", "https://chat.example.com/stop");
    let mail = digest(templates, &sample(), link, unsubscribe);
    if html {
        return mail.html;
    }
    let proof = code(templates, "123456", 10);
    format!(
        "Subject: {}\n\n{}\n---- as a text message\n{}\n\n---- a code\nSubject: {}\n\n{}\n---- as a text message\n{}\n",
        mail.subject,
        mail.text,
        short(templates, &sample(), link),
        proof.subject,
        proof.text,
        short_code(templates, "123456", 10),
    )
}

/// Sample messages for previews of a template.
pub fn sample() -> Vec<DigestMessage> {
    let line = |room: &str, sender: &str, body: &str| DigestMessage {
        room: room.to_owned(),
        sender: sender.to_owned(),
        body: body.to_owned(),
    };
    vec![
        line("", "Grace", "Are you there?\nThe compiler works."),
        line("engines", "Ada", "@you: is 1 < 2 & \"so on\"?"),
        line("engines", "Charles", "It is."),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates() -> Templates {
        Templates::default()
    }

    #[test]
    fn user_text_is_escaped() {
        let evil = DigestMessage {
            room: "<img src=x>\r\nBcc: all@example.com".to_owned(),
            sender: "\"><script>".to_owned(),
            body: "a\n</p><script>alert('x')</script>".to_owned(),
        };
        let mail = digest(
            &templates(),
            &[evil],
            "https://x.example/?a=1&b=2",
            "https://x.example/u",
        );
        assert!(!mail.html.contains("<script") && !mail.html.contains("<img"));
        assert!(mail.html.contains("a<br>&lt;/p&gt;"));
        assert!(
            mail.html
                .contains("href=\"https://x.example/?a=1&amp;b=2\"")
        );
        assert!(!mail.subject.contains(['\r', '\n']));
        assert!(mail.text.contains("https://x.example/?a=1&b=2"));
    }

    #[test]
    fn many_messages_are_one_digest() {
        let many: Vec<DigestMessage> = (0..50).flat_map(|_| sample()).take(50).collect();
        let mail = digest(&templates(), &many, "l", "u");
        assert_eq!(mail.subject, "50 new messages");
        assert!(mail.text.contains("... and 30 more."));
        let sms = short(&templates(), &many, "https://x.example");
        assert_eq!(
            sms,
            "50 new messages from Ada, Charles, Grace https://x.example"
        );
        let long = DigestMessage {
            body: "x".repeat(2000),
            ..many[0].clone()
        };
        assert!(
            short(&templates(), &[long], "https://x.example")
                .chars()
                .count()
                <= MAX_SMS + 1
        );
    }
}
