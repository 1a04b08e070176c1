//! Answers of DNS for names under `.mesh`, and for no other: it is no resolver.
//!
//! A query is a header, one question and perhaps EDNS's record (RFC 1035, 4.1; RFC 6891),
//! so that is all that is read. Whatever is under `.mesh` is known here for certain: what
//! doesn't exist is said not to (RFC 2308), and all else is refused.

use alloc::{string::String, vec::Vec};
use core::net::IpAddr;

use super::model::Transport;

/// The zone, as its last label.
pub const ZONE: &str = "mesh";
/// What goes through any network in one piece (DNS flag day 2020).
pub const MAX_UDP: usize = 1232;
/// What every client takes (RFC 1035, 4.2.1).
const MIN_UDP: usize = 512;
/// Over TCP; sixteen addresses have 448.
pub const MAX_TCP: usize = 4096;
/// Of a name (RFC 1035, 3.1).
const MAX_NAME: usize = 255;
/// Records of a query that are looked through for EDNS's; there is TSIG beside it at most.
const MAX_RECORDS: u16 = 4;
/// Seconds that an answer is kept: a table may change, and asking costs little on a node.
const TTL: u32 = 5;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
const IS_ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const IS_AUTHORITY: u16 = 0x0400;
const IS_CUT: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
/// A name that stands elsewhere in the message.
const POINTER: u16 = 0xc000;

/// What came of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are RFC 1035's")]
pub enum Outcome {
    NoError,
    FormatError,
    NameError,
    NotImplemented,
    Refused,
    BadVersion,
}

impl Outcome {
    /// All of them, in the order of their values.
    pub const ALL: [Outcome; 6] = [
        Outcome::NoError,
        Outcome::FormatError,
        Outcome::NameError,
        Outcome::NotImplemented,
        Outcome::Refused,
        Outcome::BadVersion,
    ];

    /// For people and machines.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::NoError => "answered",
            Outcome::FormatError => "malformed",
            Outcome::NameError => "no such name",
            Outcome::NotImplemented => "not implemented",
            Outcome::Refused => "refused",
            Outcome::BadVersion => "unknown version of EDNS",
        }
    }

    /// RFC 1035, 4.1.1, and RFC 6891, 9.
    fn code(self) -> u16 {
        match self {
            Outcome::NoError => 0,
            Outcome::FormatError => 1,
            Outcome::NameError => 3,
            Outcome::NotImplemented => 4,
            Outcome::Refused => 5,
            Outcome::BadVersion => 16,
        }
    }
}

/// Answers a query, in no more bytes than the client takes. `known`
/// has the addresses of a name without the zone; `None`: there is no such name. Nothing is
/// answered to what is no query.
pub fn answer(
    query: &[u8],
    over: Transport,
    known: impl FnOnce(&str) -> Option<Vec<IpAddr>>,
) -> Option<(Outcome, Vec<u8>)> {
    let header = query.first_chunk::<HEADER>()?;
    let [id, flags, counts @ ..] = fields(header);
    if flags & IS_ANSWER != 0 {
        return None;
    }
    let mut answer = Answer {
        bytes: Vec::new(),
        id,
        flags: IS_ANSWER | flags & (OPCODE | RECURSION_DESIRED),
        counts: [0; 4],
        edns: None,
    };
    if flags & OPCODE != 0 {
        return Some(answer.end(Outcome::NotImplemented));
    }
    let Some((question, edns)) = read(query, counts) else {
        return Some(answer.end(Outcome::FormatError));
    };
    answer.edns = edns;
    answer.bytes.extend(&query[HEADER..question.end]);
    answer.counts[0] = 1;
    if edns.is_some_and(|it| it.version > 0) {
        return Some(answer.end(Outcome::BadVersion));
    }
    let below = question.name.strip_suffix(ZONE);
    let name = below.and_then(|it| if it.is_empty() { Some(it) } else { it.strip_suffix('.') });
    let (Some(name), CLASS_IN) = (name, question.class) else {
        return Some(answer.end(Outcome::Refused));
    };
    answer.flags |= IS_AUTHORITY;
    // Where the zone's label is: four letters, their number before them, the root after.
    let zone = POINTER | (question.name_end - ZONE.len() - 2) as u16;
    let addresses = if name.is_empty() { Some(Vec::new()) } else { known(name) };
    let is_known = addresses.is_some();
    for address in addresses.unwrap_or_default() {
        answer.address(question.kind, address);
    }
    if name.is_empty() && question.kind == TYPE_SOA {
        answer.soa(zone, 1);
    } else if answer.counts[1] == 0 {
        answer.soa(zone, 2);
    }
    let most = match over {
        Transport::Stream => MAX_TCP,
        Transport::Datagram => edns.map_or(MIN_UDP, |it| it.takes.clamp(MIN_UDP, MAX_UDP)),
    };
    if HEADER + answer.bytes.len() + EDNS_BYTES > most {
        answer.flags |= IS_CUT;
        answer.bytes.truncate(question.end - HEADER);
        answer.counts = [1, 0, 0, 0];
    }
    Some(answer.end(if is_known { Outcome::NoError } else { Outcome::NameError }))
}

