//! HTTP/1 as RFC 9112 has it and not a byte looser: what two readers could take for
//! two different messages (request smuggling) is refused before a parser sees it.
//!
//! [`Guard`] is fed the bytes of a connection as they come, and follows the framing by
//! itself: two lengths, a length beside a transfer coding, a bare CR or LF, folded
//! lines, spaces before a colon, loose chunk sizes. It keeps at most one line.

use alloc::vec::Vec;
use core::fmt;

use memchr::{memchr, memchr2};

/// Largest head of a request in bytes: four times HAProxy's and nginx's usual buffer.
pub const MAX_HEAD: usize = 64 << 10;
/// Most header fields of a request; 100 is what others allow.
pub const MAX_FIELDS: usize = 128;
/// Longest line that sets off a chunk, extensions included.
const MAX_CHUNK_LINE: usize = 256;
/// Largest trailer section in bytes.
const MAX_TRAILER: usize = 8 << 10;
/// Empty lines before a request that are passed over (RFC 9112, 2.2, asks for one).
const MAX_EMPTY_LINES: u8 = 2;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Violation {
    RequestLine,
    BareCr,
    BareLf,
    Folding,
    FieldName,
    FieldValue,
    TwoLengths,
    Length,
    LengthAndCoding,
    Coding,
    Host,
    Chunk,
    TooLarge,
}

impl Violation {
    /// All of them, in the order of their values.
    pub const ALL: [Violation; 13] = [
        Violation::RequestLine,
        Violation::BareCr,
        Violation::BareLf,
        Violation::Folding,
        Violation::FieldName,
        Violation::FieldValue,
        Violation::TwoLengths,
        Violation::Length,
        Violation::LengthAndCoding,
        Violation::Coding,
        Violation::Host,
        Violation::Chunk,
        Violation::TooLarge,
    ];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Violation::RequestLine => "request_line",
            Violation::BareCr => "bare_cr",
            Violation::BareLf => "bare_lf",
            Violation::Folding => "folding",
            Violation::FieldName => "field_name",
            Violation::FieldValue => "field_value",
            Violation::TwoLengths => "two_lengths",
            Violation::Length => "length",
            Violation::LengthAndCoding => "length_and_coding",
            Violation::Coding => "coding",
            Violation::Host => "host",
            Violation::Chunk => "chunk",
            Violation::TooLarge => "too_large",
        }
    }

    /// The status that it is answered with.
    pub fn status(self) -> u16 {
        match self {
            Violation::TooLarge => 431,
            Violation::Coding => 501,
            _ => 400,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Violation::RequestLine => "the request line is not METHOD TARGET HTTP/1.1",
            Violation::BareCr => "a CR without LF",
            Violation::BareLf => "a LF without CR",
            Violation::Folding => "a header that goes on in the next line",
            Violation::FieldName => "a header's name has a character that none may have",
            Violation::FieldValue => "a header's value has a control character",
            Violation::TwoLengths => "two Content-Length headers",
            Violation::Length => "a Content-Length that is no number",
            Violation::LengthAndCoding => "Content-Length beside Transfer-Encoding",
            Violation::Coding => "a Transfer-Encoding other than chunked",
            Violation::Host => "not exactly one Host header",
            Violation::Chunk => "a chunk that is not framed as RFC 9112 has it",
            Violation::TooLarge => "the head of the request is too large",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    Fields,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer,
    Tunnel,
}

/// What a head has said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    bytes: usize,
    fields: usize,
    empty_lines: u8,
    is_http_10: bool,
    hosts: u8,
    length: Option<u64>,
    is_chunked: bool,
}

/// Follows one connection's requests.
#[derive(Debug)]
pub struct Guard {
    state: State,
    head: Head,
    /// Beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { state: State::Between, head: Head::default(), partial: Vec::new() }
    }
}

impl Guard {
    /// Whether nothing of a next request has come yet.
    pub fn is_between(&self) -> bool {
        self.state == State::Between && self.partial.is_empty() && self.head.bytes == 0
    }

    /// Whether a request's head is under way.
    pub fn is_in_head(&self) -> bool {
        !self.is_between() && matches!(self.state, State::Between | State::Fields)
    }

    /// From here on the bytes are no HTTP any more.
    pub fn tunnel(&mut self) {
        self.state = State::Tunnel;
        self.partial = Vec::new();
    }

