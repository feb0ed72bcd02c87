//! A TCP connection on which a test writes arbitrary bytes and reads HTTP responses.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{DEADLINE, deployment::authority};

/// Every address in 127.0.0.0/8 is this machine, and each counts as a separate client.
pub const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

pub struct Raw {
    pub stream: TcpStream,
    /// Read from the connection, not yet returned.
    buffer: Vec<u8>,
}

/// A response as received.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    /// The header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl RawAnswer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    /// Connects from `source` to the edge at `url`, which may refuse.
    pub async fn attempt(url: &str, source: Ipv4Addr) -> std::io::Result<Raw> {
        Raw::with_buffer(url, source, None).await
    }

    pub async fn connect(url: &str, source: Ipv4Addr) -> Raw {
        Raw::attempt(url, source).await.expect("a connection")
    }

    /// `receive`: size of the receive buffer in bytes.
    pub async fn with_buffer(
        url: &str,
        source: Ipv4Addr,
        receive: Option<u32>,
    ) -> std::io::Result<Raw> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind((source, 0).into())?;
        let address = authority(url).parse().expect("an IP address and a port");
        let connecting = tokio::time::timeout(DEADLINE, socket.connect(address));
        let stream = connecting.await.expect("an answer in time")?;
        Ok(Raw {
            stream,
            buffer: Vec::new(),
        })
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it is open");
    }

    /// Sends a request with these header lines in addition to `Host`.
    pub async fn request(&mut self, line: &str, headers: &[&str], body: &str) {
        let mut text = format!("{line} HTTP/1.1\r\nhost: localhost\r\n");
        for header in headers {
            text += &format!("{header}\r\n");
        }
        if !body.is_empty() {
            text += &format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            );
        }
        self.send(format!("{text}\r\n{body}").as_bytes()).await;
    }

    /// The next response; `None` if the connection ends first.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        self.answer_to("GET").await
    }

    /// The next response, which has no body if the method was `HEAD`.
    pub async fn answer_to(&mut self, method: &str) -> Option<RawAnswer> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            self.more().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).expect("ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = RawAnswer {
            status,
            headers,
            body: Vec::new(),
        };
        let none = method == "HEAD" || matches!(status, 101 | 204 | 304);
        let length = match answer.header("content-length") {
            Some(length) if !none => length.parse().expect("a number"),
            _ => 0,
        };
        while self.buffer.len() < length {
            self.more().await?;
        }
        answer.body = self.buffer.drain(..length).collect();
        Some(answer)
    }

    /// Sends one request and returns its response.
    pub async fn ask(&mut self, line: &str, headers: &[&str], body: &str) -> Option<RawAnswer> {
        self.request(line, headers, body).await;
        let method = line.split(' ').next().unwrap_or_default();
        self.answer_to(method).await
    }

    /// Reads until the peer has closed the connection.
    pub async fn closed(&mut self) {
        while self.more().await.is_some() {}
    }

    /// Sends one of `bytes` every `pace` until the connection ends.
    pub async fn trickle(&mut self, bytes: &[u8], pace: Duration) {
        let mut ticks = tokio::time::interval(pace);
        for byte in bytes.iter().cycle() {
            tokio::select! {
                _ = ticks.tick() => {
                    if self.stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                }
                more = read(&mut self.stream, &mut self.buffer) => if more.is_none() { return },
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        let reading = read(&mut self.stream, &mut self.buffer);
        let read = tokio::time::timeout(DEADLINE, reading).await;
        read.expect("bytes or an end in time")
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}