/// A header's six numbers.
fn fields(header: &[u8; HEADER]) -> [u16; 6] {
    let (pairs, _) = header.as_chunks::<2>();
    core::array::from_fn(|n| u16::from_be_bytes(pairs[n]))
}

struct Question {
    /// In lower case. A label with a dot in it is nobody's, and stands as `\`.
    name: String,
    /// Where the name ends in the query.
    name_end: usize,
    /// Where the question ends.
    end: usize,
    kind: u16,
    class: u16,
}

/// What EDNS's record says.
#[derive(Clone, Copy, Debug)]
struct Edns {
    takes: usize,
    version: u8,
}

/// Its record in an answer.
const EDNS_BYTES: usize = 11;

fn read(query: &[u8], counts: [u16; 4]) -> Option<(Question, Option<Edns>)> {
    let [1, 0, 0, more] = counts else { return None };
    let (mut name, mut at) = (String::new(), HEADER);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // Those above are pointers, and there is nothing before it to point to.
        let label = query.get(at..at + length).filter(|_| length < 64)?;
        at += length;
        if !name.is_empty() {
            name.push('.');
        }
        match core::str::from_utf8(label) {
            Ok(text) if !text.contains('.') => name.push_str(&text.to_ascii_lowercase()),
            _ => name.push('\\'),
        }
    }
    let name_end = at;
    let (kind, at) = number(query, at)?;
    let (class, end) = number(query, at)?;
    if name_end - HEADER > MAX_NAME || more > MAX_RECORDS {
        return None;
    }
    let (mut edns, mut at) = (None, end);
    for _ in 0..more {
        let (record, next) = record(query, at)?;
        at = next;
        // There is one at most (RFC 6891, 6.1.1).
        if let Some(record) = record
            && edns.replace(record).is_some()
        {
            return None;
        }
    }
    (at == query.len()).then_some((Question { name, name_end, end, kind, class }, edns))
}

/// A record of a query, if it is EDNS's, and where the next one begins.
fn record(query: &[u8], mut at: usize) -> Option<(Option<Edns>, usize)> {
    let is_root = *query.get(at)? == 0;
    loop {
        let length = usize::from(*query.get(at)?);
        at += match length {
            0 => 1,
            1..64 => length + 1,
            192.. => 2,
            _ => return None,
        };
        if length == 0 || length >= 192 {
            break;
        }
    }
    let (kind, at) = number(query, at)?;
    let (class, at) = number(query, at)?;
    let (extended, at) = number(query, at)?;
    let (_, at) = number(query, at)?;
    let (length, at) = number(query, at)?;
    let end = at + usize::from(length);
    let edns = Edns { takes: class.into(), version: extended as u8 };
    (end <= query.len()).then_some(((is_root && kind == TYPE_OPT).then_some(edns), end))
}

fn number(query: &[u8], at: usize) -> Option<(u16, usize)> {
    let bytes = query.get(at..)?.first_chunk()?;
    Some((u16::from_be_bytes(*bytes), at + 2))
}

struct Answer {
    /// What comes after the header.
    bytes: Vec<u8>,
    id: u16,
    flags: u16,
    counts: [u16; 4],
    edns: Option<Edns>,
}

impl Answer {
    fn put(&mut self, numbers: &[u16]) {
        self.bytes.extend(numbers.iter().flat_map(|it| it.to_be_bytes()));
    }

    /// An address of the name that was asked for, if it is of that kind.
    fn address(&mut self, kind: u16, address: IpAddr) {
        // The question's name is right after the header.
        let mut record = |bytes: &[u8]| {
            self.put(&[POINTER | HEADER as u16, kind, CLASS_IN, 0, TTL as u16, bytes.len() as u16]);
            self.bytes.extend(bytes);
            self.counts[1] += 1;
        };
        match (kind, address) {
            (TYPE_A, IpAddr::V4(it)) => record(&it.octets()),
            (TYPE_AAAA, IpAddr::V6(it)) => record(&it.octets()),
            _ => {}
        }
    }

    /// How long it holds that there is nothing (RFC 2308, 3), in a section.
    fn soa(&mut self, zone: u16, section: usize) {
        const WHO: &[u8] = b"\x0ahostmaster";
        // Nobody transfers the zone; its last number is what counts.
        let numbers: [u32; 5] = [1, 3600, 600, 86_400, TTL];
        let length = 2 + WHO.len() + 2 + 4 * numbers.len();
        self.put(&[zone, TYPE_SOA, CLASS_IN, 0, TTL as u16, length as u16, zone]);
        self.bytes.extend(WHO);
        self.put(&[zone]);
        self.bytes.extend(numbers.iter().flat_map(|it| it.to_be_bytes()));
        self.counts[section] += 1;
    }

