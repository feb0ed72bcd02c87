//! The version of a RabbitMQ node, from the first frame that it sends (AMQP 0-9-1, `Connection.Start`); it is sent before
//! the login. The AMQP library does not pass it on.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The longest frame that is read: a broker's properties have about 500 bytes.
const MAX_FRAME: u32 = 64 * 1024;

/// `None` if the server says none.
pub async fn version(host: &str, port: u16) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    // A frame: type, channel, size, payload, end.
    let kind = stream.read_u8().await?;
    let _channel = stream.read_u16().await?;
    let size = stream.read_u32().await?;
    if kind != 1 || size > MAX_FRAME {
        return Err(io::Error::other("this is no AMQP 0-9-1 server"));
    }
    let mut frame = vec![0; size as usize];
    stream.read_exact(&mut frame).await?;
    Ok(version_in(&frame))
}

/// The property `version` of a `Connection.Start`.
fn version_in(frame: &[u8]) -> Option<String> {
    // A short string as the name, the type of a long string, and its length. No other property's value has these bytes.
    let name = b"\x07versionS";
    let at = frame.windows(name.len()).position(|bytes| bytes == name)? + name.len();
    let length: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
    let start = at + 4;
    let end = start.checked_add(u32::from_be_bytes(length) as usize)?;
    let version = std::str::from_utf8(frame.get(start..end)?).ok()?;
    Some(
        version
            .chars()
            .filter(|c| !c.is_control())
            .take(40)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_and_nothing_is_read_beyond_the_frame() {
        let frame = b"\0\x0a\0\x0a\0\x09\0\0\0\x30\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.13.7rest";
        assert_eq!(version_in(frame).as_deref(), Some("3.13.7"));
        assert_eq!(version_in(b"\x07versionS\xff\xff\xff\xff3"), None);
        assert_eq!(version_in(b"\x07versionS\0"), None);
        assert_eq!(version_in(b""), None);
    }
}