    /// Takes what came next.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Tunnel => return Ok(()),
                State::Body(left) | State::ChunkData(left) => {
                    let taken = (bytes.len() as u64).min(*left);
                    *left -= taken;
                    bytes = &bytes[taken as usize..];
                    match self.state {
                        State::Body(0) => self.next_message(),
                        State::ChunkData(0) => self.state = State::ChunkEnd,
                        _ => {}
                    }
                }
                _ => bytes = self.feed_line(bytes)?,
            }
        }
        Ok(())
    }

    /// Takes a line, or what there is of it.
    fn feed_line<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        let (line, rest, is_whole) = match memchr(b'\n', bytes) {
            Some(end) => (&bytes[..=end], &bytes[end + 1..], true),
            None => (bytes, &[][..], false),
        };
        self.head.bytes += line.len();
        let (limit, violation) = match self.state {
            State::ChunkSize | State::ChunkEnd => (MAX_CHUNK_LINE, Violation::Chunk),
            State::Trailer => (MAX_TRAILER, Violation::TooLarge),
            _ => (MAX_HEAD, Violation::TooLarge),
        };
        if self.head.bytes > limit {
            return Err(violation);
        }
        if !is_whole {
            self.partial.extend_from_slice(line);
            // Garbage is known by its first bytes, before any line ends.
            return if self.state == State::Between {
                begins_well(&self.partial).map(|()| rest)
            } else {
                Ok(rest)
            };
        }
        if self.partial.is_empty() {
            self.line(line)?;
        } else {
            let mut whole = core::mem::take(&mut self.partial);
            whole.extend_from_slice(line);
            self.line(&whole)?;
        }
        Ok(rest)
    }

    /// Takes a whole line.
    fn line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let line = line.strip_suffix(b"\r\n").ok_or(Violation::BareLf)?;
        match self.state {
            State::Between if line.is_empty() => {
                self.head.empty_lines += 1;
                self.head.bytes = 0;
                if self.head.empty_lines > MAX_EMPTY_LINES {
                    Err(Violation::RequestLine)
                } else {
                    Ok(())
                }
            }
            State::Between => self.request_line(line),
            State::Fields if line.is_empty() => self.end_of_head(),
            State::Fields => self.field(line),
            State::ChunkSize => self.chunk_size(line),
            State::ChunkEnd if line.is_empty() => {
                self.begin_chunk();
                Ok(())
            }
            State::ChunkEnd => Err(Violation::Chunk),
            State::Trailer if line.is_empty() => {
                self.next_message();
                Ok(())
            }
            State::Trailer => trailer(line),
            State::Body(_) | State::ChunkData(_) | State::Tunnel => Ok(()),
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        is_plain(line)?;
        let mut words = line.split(|&b| b == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        self.head.is_http_10 = match version {
            Some(b"HTTP/1.1") => false,
            Some(b"HTTP/1.0") => true,
            _ => return Err(Violation::RequestLine),
        };
        let is_target = |it: &[u8]| !it.is_empty() && it.iter().all(|&b| b > b' ' && b != 0x7f);
        let whole =
            method.is_some_and(is_token) && target.is_some_and(is_target) && words.next().is_none();
        if !whole {
            return Err(Violation::RequestLine);
        }
        self.state = State::Fields;
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = split_field(line)?;
        self.head.fields += 1;
        if self.head.fields > MAX_FIELDS {
            return Err(Violation::TooLarge);
        }
        // By length first: almost no header is one of these.
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.head.length.is_some() {
                    return Err(Violation::TwoLengths);
                }
                self.head.length = Some(number(value).ok_or(Violation::Length)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.head.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::Coding);
                }
                self.head.is_chunked = true;
            }
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.head.hosts = self.head.hosts.saturating_add(1)
            }
            _ => {}
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Violation> {
        let head = self.head;
        if head.hosts > 1 || head.hosts == 0 && !head.is_http_10 {
            return Err(Violation::Host);
        }
        match (head.length, head.is_chunked) {
            (Some(_), true) => return Err(Violation::LengthAndCoding),
            (None, true) if head.is_http_10 => return Err(Violation::Coding),
            (None, true) => self.begin_chunk(),
            (None | Some(0), false) => self.next_message(),
            (Some(length), false) => self.state = State::Body(length),
        }
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        let digits = &line[..memchr(b';', line).unwrap_or(line.len())];
        let is_hex = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        is_plain(line).map_err(|_| Violation::Chunk)?;
        if !is_hex {
            return Err(Violation::Chunk);
        }
        let hex = |size: u64, digit: &u8| {
            size << 4 | u64::from((*digit as char).to_digit(16).unwrap_or_default())
        };
        self.head.bytes = 0;
        self.state = match digits.iter().fold(0, hex) {
            0 => State::Trailer,
            size => State::ChunkData(size),
        };
        Ok(())
    }

    fn begin_chunk(&mut self) {
        self.head.bytes = 0;
        self.state = State::ChunkSize;
    }

    fn next_message(&mut self) {
        *self = Self::default();
    }
}

/// A method is a few letters; whatever else comes is not HTTP.
fn begins_well(partial: &[u8]) -> Result<(), Violation> {
    let method = &partial[..memchr(b' ', partial).unwrap_or(partial.len()).min(32)];
    let is_start = |&b: &u8| is_token_byte(b) || matches!(b, b'\r');
    if method.iter().all(is_start) { Ok(()) } else { Err(Violation::RequestLine) }
}

/// The name of a field and its value without the spaces around it.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::Folding);
    }
    let colon = memchr(b':', line).ok_or(Violation::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Violation::FieldName);
    }
    is_plain(value)?;
    Ok((name, value.trim_ascii()))
}

