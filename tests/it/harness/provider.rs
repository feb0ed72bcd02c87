//! A fake provider of e-mail or text messages whose behaviour a test chooses: it answers, resets the connection, or
//! does not respond. It records every request and its response.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A received request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub head: String,
    pub body: String,
    /// The status of the response; 0 for none.
    pub status: u16,
}

impl Asked {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The notification's id, which SendGrid returns in its events.
    pub fn notification(&self) -> String {
        let json = self.json();
        let id = &json["personalizations"][0]["custom_args"]["notification_id"];
        id.as_str().unwrap_or_default().to_owned()
    }

    /// The plain text of a mail.
    pub fn text(&self) -> String {
        let json = self.json();
        json["content"][0]["value"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Whether it is addressed to this e-mail address or number.
    pub fn is_to(&self, address: &str) -> bool {
        let (mail, number) = (format!("\"{address}\""), address.replace('+', "%2B"));
        self.body.contains(&mail) || self.body.contains(&format!("To={number}&"))
    }

    pub fn taken(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The behaviour for one request.
pub enum Does {
    Answer(u16, &'static str, &'static str),
    Reset,
    /// Accepts the request, but resets the connection without a response.
    TakeAndReset,
    /// Holds the connection for this long without a response.
    Nothing(Duration),
    /// Accepts the request and responds after this long.
    TakeLate(Duration),
}

impl Does {
    /// SendGrid's response to a valid request.
    pub fn take() -> Does {
        Does::Answer(202, "X-Message-Id: m1\r\n", "")
    }

    pub fn fail() -> Does {
        Does::Answer(503, "", "<html>Service Unavailable</html>")
    }
}

type Behaviour = Box<dyn FnMut(usize, &Asked) -> Does + Send>;

pub struct Provider {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Provider {
    /// Accepts everything, until [`Provider::does`] changes that.
    pub async fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let behaviour: Arc<Mutex<Behaviour>> = Arc::new(Mutex::new(Box::new(|_, _| Does::take())));
        let serving = tokio::spawn({
            let (asked, behaviour) = (asked.clone(), behaviour.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, asked.clone(), behaviour.clone()));
                }
            }
        });
        Provider {
            url,
            asked,
            behaviour,
            serving,
        }
    }

    /// Sets the behaviour: a function of the number of earlier requests and the request.
    pub fn does(&self, behaviour: impl FnMut(usize, &Asked) -> Does + Send + 'static) {
        *self.behaviour.lock().expect("no panic") = Box::new(behaviour);
    }

    /// Deletes the recorded requests.
    pub fn clear(&self) {
        self.asked.lock().expect("no panic").clear();
    }

    /// The number of recorded requests.
    pub fn count(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }

    /// The first result of `find` for a request to this address or number.
    pub fn find<T>(&self, address: &str, find: impl Fn(&Asked) -> Option<T>) -> Option<T> {
        let asked = self.asked.lock().expect("no panic");
        let mut to = asked.iter().filter(|asked| asked.is_to(address));
        to.find_map(find)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    asked: Arc<Mutex<Vec<Asked>>>,
    behaviour: Arc<Mutex<Behaviour>>,
) {
    let Some(mut request) = read(&mut stream).await else {
        return;
    };
    let does = {
        let mut asked = asked.lock().expect("no panic");
        let before = asked.len();
        let does = behaviour.lock().expect("no panic")(before, &request);
        match does {
            Does::Answer(status, ..) => request.status = status,
            Does::TakeAndReset | Does::TakeLate(_) => request.status = 202,
            Does::Reset | Does::Nothing(_) => {}
        }
        asked.push(request);
        does
    };
    match does {
        Does::Answer(status, headers, body) => say(&mut stream, status, headers, body).await,
        Does::TakeLate(hold) => {
            // The client closes the connection earlier, which ends the wait as well.
            let mut rest = [0; 1];
            let _ = tokio::time::timeout(hold, stream.read(&mut rest)).await;
            say(&mut stream, 202, "", "").await;
        }
        Does::Reset | Does::TakeAndReset => {
            let _ = stream.set_zero_linger();
        }
        Does::Nothing(hold) => {
            let mut rest = [0; 1];
            let _ = tokio::time::timeout(hold, stream.read(&mut rest)).await;
        }
    }
}

async fn say(stream: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let answer = format!(
        "HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 8192];
        let count = stream.read(&mut chunk).await.ok()?;
        if count == 0 {
            return None;
        }
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let is = name.eq_ignore_ascii_case("content-length");
            is.then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            return Some(Asked {
                path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
                head: head.to_owned(),
                body: body.to_owned(),
                status: 0,
            });
        }
    }
}
