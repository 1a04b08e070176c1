//! HTTP/1 as RFC 9112 has it and not a byte looser: what two readers could take for
//! two different messages (request smuggling) is refused before a parser sees it.
//!
//! [`Framer`] is shown the bytes of a connection and says what they are, line by line:
//! what belongs to a head, what to a body, and where a message ends. Two lengths, a length
//! beside a transfer coding, a bare CR or LF, folded lines, spaces before a colon and loose
//! chunk sizes are none of it. It keeps no byte itself.

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

/// What the next bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Too few to tell.
    More,
    /// So many of a head, or of what sets off a body.
    Framing(usize),
    /// So many, and the head is whole with them.
    Head(usize),
    /// So many of a body.
    Body(usize),
    /// A field of a trailer, so long with its line's end.
    Trailer(usize),
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes, or none.
    Exact(u64),
    /// It says so itself, piece by piece.
    Chunked,
    /// Until the connection ends; only an answer may be that long.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Between,
    Fields,
    Body(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailer,
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

/// Follows the messages of one connection.
#[derive(Debug)]
pub struct Framer {
    state: State,
    head: Head,
}

impl Default for Framer {
    /// Before a request.
    fn default() -> Self {
        Self { state: State::Between, head: Head::default() }
    }
}

impl Framer {
    /// Before a body whose head somebody else has read.
    pub fn of_body(length: Length) -> Self {
        let mut framer = Self::default();
        framer.begin_body(length);
        framer
    }

    /// Whether a message is over, and nothing of the next one was taken.
    pub fn is_between(&self) -> bool {
        self.state == State::Between && self.head.bytes == 0
    }

    /// Whether the head of a request is under way.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Fields || self.state == State::Between && self.head.bytes > 0
    }

    /// How long what is left of the body is.
    pub fn left(&self) -> Length {
        match self.state {
            State::Body(left) => Length::Exact(left),
            State::Between | State::Fields => Length::Exact(0),
            State::UntilClose => Length::UntilClose,
            _ => Length::Chunked,
        }
    }

    /// Whether the next bytes are a body's own.
    pub fn is_in_data(&self) -> bool {
        matches!(self.state, State::Body(_) | State::ChunkData(_) | State::UntilClose)
    }

    /// Says what these bytes begin with, and takes it as read.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        match &mut self.state {
            _ if bytes.is_empty() => Ok(Step::More),
            State::UntilClose => Ok(Step::Body(bytes.len())),
            State::Body(left) | State::ChunkData(left) => {
                let taken = (bytes.len() as u64).min(*left);
                *left -= taken;
                match self.state {
                    State::Body(0) => self.next_message(),
                    State::ChunkData(0) => self.state = State::ChunkEnd,
                    _ => {}
                }
                Ok(Step::Body(taken as usize))
            }
            _ => self.step_line(bytes),
        }
    }

    /// Takes a line, if it is whole.
    fn step_line(&mut self, bytes: &[u8]) -> Result<Step, Violation> {
        let end = memchr(b'\n', bytes);
        let length = end.map_or(bytes.len(), |end| end + 1);
        let (limit, violation) = match self.state {
            State::ChunkSize | State::ChunkEnd => (MAX_CHUNK_LINE, Violation::Chunk),
            State::Trailer => (MAX_TRAILER, Violation::TooLarge),
            _ => (MAX_HEAD, Violation::TooLarge),
        };
        if self.head.bytes + length > limit {
            return Err(violation);
        }
        if end.is_none() {
            // Garbage is known by its first bytes, before any line ends.
            return match self.state {
                State::Between => begins_well(bytes).map(|()| Step::More),
                _ => Ok(Step::More),
            };
        }
        self.head.bytes += length;
        let line = bytes[..length].strip_suffix(b"\r\n").ok_or(Violation::BareLf)?;
        match self.state {
            State::Between if line.is_empty() => {
                self.head.empty_lines += 1;
                self.head.bytes = 0;
                if self.head.empty_lines > MAX_EMPTY_LINES {
                    return Err(Violation::RequestLine);
                }
            }
            State::Between => self.request_line(line)?,
            State::Fields if line.is_empty() => {
                self.end_of_head()?;
                return Ok(Step::Head(length));
            }
            State::Fields => self.field(line)?,
            State::ChunkSize => self.chunk_size(line)?,
            State::ChunkEnd if line.is_empty() => self.begin_body(Length::Chunked),
            State::ChunkEnd => return Err(Violation::Chunk),
            State::Trailer if line.is_empty() => self.next_message(),
            State::Trailer => {
                trailer(line)?;
                return Ok(Step::Trailer(length));
            }
            State::Body(_) | State::ChunkData(_) | State::UntilClose => {}
        }
        Ok(Step::Framing(length))
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        is_plain(line)?;
        let (_, _, is_http_10) = request_line(line).ok_or(Violation::RequestLine)?;
        self.head.is_http_10 = is_http_10;
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
            (None, true) => self.begin_body(Length::Chunked),
            (length, false) => self.begin_body(Length::Exact(length.unwrap_or(0))),
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

    fn begin_body(&mut self, length: Length) {
        self.head.bytes = 0;
        match length {
            Length::Exact(0) => self.next_message(),
            Length::Exact(length) => self.state = State::Body(length),
            Length::Chunked => self.state = State::ChunkSize,
            Length::UntilClose => self.state = State::UntilClose,
        }
    }

    fn next_message(&mut self) {
        *self = Self::default();
    }
}

