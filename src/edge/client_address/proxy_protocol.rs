//! The PROXY protocol, version 2: a proxy that does not speak HTTP sends the client address at the beginning of the
//! connection. <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2. Version 1, the text format,
//! is not supported.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header in bytes after its first 16. Addresses take up to 216 bytes; the rest are extensions, of which a
/// client certificate is the longest in use.
const LONGEST: usize = 4096;

/// Reads the header and no byte beyond it. `None` means that the peer's own address counts: the connection is the
/// proxy's own, such as a health check, or the header has no IP address. Callers must set a deadline.
///
/// # Errors
/// `InvalidData` unless it is a valid version 2 header, and I/O errors of the connection.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed).await?;
    let (signature, rest) = fixed.split_at(SIGNATURE.len());
    let &[command, family, high, low] = rest else {
        return Err(malformed("cannot be read"));
    };
    if signature != SIGNATURE {
        return Err(malformed("does not begin with the signature of version 2"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(malformed("is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    source(command, family, &body)
}

fn source(command: u8, family: u8, body: &[u8]) -> io::Result<Option<IpAddr>> {
    match command {
        // LOCAL: the rest of the header is ignored.
        0x20 => return Ok(None),
        // PROXY.
        0x21 => {}
        _ => return Err(malformed("has an unknown version or command")),
    }
    let (family, transport) = (family >> 4, family & 0x0f);
    if transport > 2 {
        return Err(malformed("has an unknown transport"));
    }
    // Source and destination address, source and destination port; then extensions, which are ignored.
    match family {
        0 => Ok(None),
        1 => match body.first_chunk::<12>() {
            Some(&[a, b, c, d, ..]) => Ok(Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))),
            None => Err(malformed("is too short for its addresses")),
        },
        2 => match (body.first_chunk::<16>(), body.len() >= 36) {
            (Some(source), true) => Ok(Some(IpAddr::V6(Ipv6Addr::from(*source)).to_canonical())),
            _ => Err(malformed("is too short for its addresses")),
        },
        // A UNIX socket.
        3 if body.len() >= 216 => Ok(None),
        3 => Err(malformed("is too short for its addresses")),
        _ => Err(malformed("has an unknown address family")),
    }
}

fn malformed(what: &str) -> io::Error {
    let message = format!("the PROXY protocol header {what}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    /// The result, and the number of bytes left on the connection.
    async fn reads(bytes: &[u8]) -> (io::Result<Option<IpAddr>>, usize) {
        let mut stream = bytes;
        let read = read(&mut stream).await;
        (read, stream.len())
    }

    #[tokio::test]
    async fn the_source_is_read_and_nothing_behind_the_header() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[15] = 7;
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 9]);
        let unix = [b'x'; 216];
        for (command, family, body, found) in [
            (0x21, 0x11, &v4[..], Some("192.0.2.1")),
            (0x21, 0x12, &v4, Some("192.0.2.1")),
            (0x21, 0x21, &v6, Some("2001::7")),
            (0x21, 0x21, &mapped, Some("192.0.2.9")),
            (0x21, 0x31, &unix, None),
            (0x21, 0x00, &[], None),
            (0x20, 0x00, &[], None),
            (0x20, 0x11, &v4, None),
        ] {
            for extension in [&[][..], &[0x04, 0, 1, 0]] {
                let body = [body, extension].concat();
                let mut bytes = header(command, family, &body);
                bytes.extend(b"GET /");
                let (read, left) = reads(&bytes).await;
                let found = found.map(|text| text.parse::<IpAddr>().unwrap());
                assert_eq!((read.unwrap(), left), (found, 5), "{command:x} {family:x}");
            }
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let v4 = [0; 12];
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4000 80\r\n".to_vec(),
            header(0x11, 0x11, &v4),
            header(0x22, 0x11, &v4),
            header(0x21, 0x13, &v4),
            header(0x21, 0x41, &v4),
            header(0x21, 0x11, &v4[..11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x31, &[0; 215]),
            header(0x21, 0x11, &[0; LONGEST + 1]),
        ] {
            let (read, _) = reads(&bytes).await;
            assert_eq!(
                read.unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{bytes:?}"
            );
        }
        let (read, _) = reads(&header(0x21, 0x11, &[0; LONGEST])).await;
        assert!(read.is_ok());
        let whole = header(0x21, 0x11, &v4);
        for end in 0..whole.len() {
            let (read, _) = reads(&whole[..end]).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(command: u8, family: u8, body: Vec<u8>) {
            if let Ok(Some(source)) = source(command, family, &body) {
                prop_assert_eq!(command, 0x21);
                prop_assert!(matches!((family >> 4, source), (1, IpAddr::V4(_)) | (2, _)));
            }
        }
    }
}
