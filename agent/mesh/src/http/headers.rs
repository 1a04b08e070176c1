//! What a proxy does to headers: takes away what is for one hop only (RFC 9110, 7.6.1),
//! tells who asked, and changes what a rule says.

use std::net::SocketAddr;

use hyper::{
    HeaderMap, Method, Version,
    header::{self, Entry, HeaderName, HeaderValue, OccupiedEntry},
};
use purlin_core::mesh::{model::HeaderEdit, trace::Trace};

const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Takes away what the sender says to be for one hop only. That comes before anything is
/// added: else a client could have taken away what a rule says of it.
pub fn end_named(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = (headers.get_all(header::CONNECTION).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !HOP_BY_HOP.contains(name))
        .collect();
    named.iter().for_each(|name| _ = headers.remove(name));
}

/// Takes away what is always for one hop only. `TE: trailers` stays: gRPC asks for it.
pub fn end_hop(headers: &mut HeaderMap) {
    let wants_trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    HOP_BY_HOP.iter().for_each(|name| _ = headers.remove(name));
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The protocol that a request asks to go on in, if it does.
pub fn wanted_upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE).filter(|_| version == Version::HTTP_11)?;
    says(headers, header::CONNECTION, "upgrade").then(|| upgrade.clone())
}

/// Whether a header that is a list has this in it.
pub fn says(headers: &HeaderMap, name: HeaderName, one: &str) -> bool {
    let has = |value: &HeaderValue| {
        let names = value.to_str().unwrap_or_default();
        names.split(',').any(|name| name.trim().eq_ignore_ascii_case(one))
    };
    headers.get_all(name).iter().any(has)
}

/// What is said of who asks.
pub fn of_peer(peer: SocketAddr) -> HeaderValue {
    let text = peer.ip().to_canonical().to_string();
    HeaderValue::from_str(&text).expect("an address")
}

/// Says who asked; what the client says of it itself goes before.
pub fn forwarded(headers: &mut HeaderMap, peer: &HeaderValue) {
    match headers.entry(FORWARDED_FOR) {
        Entry::Vacant(entry) => _ = entry.insert(peer.clone()),
        Entry::Occupied(mut entry) => {
            entry.append(peer.clone());
            join(&mut entry, b", ");
        }
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// Makes one cookie header of several: HTTP/2 may part them, HTTP/1 may not (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if let Entry::Occupied(mut entry) = headers.entry(header::COOKIE) {
        join(&mut entry, b"; ");
    }
}

fn join(entry: &mut OccupiedEntry<'_, HeaderValue>, with: &[u8]) {
    let all: Vec<_> = entry.iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(one) = HeaderValue::from_bytes(&all.join(with))
    {
        entry.insert(one);
    }
}

/// Which trace something belongs to.
pub fn of_trace(trace: Trace) -> HeaderValue {
    HeaderValue::from_bytes(&trace.header()).expect("hexadecimal digits and dashes")
}

/// Makes a rule's changes.
pub fn edit(headers: &mut HeaderMap, edit: &HeaderEdit) {
    let read = |(name, value): &(String, String)| {
        Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
    };
    for name in &edit.remove {
        headers.remove(name.as_str());
    }
    for (name, value) in edit.set.iter().filter_map(read) {
        headers.insert(name, value);
    }
    for (name, value) in edit.add.iter().filter_map(read) {
        headers.append(name, value);
    }
}

/// Whether doing it twice is as good as once (RFC 9110, 9.2.2), and it has no body to
/// send again.
pub fn may_repeat(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                name.parse::<HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            );
        }
        map
    }

    #[test]
    fn what_is_for_one_hop_stays_here() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret, upgrade"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        end_named(&mut headers);
        assert!(headers.contains_key("upgrade") && !headers.contains_key("x-secret"));
        end_hop(&mut headers);
        assert_eq!(headers, map(&[("accept", "*/*"), ("te", "trailers")]));
    }

    #[test]
    fn the_last_in_the_row_is_the_one_we_saw() {
        let mut headers = map(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]);
        forwarded(&mut headers, &of_peer("[::ffff:10.0.0.1]:7".parse().expect("an address")));
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.0.0.1");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    }

    #[test]
    fn an_upgrade_has_to_be_asked_for_twice() {
        let asked = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert!(wanted_upgrade(&asked, Version::HTTP_11).is_some());
        assert!(wanted_upgrade(&asked, Version::HTTP_10).is_none());
        assert!(wanted_upgrade(&map(&[("upgrade", "websocket")]), Version::HTTP_11).is_none());
    }
}