/// The request line of a head that is whole: method and target, and whether it is HTTP/1.0.
pub fn request_line(line: &[u8]) -> Option<(&[u8], &[u8], bool)> {
    let mut words = line.split(|&b| b == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let is_http_10 = match words.next()? {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return None,
    };
    let is_target = !target.is_empty() && target.iter().all(|&b| b > b' ' && b != 0x7f);
    (is_token(method) && is_target && words.next().is_none())
        .then_some((method, target, is_http_10))
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
    // Without a way out on the way, so that many bytes are looked at at once.
    if text.iter().fold(true, |plain, &b| plain & ((b >= b' ') & (b != 0x7f) | (b == b'\t'))) {
        return Ok(());
    }
    match memchr2(b'\r', 0, text) {
        Some(at) if text[at] == b'\r' => Err(Violation::BareCr),
        _ => Err(Violation::FieldValue),
    }
}

/// A length: digits, and few enough.
pub fn number(text: &[u8]) -> Option<u64> {
    let is_number = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&b| is_token_byte(b))
}

/// RFC 9110, 5.6.2.
fn is_token_byte(b: u8) -> bool {
    const IS: [bool; 256] = {
        let (mut is, mut b) = ([false; 256], 0);
        while b < 256 {
            is[b] = matches!(b as u8, b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
                || matches!(b as u8, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.');
            b += 1;
        }
        is
    };
    IS[usize::from(b)]
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::String, vec::Vec};

    use super::{Violation::*, *};

    /// The same, whatever pieces it comes in.
    #[track_caller]
    fn check(text: &str, expected: Result<bool, Violation>) {
        for piece in [1, 2, 3, 7, text.len().max(1)] {
            let (mut framer, mut unread) = (Framer::default(), Vec::new());
            let mut pieces = text.as_bytes().chunks(piece);
            let fed = pieces.try_for_each(|piece| feed(&mut framer, &mut unread, piece));
            let is_between = fed.map(|()| framer.is_between() && unread.is_empty());
            assert_eq!(is_between, expected, "{text:?} in pieces of {piece}");
        }
    }

    fn feed(framer: &mut Framer, unread: &mut Vec<u8>, piece: &[u8]) -> Result<(), Violation> {
        unread.extend_from_slice(piece);
        loop {
            match framer.step(unread)? {
                Step::More => return Ok(()),
                Step::Framing(taken)
                | Step::Head(taken)
                | Step::Body(taken)
                | Step::Trailer(taken) => _ = unread.drain(..taken),
            }
        }
    }

    #[test]
    fn a_token_is_what_rfc_9110_says() {
        let by_the_book = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        assert!((0..=255).all(|b| is_token_byte(b) == by_the_book(b)));
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
        let (mut framer, mut unread) = (Framer::default(), Vec::new());
        let mut fed = feed(&mut framer, &mut unread, b"GET /");
        for _ in 0..MAX_HEAD {
            fed = fed.and_then(|()| feed(&mut framer, &mut unread, b"a"));
        }
        assert_eq!(fed, Err(TooLarge));
        let many: String = (0..=MAX_FIELDS).map(|n| format!("x{n}: y\r\n")).collect();
        check(&format!("GET / HTTP/1.1\r\n{many}"), Err(TooLarge));
    }
}
