//! What a notification says, as text and as HTML: the rooms, who wrote, the lines, and one link. Compiled in. Whatever
//! people wrote is escaped, and a subject has no line break.

use std::fmt::Write;

/// Messages shown in one e-mail; of the others only the number is told.
const MAX_LINES: usize = 20;
/// Characters of one message shown.
const MAX_CHARS: usize = 500;
/// Characters of a text message, three segments of 153.
const MAX_SMS: usize = 459;

/// One message, as it is told.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Empty for a direct room.
    pub room: String,
    pub sender: String,
    pub body: String,
}

/// A finished text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// Tells of messages, the oldest first, by e-mail.
pub fn digest(shown: &[Shown], link: &str, unsubscribe: &str) -> Rendered {
    let count = shown.len();
    let subject = match shown {
        [one] if one.room.is_empty() => format!("{} wrote to you", one.sender),
        [one] => format!("{} wrote in {}", one.sender, one.room),
        _ => format!("{count} new messages"),
    };
    let (mut text, mut html) = (String::new(), String::new());
    let mut room = None;
    for line in shown.iter().take(MAX_LINES) {
        if room != Some(&line.room) {
            room = Some(&line.room);
            let title = match line.room.is_empty() {
                true => "Direct messages",
                false => &line.room,
            };
            let _ = writeln!(text, "# {}\n", one_line(title));
            let _ = writeln!(html, "<h3>{}</h3>", escape(title));
        }
        let body = shorten(&line.body, MAX_CHARS);
        let _ = writeln!(text, "{}: {body}\n", one_line(&line.sender));
        let _ = writeln!(
            html,
            "<p><b>{}</b><br>{}</p>",
            escape(&line.sender),
            escape(&body).replace('\n', "<br>")
        );
    }
    if count > MAX_LINES {
        let more = count - MAX_LINES;
        let _ = writeln!(text, "... and {more} more.\n");
        let _ = writeln!(html, "<p>… and {more} more.</p>");
    }
    let _ = write!(
        text,
        "Read and answer: {link}\n\n-- \nYou get this because you were away. Stop these e-mails: {unsubscribe}\n"
    );
    let _ = write!(
        html,
        "<p><a href=\"{}\">Read and answer</a></p>\n\
         <p style=\"color:#666;font-size:small\">You get this because you were away. \
         <a href=\"{}\">Stop these e-mails</a></p>\n",
        escape(link),
        escape(unsubscribe)
    );
    Rendered {
        subject: shorten(&one_line(&subject), 120),
        text,
        html: page(&html),
    }
}

/// The same for a text message: who, and the beginning of what.
pub fn short(shown: &[Shown], link: &str) -> String {
    let text = match shown {
        [one] => format!("{}: {}", one.sender, one.body),
        _ => {
            let mut senders: Vec<&str> = shown.iter().map(|line| line.sender.as_str()).collect();
            senders.sort_unstable();
            senders.dedup();
            format!("{} new messages from {}", shown.len(), senders.join(", "))
        }
    };
    let room = MAX_SMS.saturating_sub(link.chars().count() + 1);
    format!("{} {link}", shorten(&one_line(&text), room))
}

/// A code that proves an address.
pub fn code(code: &str, minutes: u64) -> Rendered {
    let text = format!(
        "Your code is {code}. It is good for {minutes} minutes.\n\nIf you did not ask for it, ignore this message.\n"
    );
    Rendered {
        subject: "Your code".to_owned(),
        html: page(&format!(
            "<p>Your code is <b>{}</b>. It is good for {minutes} minutes.</p>\n\
             <p>If you did not ask for it, ignore this message.</p>\n",
            escape(code)
        )),
        text,
    }
}

fn page(body: &str) -> String {
    format!(
        "<!doctype html>\n<html><head><meta charset=\"utf-8\"></head>\n\
         <body style=\"font-family:sans-serif\">\n{body}</body></html>\n"
    )
}

/// Text that stands for itself in HTML, in an attribute as well.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn shorten(text: &str, max: usize) -> String {
    let mut chars = text.char_indices();
    match chars.nth(max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A mail as it would be sent, made of [`sample`]: its HTML, or its subject and text with the text message below.
pub fn preview(html: bool) -> String {
    let (link, unsubscribe) = ("https://chat.example.com", "https://chat.example.com/stop");
    let mail = digest(&sample(), link, unsubscribe);
    match html {
        true => mail.html,
        false => format!(
            "Subject: {}\n\n{}\n---- as a text message\n{}\n",
            mail.subject,
            mail.text,
            short(&sample(), link)
        ),
    }
}

/// Messages to look at a template with.
pub fn sample() -> Vec<Shown> {
    let line = |room: &str, sender: &str, body: &str| Shown {
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

    #[test]
    fn what_people_wrote_stays_text() {
        let evil = Shown {
            room: "<img src=x>\r\nBcc: all@example.com".to_owned(),
            sender: "\"><script>".to_owned(),
            body: "a\n</p><script>alert('x')</script>".to_owned(),
        };
        let mail = digest(&[evil], "https://x.example/?a=1&b=2", "https://x.example/u");
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
        let many: Vec<Shown> = (0..50).flat_map(|_| sample()).take(50).collect();
        let mail = digest(&many, "l", "u");
        assert_eq!(mail.subject, "50 new messages");
        assert!(mail.text.contains("... and 30 more."));
        let sms = short(&many, "https://x.example");
        assert_eq!(
            sms,
            "50 new messages from Ada, Charles, Grace https://x.example"
        );
        let long = Shown {
            body: "x".repeat(2000),
            ..many[0].clone()
        };
        assert!(short(&[long], "https://x.example").chars().count() <= MAX_SMS + 1);
    }
}
