//! Renders notifications as text and HTML: rooms, senders, message excerpts and one link. The wording comes from the
//! configured templates; this module prepares their values and limits lengths. User-written text is escaped and free of
//! control characters ([`super::plain_text`]), and a subject contains no line break.

use serde::Serialize;

use super::{
    plain_text::{line, lines, shorten},
    segments,
};
use crate::templates::{CodeValues, DigestValues, ResetValues, Templates};
pub use crate::templates::{DigestMessage, escape};

/// Maximum messages shown in one e-mail; of the rest only the number is given.
const MAX_LINES: usize = 20;
/// Maximum characters shown of one message in an e-mail.
const MAX_CHARS: usize = 500;
/// The same in a text message: more than its segments hold, so that [`segments::fit`] cuts it.
const MAX_SMS_CHARS: usize = 1600;
/// Maximum characters of a subject.
const MAX_SUBJECT: usize = 120;

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
    mail(
        templates,
        "digest",
        &values(said, link, unsubscribe, MAX_CHARS),
    )
}

/// The digest as a text message of at most `most` segments: senders, the beginning of the text, and the link.
pub fn short(templates: &Templates, said: &[DigestMessage], link: &str, most: usize) -> String {
    let text = render(
        templates,
        "digest.sms",
        &values(said, link, "", MAX_SMS_CHARS),
    );
    segments::fit(line(&text).trim(), &format!(" {link}"), most)
}

/// The mail with an address verification code.
pub fn code(templates: &Templates, code: &str, minutes: u64) -> Rendered {
    mail(templates, "code", &code_values(code, minutes))
}

/// The mail with a token that resets a password, and with the page for it, if there is one.
pub fn reset(templates: &Templates, token: &str, link: Option<String>, minutes: u64) -> Rendered {
    let values = ResetValues {
        token: token.to_owned(),
        link: link.unwrap_or_default(),
        minutes,
    };
    mail(templates, "reset", &values)
}

/// The text message with a verification code, of at most `most` segments.
pub fn short_code(templates: &Templates, code: &str, minutes: u64, most: usize) -> String {
    let text = render(templates, "code.sms", &code_values(code, minutes));
    segments::fit(line(&text).trim(), "", most)
}

fn code_values(code: &str, minutes: u64) -> CodeValues {
    CodeValues {
        code: code.to_owned(),
        minutes,
    }
}

fn values(said: &[DigestMessage], link: &str, unsubscribe: &str, max_chars: usize) -> DigestValues {
    let mut senders: Vec<String> = said.iter().map(|said| line(&said.sender)).collect();
    senders.sort_unstable();
    senders.dedup();
    let shown = said.iter().take(MAX_LINES).map(|said| DigestMessage {
        room: line(&said.room),
        sender: line(&said.sender),
        body: shorten(&lines(&said.body), max_chars),
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
        subject: shorten(line(&part("subject")).trim(), MAX_SUBJECT),
        text: lines(&part("txt")),
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

/// A preview made of [`sample`]: the HTML, or the subject and text followed by the text messages and the mails with
/// a code and with a password reset.
pub fn preview(templates: &Templates, html: bool, segments: usize) -> String {
    const HOME: &str = "https://chat.example.com";
    let mail = digest(templates, &sample(), HOME, "https://chat.example.com/stop");
    if html {
        return mail.html;
    }
    let proof = code(templates, "123456", 10);
    let link = "https://chat.example.com/reset?token=TOKEN".to_owned();
    let forgotten = reset(templates, "TOKEN", Some(link), 60);
    format!(
        "Subject: {}\n\n{}\n---- as a text message\n{}\n\n---- a code\nSubject: {}\n\n{}\n---- as a text message\n{}\n\n---- a password reset\nSubject: {}\n\n{}\n",
        mail.subject,
        mail.text,
        short(templates, &sample(), HOME, segments),
        proof.subject,
        proof.text,
        short_code(templates, "123456", 10, segments),
        forgotten.subject,
        forgotten.text,
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
        let sms = short(&templates(), &many, "https://x.example", 3);
        assert_eq!(
            sms,
            "50 new messages from Ada, Charles, Grace https://x.example"
        );
        let long = DigestMessage {
            body: "x".repeat(2000),
            ..many[0].clone()
        };
        let sms = |most| {
            short(
                &templates(),
                std::slice::from_ref(&long),
                "https://x.example",
                most,
            )
        };
        assert_eq!((sms(3).len(), segments::count(&sms(3))), (459, 3));
        assert_eq!((sms(10).len(), segments::count(&sms(10))), (1530, 10));
    }

    #[test]
    fn names_and_bodies_reorder_nothing_and_are_cut_between_clusters() {
        let odd = |body: &str| DigestMessage {
            room: "\u{202E}gro.elpmaxe\r\n".to_owned(),
            sender: "A\u{1B}[31mda\u{200F}".to_owned(),
            body: body.to_owned(),
        };
        let long = format!("\u{2067}{}👩‍👩‍👧‍👦 more", "x".repeat(MAX_CHARS - 3));
        let mail = digest(&templates(), &[odd(&long), odd("a\tb\u{7}\r\nc")], "l", "u");
        for shown in [&mail.subject, &mail.text, &mail.html] {
            let bad = |c: char| {
                let direction = "\u{61C}\u{200E}\u{200F}\u{202A}\u{202B}\u{202C}\u{202D}\u{202E}\u{2066}\u{2067}\u{2068}\u{2069}";
                (c.is_control() && c != '\n') || direction.contains(c)
            };
            assert!(!shown.contains(bad), "{shown:?}");
        }
        assert!(mail.text.contains("xxx…\n"), "{}", mail.text);
        assert!(mail.text.contains("A [31mda: a b \nc"), "{}", mail.text);
        let one = digest(&templates(), &[odd("x")], "l", "u");
        assert_eq!(one.subject, "A [31mda wrote in gro.elpmaxe");
        let named = |name: String| DigestMessage {
            sender: name,
            ..odd("x")
        };
        let cut = named(format!("{}🇩🇪🇫🇷", "n".repeat(MAX_SUBJECT - 3)));
        let cut = digest(&templates(), &[cut], "l", "u");
        assert_eq!(cut.subject, format!("{}🇩🇪…", "n".repeat(MAX_SUBJECT - 3)));
    }
}