fn trailer(line: &[u8]) -> Result<(), Violation> {
    let (name, _) = split_field(line)?;
    // What frames a message may not come after it (RFC 9110, 6.5.1).
    let frames = [&b"content-length"[..], b"transfer-encoding", b"host"];
    if frames.iter().any(|it| name.eq_ignore_ascii_case(it)) {
        Err(Violation::FieldName)
    } else {
        Ok(())
    }
}

/// No control character but a tab.
fn is_plain(text: &[u8]) -> Result<(), Violation> {
    if memchr2(b'\r', 0, text).is_some_and(|at| text[at] == b'\r') {
        return Err(Violation::BareCr);
    }
    match text.iter().all(|&b| b >= b' ' && b != 0x7f || b == b'\t') {
        true => Ok(()),
        false => Err(Violation::FieldValue),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let is_number = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

/// RFC 9110, 5.6.2.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::String};

    use super::{Violation::*, *};

    /// The same, whatever pieces it comes in.
    #[track_caller]
    fn check(text: &str, expected: Result<bool, Violation>) {
        for piece in [1, 2, 3, 7, text.len().max(1)] {
            let mut guard = Guard::default();
            let fed = text.as_bytes().chunks(piece).try_for_each(|piece| guard.feed(piece));
            assert_eq!(fed.map(|()| guard.is_between()), expected, "{text:?} in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_well_framed_passes() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        check(get, Ok(true));
        check(&format!("\r\n{get}{get}"), Ok(true));
        check("GET / HTTP/1.0\r\n\r\n", Ok(true));
        check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", Ok(false));
        check(&format!("POST / HTTP/1.1\r\nHost: a\r\ncontent-length:3\r\n\r\nabc{get}"), Ok(true));
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{chunked}3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n{get}"), Ok(true));
        check(&format!("{chunked}3\r\nabc\r\n"), Ok(false));
        check("GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\t y\r\n", Ok(false));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        for (fields, violation) in [
            ("Content-Length: 3\r\nTransfer-Encoding: chunked", LengthAndCoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3", LengthAndCoding),
            ("Content-Length: 3\r\nContent-Length: 3", TwoLengths),
            ("Content-Length: 3, 3", Length),
            ("Content-Length: +3", Length),
            ("Content-Length:", Length),
            ("Content-Length: 0x3", Length),
            ("Content-Length: 99999999999999999999", Length),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Coding),
            ("Transfer-Encoding: gzip, chunked", Coding),
            ("Transfer-Encoding: identity", Coding),
            ("Transfer-Encoding:\u{b}chunked", FieldValue),
            ("Content-Length : 3", FieldName),
            (" Content-Length: 3", Folding),
            ("X: a\r\n b", Folding),
            ("X: a\rb", BareCr),
            ("X: a\nY: b", BareLf),
            ("X\u{0}: a", FieldName),
            ("X: a\u{0}", FieldValue),
            (": a", FieldName),
            ("no colon", FieldName),
            ("Host: b", Host),
        ] {
            check(&head(fields), Err(violation));
        }
        check("GET / HTTP/1.1\r\n\r\n", Err(Host));
        check("GET / HTTP/1.1\n", Err(BareLf));
        for line in
            ["GET  / HTTP/1.1", "GET /", "GET / HTTP/1.2", "GET / HTTP/1.1 ", "G\tT / HTTP/1.1"]
        {
            check(&format!("{line}\r\nHost: a\r\n\r\n"), Err(RequestLine));
        }
        check("\r\n\r\n\r\n", Err(RequestLine));
        check("\u{16}\u{3}\u{1}", Err(RequestLine));
    }

    #[test]
    fn chunks_are_read_to_the_letter() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (body, violation) in [
            ("3\nabc", BareLf),
            ("3 \r\nabc", Chunk),
            ("0x3\r\nabc", Chunk),
            ("-1\r\n", Chunk),
            ("\r\n", Chunk),
            ("3\r\nabcd\r\n", Chunk),
            ("3;a\rb\r\n", Chunk),
            ("1000000000000000\r\n", Chunk),
            ("0\r\nContent-Length: 3\r\n", FieldName),
        ] {
            check(&format!("{head}{body}"), Err(violation));
        }
        check(&format!("{head}3;{}", "x".repeat(MAX_CHUNK_LINE)), Err(Chunk));
    }

    #[test]
    fn a_head_has_a_bound_however_slowly_it_comes() {
        let mut guard = Guard::default();
        let mut fed = guard.feed(b"GET /");
        for _ in 0..MAX_HEAD {
            fed = fed.and_then(|()| guard.feed(b"a"));
        }
        assert_eq!(fed, Err(TooLarge));
        let many: String = (0..=MAX_FIELDS).map(|n| format!("x{n}: y\r\n")).collect();
        check(&format!("GET / HTTP/1.1\r\n{many}"), Err(TooLarge));
    }
}
