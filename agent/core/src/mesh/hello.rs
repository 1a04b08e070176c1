//! The server name in a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), without ending
//! the TLS.

use alloc::{string::String, vec::Vec};

use super::host;

/// A ClientHello in more bytes than this is refused; with post-quantum key shares they
/// have about 2 KiB.
pub const MAX_BYTES: usize = 16 << 10;

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Not all of it is here yet.
    More,
    /// It names this server, normal; or none.
    Names(Option<String>),
    /// Not a ClientHello, or a damaged one.
    Not,
}

/// Reads as much of a connection as has come.
pub fn read(bytes: &[u8]) -> Hello {
    match handshake(bytes) {
        Ok(message) => match client_hello(&message) {
            Some(name) => Hello::Names(name),
            None => Hello::Not,
        },
        Err(hello) => hello,
    }
}

/// The first handshake message, put together from its records.
fn handshake(mut bytes: &[u8]) -> Result<Vec<u8>, Hello> {
    let mut message = Vec::new();
    loop {
        // Content type 22 is handshake; major version 3.
        for (at, wanted) in [(0, 22), (1, 3)] {
            match bytes.get(at) {
                None => return Err(Hello::More),
                Some(&byte) if byte != wanted => return Err(Hello::Not),
                Some(_) => {}
            }
        }
        let length: [u8; 2] =
            bytes.get(3..5).and_then(|it| it.try_into().ok()).ok_or(Hello::More)?;
        let length = usize::from(u16::from_be_bytes(length));
        if length == 0 || length > MAX_BYTES {
            return Err(Hello::Not);
        }
        let record = &bytes[5..bytes.len().min(5 + length)];
        message.extend_from_slice(record);
        if message.first().is_some_and(|&kind| kind != 1) || message.len() > MAX_BYTES {
            return Err(Hello::Not);
        }
        if let Some(&[_, a, b, c]) = message.get(..4) {
            let whole = 4 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
            if whole > MAX_BYTES {
                return Err(Hello::Not);
            }
            if message.len() >= whole {
                message.truncate(whole);
                return Ok(message);
            }
        }
        bytes = bytes.get(5 + length..).ok_or(Hello::More)?;
    }
}

/// The server name of a whole message; `None` if it is damaged.
fn client_hello(message: &[u8]) -> Option<Option<String>> {
    // Type and length, version, random.
    let mut rest = Reader(message.get(4 + 2 + 32..)?);
    rest.vector(1)?; // session id
    rest.vector(2)?; // cipher suites
    rest.vector(1)?; // compression methods
    if rest.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(rest.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut data = Reader(extensions.vector(2)?);
        if kind == 0 {
            let mut names = Reader(data.vector(2)?);
            let is_host = names.number(1)? == 0;
            let name = core::str::from_utf8(names.vector(2)?).ok()?;
            return (is_host && host::is_name(name)).then(|| host::normal(name));
        }
    }
    Some(None)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// Bytes after their count.
    fn vector(&mut self, bytes_of_count: usize) -> Option<&'a [u8]> {
        let count = self.number(bytes_of_count)?;
        self.take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(bytes_of_count: usize, data: &[u8]) -> Vec<u8> {
        let count = (data.len() as u32).to_be_bytes();
        [&count[4 - bytes_of_count..], data].concat()
    }

    /// A ClientHello, in records of at most `piece` bytes.
    fn hello(name: Option<&str>, piece: usize) -> Vec<u8> {
        let server_name = name.map(|name| {
            let names = [&[0][..], &vector(2, name.as_bytes())].concat();
            [&[0, 0][..], &vector(2, &vector(2, &names))].concat()
        });
        let other = [&[0, 43][..], &vector(2, &[2, 3, 4])].concat();
        let extensions = [other, server_name.unwrap_or_default()].concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &vector(1, &[]),
            &vector(2, &[0x13, 1]),
            &vector(1, &[0]),
            &vector(2, &extensions),
        ]
        .concat();
        let message = [&[1][..], &vector(3, &body)].concat();
        let record = |it: &[u8]| [&[22, 3, 1][..], &vector(2, it)].concat();
        message.chunks(piece).flat_map(record).collect()
    }

    #[test]
    fn a_name_is_found_in_whatever_records_it_comes() {
        for piece in [1, 10, 1000] {
            let bytes = hello(Some("Shop.Rack"), piece);
            assert_eq!(read(&bytes), Hello::Names(Some("shop.rack".into())));
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Hello::More, "{end} bytes of {}", bytes.len());
            }
        }
        assert_eq!(read(&hello(None, 1000)), Hello::Names(None));
    }

    #[test]
    fn what_is_none_is_told_at_once() {
        assert_eq!(read(b"G"), Hello::Not);
        assert_eq!(read(&[22, 3, 1, 0, 0]), Hello::Not);
        assert_eq!(read(&[22, 3, 1, 0xff, 0xff]), Hello::Not);
        assert_eq!(read(&hello(Some("a b"), 1000)), Hello::Not);
        let mut damaged = hello(Some("shop.rack"), 1000);
        damaged[5 + 4 + 34] = 200;
        assert_eq!(read(&damaged), Hello::Not);
    }
}
