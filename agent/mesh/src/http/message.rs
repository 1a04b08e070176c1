//! Heads of HTTP/1 messages: from bytes, and to bytes.

use std::{
    io::{self, Write},
    mem::MaybeUninit,
    time::SystemTime,
};

use httparse::{ParserConfig, Status};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::{Bytes, SizeHint},
    header::{self, Entry, HeaderName, HeaderValue},
    http::response,
};
use memchr::{memchr, memchr_iter};
use purlin_core::mesh::strict::{self, Length, MAX_FIELDS};

use super::headers::says;

/// Room for what is added on the way.
const MORE_FIELDS: usize = 4;

/// The head of a request, which the framer found to be well formed; `None`: but its target
/// is none.
pub fn request(head: &Bytes) -> Option<Request<()>> {
    let end = memchr(b'\r', head)?;
    let (method, target, is_http_10) = strict::request_line(&head[..end])?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice_ref(target)).ok()?;
    *request.version_mut() = if is_http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    let lines = memchr_iter(b'\n', head).count();
    *request.headers_mut() = HeaderMap::with_capacity(lines + MORE_FIELDS);
    fields(&head.slice(end + 2..), request.headers_mut()).ok()?;
    Some(request)
}

/// Whole lines that the framer found to be fields, up to an empty one.
pub fn fields(lines: &Bytes, into: &mut HeaderMap) -> io::Result<()> {
    let mut rest = &lines[..];
    while let Some(end) = memchr(b'\n', rest) {
        let line = rest[..end].trim_ascii_end();
        rest = &rest[end + 1..];
        let Some(colon) = memchr(b':', line) else { break };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        add(into, name, lines.slice_ref(value))?;
    }
    Ok(())
}

fn add(headers: &mut HeaderMap, name: &[u8], value: Bytes) -> io::Result<()> {
    let name = HeaderName::from_bytes(name).map_err(io::Error::other)?;
    let value = HeaderValue::from_maybe_shared(value).map_err(io::Error::other)?;
    headers.try_append(name, value).map_err(io::Error::other)?;
    Ok(())
}

/// The head of an answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status and fields.
    pub parts: response::Parts,
    /// How long its body is.
    pub length: Length,
    /// Whether another request may follow on the connection.
    pub may_stay: bool,
}

impl Answer {
    /// Whether the answer itself is still to come.
    pub fn is_interim(&self) -> bool {
        self.parts.status.is_informational() && self.parts.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Where the head of an answer ends, looked for from where the last look ended. Lines that
/// end in LF alone are let pass: there are endpoints that send them, and who reads them
/// alone can't be misled.
pub fn end_of_head(bytes: &[u8], looked: &mut usize) -> Option<usize> {
    while let Some(at) = memchr(b'\n', &bytes[*looked..]) {
        let next = *looked + at + 1;
        match &bytes[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            // What follows is to tell.
            [] | [b'\r'] => {
                *looked = next - 1;
                return None;
            }
            _ => *looked = next,
        }
    }
    *looked = bytes.len();
    None
}

/// The head of an answer to a request of that kind.
pub fn answer(head: &Bytes, is_to_head: bool) -> io::Result<Answer> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut fields)
        .map_err(io::Error::other)?;
    let (Status::Complete(_), Some(code)) = (status, parsed.code) else {
        return Err(io::Error::other("the head of the answer breaks off"));
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(code).map_err(io::Error::other)?;
    let is_http_10 = parsed.version == Some(0);
    parts.headers = HeaderMap::with_capacity(parsed.headers.len() + MORE_FIELDS);
    for field in parsed.headers.iter() {
        add(&mut parts.headers, field.name.as_bytes(), head.slice_ref(field.value))?;
    }
    let said = said_length(&parts.headers, is_http_10)?;
    if let Entry::Occupied(mut lengths) = parts.headers.entry(header::CONTENT_LENGTH)
        && lengths.iter().nth(1).is_some()
    {
        // They are one and the same, and are said once.
        let length = lengths.get().clone();
        lengths.insert(length);
    }
    let length = match () {
        () if is_to_head || has_no_body(parts.status) => Length::Exact(0),
        () => said.unwrap_or(Length::UntilClose),
    };
    let may_stay = length != Length::UntilClose
        && match is_http_10 {
            true => says(&parts.headers, header::CONNECTION, "keep-alive"),
            false => !says(&parts.headers, header::CONNECTION, "close"),
        };
    Ok(Answer { parts, length, may_stay })
}

/// How long an answer says that its body is. What could be read as two lengths is none:
/// nginx refuses it of its upstreams, too.
fn said_length(headers: &HeaderMap, is_http_10: bool) -> io::Result<Option<Length>> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.any(|it| Some(it) != length) {
        return Err(io::Error::other("the answer has two lengths"));
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let is_chunked =
            codings.next().is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"chunked"));
        return match is_chunked && codings.next().is_none() && length.is_none() && !is_http_10 {
            true => Ok(Some(Length::Chunked)),
            false => Err(io::Error::other("the answer has a transfer coding other than chunked")),
        };
    }
    let Some(length) = length else { return Ok(None) };
    let number = strict::number(length.as_bytes());
    number.map(|it| Some(Length::Exact(it))).ok_or_else(|| io::Error::other("its length is none"))
}