    fn end(mut self, outcome: Outcome) -> (Outcome, Vec<u8>) {
        let code = outcome.code();
        if self.edns.is_some() {
            self.bytes.push(0);
            self.put(&[TYPE_OPT, MAX_UDP as u16, code >> 4 << 8, 0, 0]);
            self.counts[3] += 1;
        }
        let header = [self.id, self.flags | code & 0xf];
        let all = header.iter().chain(&self.counts).flat_map(|it| it.to_be_bytes());
        (outcome, all.chain(self.bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec};

    use super::*;

    /// A query by hand, with EDNS's record if a size is given.
    fn query(name: &str, kind: u16, class: u16, edns: Option<(u16, u8)>) -> Vec<u8> {
        let counts = [1, 0, 0, u16::from(edns.is_some())];
        let mut bytes: Vec<u8> =
            [7, 0x0100].iter().chain(&counts).flat_map(|it: &u16| it.to_be_bytes()).collect();
        for label in name.split('.').filter(|it| !it.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend([kind, class].iter().flat_map(|it| it.to_be_bytes()));
        if let Some((takes, version)) = edns {
            bytes.push(0);
            let rest = [TYPE_OPT, takes, version.into(), 0, 0];
            bytes.extend(rest.iter().flat_map(|it: &u16| it.to_be_bytes()));
        }
        bytes
    }

    fn known(name: &str) -> Option<Vec<IpAddr>> {
        let address = |text: &str| text.parse().expect("an address");
        match name {
            "shop" => Some(vec![address("10.0.0.1"), address("fd00::1"), address("10.0.0.2")]),
            "many" => Some((0..40).map(|n| IpAddr::from([10, 0, 0, n])).collect()),
            "a.b" => Some(vec![]),
            _ => None,
        }
    }

    /// Outcome, how many records in each section, and the length.
    #[track_caller]
    fn check_over(over: Transport, query: &[u8], expected: &str) {
        let shown = match answer(query, over, known) {
            None => "nothing".into(),
            Some((outcome, bytes)) => {
                let [id, flags, counts @ ..] = fields(bytes.first_chunk().expect("a header"));
                assert_eq!((id, flags & IS_ANSWER), (7, IS_ANSWER));
                let cut = if flags & IS_CUT == 0 { "" } else { " cut" };
                format!("{} {counts:?}{cut}", outcome.name())
            }
        };
        assert_eq!(shown, expected);
    }

    #[track_caller]
    fn check(query: &[u8], expected: &str) {
        check_over(Transport::Datagram, query, expected);
    }

    #[test]
    fn what_is_asked_is_answered_and_no_more_than_that() {
        let ask = |name, kind| query(name, kind, 1, None);
        check(&ask("shop.mesh", 1), "answered [1, 2, 0, 0]");
        check(&ask("SHOP.Mesh", 28), "answered [1, 1, 0, 0]");
        check(&ask("shop.mesh", 15), "answered [1, 0, 1, 0]");
        check(&ask("a.b.mesh", 1), "answered [1, 0, 1, 0]");
        check(&ask("mesh", 6), "answered [1, 1, 0, 0]");
        check(&ask("mesh", 1), "answered [1, 0, 1, 0]");
        check(&ask("none.mesh", 1), "no such name [1, 0, 1, 0]");
        for elsewhere in ["shop", "shopmesh", "mesh.shop", "example.org", ""] {
            check(&ask(elsewhere, 1), "refused [1, 0, 0, 0]");
        }
        check(&query("shop.mesh", 1, 3, None), "refused [1, 0, 0, 0]");
        let mut with_dot = ask("shopxmesh", 1);
        with_dot[17] = b'.';
        check(&with_dot, "refused [1, 0, 0, 0]");
    }

    #[test]
    fn what_is_too_long_for_the_client_is_asked_for_again_over_tcp() {
        check(&query("many.mesh", 1, 1, None), "answered [1, 0, 0, 0] cut");
        check(&query("many.mesh", 1, 1, Some((1232, 0))), "answered [1, 40, 0, 1]");
        check(&query("many.mesh", 1, 1, Some((1, 0))), "answered [1, 0, 0, 1] cut");
        let many = query("many.mesh", 1, 1, None);
        check_over(Transport::Stream, &many, "answered [1, 40, 0, 0]");
    }

    #[test]
    fn what_is_no_query_is_not_answered_and_what_is_a_bad_one_is_told() {
        let good = query("shop.mesh", 1, 1, Some((1232, 0)));
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        check(&changed(2, 0x80), "nothing");
        check(&good[..11], "nothing");
        for length in 12..good.len() {
            check(&good[..length], "malformed [0, 0, 0, 0]");
        }
        check(&changed(2, 0x28), "not implemented [0, 0, 0, 0]");
        check(&changed(5, 2), "malformed [0, 0, 0, 0]");
        check(&changed(12, 0xc0), "malformed [0, 0, 0, 0]");
        check(&query("shop.mesh", 1, 1, Some((1232, 1))), "unknown version of EDNS [1, 0, 0, 1]");
        let long = "x".repeat(63);
        let long = [long.as_str(); 4].join(".");
        check(&query(&long, 1, 1, None), "malformed [0, 0, 0, 0]");
        check(&[&good[..], &[0]].concat(), "malformed [0, 0, 0, 0]");
    }
}