/// RFC 9110, 6.4.1; a HEAD's answer is another matter.
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// How long a body of that size is.
pub fn length_of(size: &SizeHint) -> Length {
    size.exact().map_or(Length::Chunked, Length::Exact)
}

/// Writes a request's head.
pub fn put_request<B>(out: &mut Vec<u8>, request: &Request<B>, length: Length) {
    let target = request.uri().path_and_query().map_or("/", |it| it.as_str());
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    put_fields(out, request.headers(), true);
    if !request.headers().contains_key(header::HOST) {
        // HTTP/1.0 may leave it out, and HTTP/1.1 may not (RFC 9112, 3.2).
        out.extend_from_slice(b"host: \r\n");
    }
    let is_empty = length == Length::Exact(0);
    let is_said = request.headers().contains_key(header::CONTENT_LENGTH)
        || matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if !is_empty || is_said {
        put_length(out, length);
    }
    out.extend_from_slice(b"\r\n");
}

/// What a request has told of how it wants to be answered.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Without a body.
    pub is_head: bool,
    /// By HTTP/1.0, which knows no chunks.
    pub is_http_10: bool,
    /// Whether another request may follow.
    pub may_stay: bool,
    /// With fields after the body.
    pub wants_trailers: bool,
}

impl Asked {
    /// By this head.
    pub fn of(request: &Request<()>) -> Self {
        let is_http_10 = request.version() == Version::HTTP_10;
        let headers = request.headers();
        Self {
            is_head: request.method() == Method::HEAD,
            is_http_10,
            may_stay: match is_http_10 {
                true => says(headers, header::CONNECTION, "keep-alive"),
                false => !says(headers, header::CONNECTION, "close"),
            },
            wants_trailers: says(headers, header::TE, "trailers"),
        }
    }

    /// Writes an answer's head; says how long its body is, and whether the connection stays.
    pub fn put_answer(
        self,
        out: &mut Vec<u8>,
        parts: &response::Parts,
        size: &SizeHint,
        is_switch: bool,
    ) -> (Length, bool) {
        let status = parts.status;
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        let is_empty = self.is_head || is_switch || has_no_body(status);
        let length = match length_of(size) {
            _ if is_empty => Length::Exact(0),
            Length::Chunked if self.is_http_10 => Length::UntilClose,
            length => length,
        };
        put_fields(out, &parts.headers, !is_empty);
        if !is_empty {
            put_length(out, length);
        } else if self.is_head
            && let Some(length @ 1..) = size.exact()
        {
            // Our own words, which a GET would be told.
            put_length(out, Length::Exact(length));
        }
        if !parts.headers.contains_key(header::DATE) && !status.is_informational() {
            _ = write!(out, "date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
        }
        let is_last = says(&parts.headers, header::CONNECTION, "close");
        let may_stay = self.may_stay && !is_last && length != Length::UntilClose;
        match () {
            () if is_switch || is_last => {}
            () if !may_stay => out.extend_from_slice(b"connection: close\r\n"),
            () if self.is_http_10 => out.extend_from_slice(b"connection: keep-alive\r\n"),
            () => {}
        }
        out.extend_from_slice(b"\r\n");
        (length, may_stay)
    }
}

/// Writes fields; how long the body is, whoever writes it knows better.
pub fn put_fields(out: &mut Vec<u8>, headers: &HeaderMap, is_framed: bool) {
    for (name, value) in headers {
        if is_framed && (name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING) {
            continue;
        }
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
}

fn put_length(out: &mut Vec<u8>, length: Length) {
    match length {
        Length::Exact(length) => _ = write!(out, "content-length: {length}\r\n"),
        Length::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Length::UntilClose => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_where_it_ends_whatever_pieces_it_comes_in() {
        for (text, rest) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\n", 8),
            ("HTTP/1.1 200 OK\nA: b\n\nbody\n\n", 6),
            ("HTTP/1.1 200 OK\r\n\nbody", 4),
        ] {
            for piece in 1..text.len() {
                let (mut looked, mut end) = (0, None);
                for come in (0..=text.len()).step_by(piece).chain([text.len()]) {
                    end = end.or_else(|| end_of_head(&text.as_bytes()[..come], &mut looked));
                }
                assert_eq!(end, Some(text.len() - rest), "{text:?} in pieces of {piece}");
            }
        }
        assert_eq!(end_of_head(b"HTTP/1.1 200 OK\r\nA: b\r\n\r", &mut 0), None);
    }

    #[test]
    fn what_may_be_read_in_two_ways_is_no_length() {
        let said = |fields: &str| {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            answer(&Bytes::from(head), false).map(|it| (it.length, it.may_stay)).ok()
        };
        for (fields, expected) in [
            ("A: b", Some((Length::UntilClose, false))),
            ("Content-Length: 7", Some((Length::Exact(7), true))),
            ("Content-Length: 7\r\nContent-Length: 7", Some((Length::Exact(7), true))),
            ("Content-Length: 7\r\nConnection: x, Close", Some((Length::Exact(7), false))),
            ("Transfer-Encoding: CHUNKED", Some((Length::Chunked, true))),
            ("Content-Length: 7\r\nContent-Length: 8", None),
            ("Content-Length: 7, 7", None),
            ("Content-Length: -7", None),
            ("Content-Length: 7\r\nTransfer-Encoding: chunked", None),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", None),
            ("Transfer-Encoding: gzip", None),
        ] {
            assert_eq!(said(fields), expected, "{fields:?}");
        }
    }
}
