//! What reads bytes that a machine, a cable or a file brings: each as a function of
//! bytes that must not panic, whatever they are, and that must end.
//!
//! Used twice: replayed and mutated for seconds by `agent/daemon/tests/fuzz.rs`, and driven
//! by coverage for as long as one likes by this folder's own package.

use std::time::Duration;

use prost::Message as _;
use purlin_core::{
    chrony,
    idset::IdSet,
    mesh::{
        credential::{Now, Revocations},
        dns, hello, intercept,
        jwt::{Claim, Jwt, Refused},
        model::Transport,
        proxy,
        strict::{Framer, Length, Step, Violation},
    },
    modbus::{
        pdu::{Request, Table},
        rtu::{self, Listener},
    },
    ptp::{self, Ptp},
    rack::{bmc, gnss, nut, register::Value},
};
use purlin_daemon::{
    document::{self, Format},
    enrol::{self, Certificate, Chain, certificate},
    nri::codec,
    rack::{map::Map, nmea},
    spool::segment,
    trust, wire,
};
use purlin_drivers::{
    Archive, gpu_metrics, ipmi, lldp,
    pci_ids::{self, Wanted},
    smbios,
    storage::smart,
    transceiver::{self, Pages},
};
use purlin_mesh::{http::message, identity::authority, jwt::Token, probe};
use purlin_proto::v1;

/// A function of bytes.
pub type Target = fn(&[u8]);

/// Every target by name; its seeds are in `corpus/NAME`.
pub const TARGETS: [(&str, Target); 38] = [
    ("smbios", |bytes| drop(smbios::decode(bytes))),
    ("transceiver", |bytes| drop(transceiver::decode(&Pages::from_flat(bytes)))),
    ("lldp", |bytes| drop(lldp::decode(bytes))),
    ("gpu_metrics", |bytes| drop(gpu_metrics::decode(bytes))),
    ("cpu_list", cpu_list),
    ("cpu_mask", cpu_mask),
    ("pci_ids", pci_names),
    ("archive", |bytes| drop(Archive::unpack(bytes))),
    ("nvme_smart", nvme_smart),
    ("ata_smart", ata_smart),
    ("nri", nri),
    ("cdi", purlin_drivers::cdi::parse),
    ("document", a_document),
    ("envelope", |bytes| drop(trust::Envelope::read(bytes).map(|it| it.key_set))),
    ("command", command),
    ("key_set", key_set),
    ("batch", batch),
    ("segment", a_segment),
    ("register_map", |bytes| drop(Map::read(&String::from_utf8_lossy(bytes)))),
    ("rtu", rtu_answer),
    ("nut", nut_line),
    ("nmea", nmea_sentences),
    ("chrony", |bytes| _ = chrony::answer(bytes, 0)),
    ("ptp", ptp_answers),
    ("proxy", proxy_header),
    ("tls_hello", |bytes| drop(hello::read(bytes))),
    ("http1", http1),
    ("route_table", route_table),
    ("tunnel", probe::tunnel),
    ("gossip", probe::gossip),
    ("record", probe::records),
    ("dns", names),
    ("jwt", token),
    ("identity", identity),
    ("enrol", enrol),
    ("sdr", sdr),
    ("sel", sel),
    ("fru", |bytes| drop(ipmi::fru::decode(bytes))),
];

/// Answers one after the other, of the lengths that answers have.
fn ptp_answers(bytes: &[u8]) {
    let mut ptp = Ptp::default();
    for answer in bytes.chunks(ptp::MAX_ANSWER) {
        let was = ptp;
        let taken = ptp.learn(answer, 0).is_some();
        assert!(taken || ptp == was, "a part of an answer was taken");
    }
    assert!(ptp.offset_s.is_finite() && ptp.path_delay_s.is_finite());
    _ = (ptp.is_synchronized(), ptp.grandmaster.to_string());
}

/// A record, and every reading that a sensor of it can have.
fn sdr(bytes: &[u8]) {
    let Some(ipmi::sdr::Record::Sensors(known)) = ipmi::sdr::decode(bytes) else { return };
    for scale in known.iter().filter_map(|it| it.scale) {
        for raw in 0..=255 {
            let value = scale.value(raw, &scale.factors);
            assert!(value.is_none_or(f64::is_finite), "{value:?}");
        }
    }
}

/// Entries one after the other, and what follows from them.
fn sel(bytes: &[u8]) {
    let (entries, _) = bytes.as_chunks();
    let events = entries.iter().map(ipmi::sel::decode).collect();
    let log = bmc::Log { events, ..bmc::Log::default() };
    let mut told = bmc::Told::default();
    told.hear(&log);
    drop(log.events.iter().map(|it| it.text(None)).collect::<Vec<_>>());
    drop(bmc::wrong(&bmc::Look::default(), &told));
}

fn cpu_list(bytes: &[u8]) {
    if let Ok(set) = IdSet::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(IdSet::parse(&set.to_string()), Ok(set), "what is printed reads back");
    }
}

fn cpu_mask(bytes: &[u8]) {
    if let Ok(set) = IdSet::parse_mask(&String::from_utf8_lossy(bytes)) {
        assert_eq!(set.iter().count(), set.len());
    }
}

fn pci_names(bytes: &[u8]) {
    let mut wanted = Wanted::default();
    wanted.devices.insert((0x8086, 0x1000));
    drop(pci_ids::find(&String::from_utf8_lossy(bytes), &wanted));
}

fn nvme_smart(bytes: &[u8]) {
    drop(smart::nvme(bytes));
    _ = smart::nvme_limits(bytes);
    drop(smart::nvme_firmware(bytes));
}

/// The data, and then the thresholds.
fn ata_smart(bytes: &[u8]) {
    let (data, thresholds) = bytes.split_at(bytes.len().min(512));
    drop(smart::ata(data, Some(thresholds), None));
    drop(smart::ata(data, None, Some(true)));
}

/// Read in two pieces; what was read is sent, and read again.
fn nri(bytes: &[u8]) {
    let (mut decoder, mut messages) = (codec::Decoder::default(), Vec::new());
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    _ = decoder.push(first, &mut messages).and_then(|()| decoder.push(rest, &mut messages));
    let (mut decoder, mut again) = (codec::Decoder::default(), Vec::new());
    for message in &messages {
        let sent = codec::encode(message).expect("no longer than what was read");
        decoder.push(&sent, &mut again).expect("what is sent can be read");
    }
    assert_eq!(messages, again);
}

/// In the format that the first byte chooses.
fn a_document(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let formats = [Format::Toml, Format::Yaml, Format::Json, Format::Protobuf];
    let format = formats[usize::from(*first) % formats.len()];
    drop(document::parse::<v1::Desired>(document::descriptor("Desired"), format, rest));
}

/// What is signed of a command, and what is kept of those that were begun.
fn command(bytes: &[u8]) {
    let descriptor = document::descriptor("SignedCommand");
    drop(document::parse::<v1::SignedCommand>(descriptor, Format::Protobuf, bytes));
    drop(v1::CommandsSeen::decode(bytes));
}

fn key_set(bytes: &[u8]) {
    drop(trust::peek_keys(bytes));
    if let Ok((set, _)) = trust::read_keys(bytes, None) {
        drop(trust::read_keys(bytes, Some(&set)).expect("it was read before"));
        drop(trust::Envelope::read(bytes).map(|it| it.open(&set).map(|it| it.claims)));
    }
}

fn batch(bytes: &[u8]) {
    if let Ok(batch) = wire::decode(bytes) {
        drop(wire::records(&batch));
    }
}

/// Every whole record of it, over whatever is between them.
fn a_segment(bytes: &[u8]) {
    _ = segment::Header::decode(bytes);
    let mut at = 0;
    while let Some(record) = segment::next_record(bytes, at) {
        assert!(record.end > at, "it goes on");
        at = record.end;
    }
}

/// What a line says after a request, in two pieces.
fn rtu_answer(bytes: &[u8]) {
    let Some(([table, count], heard)) = bytes.split_first_chunk() else { return };
    let tables =
        [Table::Coils, Table::DiscreteInputs, Table::HoldingRegisters, Table::InputRegisters];
    let table = tables[usize::from(*table) % tables.len()];
    let Ok(request) = Request::read(table, 0x100, u16::from(*count)) else { return };
    let sent = rtu::frame(1, &request);
    let mut listener = Listener::new(1, &request, &sent);
    let (first, rest) = heard.split_at(heard.len() / 2);
    listener.hear(first);
    _ = listener.answer();
    listener.hear(rest);
    _ = listener.answer();
}

/// What a receiver says, in two pieces, and what is made of it.
fn nmea_sentences(bytes: &[u8]) {
    let (mut sentences, mut receiver) = (nmea::Sentences::default(), gnss::Receiver::default());
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    for (at, bytes) in [(1, first), (2, rest)] {
        sentences.hear(bytes, (Duration::from_secs(at), at), |text, (at, unix_ms)| {
            if let Some(said) = nmea::understand(text) {
                receiver.hear(&said, at, unix_ms);
            }
        });
    }
    for reading in receiver.readings(Duration::from_secs(3)) {
        let is_number = |it: &Value| matches!(it, Value::Number(it) if !it.is_finite());
        assert!(!reading.value.as_ref().is_some_and(is_number), "{reading:?}");
    }
}

/// What is understood of a beginning holds when more comes.
fn nut_line(bytes: &[u8]) {
    let words = nut::words(&String::from_utf8_lossy(bytes)).unwrap_or_default();
    if let [.., name, value] = &words[..] {
        _ = nut::kind(name).map(|it| it.value(value));
        drop(nut::conditions(name, value));
    }
}

fn proxy_header(bytes: &[u8]) {
    let (half, whole) = (proxy::read(&bytes[..bytes.len() / 2]), proxy::read(bytes));
    assert!(half == proxy::Header::More || half == whole, "{half:?} became {whole:?}");
}

/// However a connection's bytes come, they are refused or are the same messages, and what is
/// sent on of them is as strict.
fn http1(bytes: &[u8]) {
    let (at_once, one_by_one) = (messages(bytes, bytes.len()), messages(bytes, 1));
    assert_eq!(at_once.is_ok(), one_by_one.is_ok(), "{at_once:?}, {one_by_one:?}");
    if let (Ok(at_once), Ok(one_by_one)) = (at_once, one_by_one) {
        assert_eq!(at_once, one_by_one);
        let heads = at_once.into_iter().filter(|(is_head, _)| *is_head);
        for request in heads.filter_map(|(_, head)| message::request(&head.into())) {
            let mut sent = Vec::new();
            message::put_request(&mut sent, &request, Length::Exact(0));
            let read = messages(&sent, sent.len()).expect("what is sent is strict");
            assert_eq!(read, [(true, sent)]);
        }
    }
    let mut looked = 0;
    if let Some(end) = message::end_of_head(bytes, &mut looked) {
        drop(message::answer(&bytes[..end].to_vec().into(), false));
    }
}

/// Heads, and the bytes of each one's body.
fn messages(bytes: &[u8], piece: usize) -> Result<Vec<(bool, Vec<u8>)>, Violation> {
    let (mut framer, mut unread, mut messages) = (Framer::default(), Vec::new(), Vec::new());
    let mut looked = 0;
    for piece in bytes.chunks(piece.max(1)) {
        unread.extend_from_slice(piece);
        loop {
            let rest = |unread: &mut Vec<u8>, end: usize| unread.drain(..end).collect::<Vec<u8>>();
            match framer.step(&unread[looked..])? {
                Step::More => break,
                Step::Framing(length) => {
                    looked += length;
                    if !framer.is_in_head() {
                        rest(&mut unread, std::mem::take(&mut looked));
                    }
                }
                Step::Head(length) => {
                    let end = std::mem::take(&mut looked) + length;
                    messages.push((true, rest(&mut unread, end)));
                    messages.push((false, Vec::new()));
                }
                Step::Body(length) => {
                    let body = rest(&mut unread, length);
                    messages.last_mut().expect("a head").1.extend(body);
                }
                Step::Trailer(length) => _ = rest(&mut unread, length),
            }
        }
    }
    messages.retain(|(is_head, bytes)| *is_head || !bytes.is_empty());
    Ok(messages)
}

/// What comes from another node, or in a file: a certificate's request, a list of who
/// stays out, a certificate with its key.
fn identity(bytes: &[u8]) {
    let Ok(root) = authority::Authority::make("r1", 1_800_000_000, authority::ROOT_LIFE_S) else {
        return;
    };
    let id = root.id.clone();
    drop(root.answer(&id, bytes, 1_800_000_000, 60, &Revocations::default()));
    drop(authority::revocations(bytes, std::slice::from_ref(root.certificate()), "r1"));
    drop(authority::Authority::read(&String::from_utf8_lossy(bytes)));
}

/// A set of keys, and in the next line a token.
fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (jwks, token) = text.split_once('\n').unwrap_or(("", &text));
    let issuer = v1::JwtIssuer {
        name: "corp".into(),
        issuer: "joe".into(),
        jwks: jwks.into(),
        ..Default::default()
    };
    assert!(Token::read(&[], token).is_err(), "nobody's is taken");
    let mesh = v1::Mesh { jwt_issuers: vec![issuer], ..Default::default() };
    let Ok(table) = purlin_mesh::wire::table(1, &mesh) else { return };
    let Ok(token) = Token::read(&table.jwt_issuers, token) else { return };
    let claim = |name: &str| Claim { name: name.into(), values: vec!["true".into()] };
    for name in ["scope", "a.b", "http://example.com/is_root"] {
        let jwt = Jwt { issuers: vec!["corp".into()], claims: vec![claim(name)] };
        let late = Now { unix_s: u64::MAX, is_sure: true, is_least: false };
        assert_eq!(token.admit(&jwt, late), Err(Refused::Expired), "none is good for ever");
        _ = token.admit(&jwt, Now { unix_s: 0, is_sure: false, is_least: true });
    }
}

/// What is said over the broker for a certificate, whom anybody may say it to; a token, and
/// a file with what came.
fn enrol(bytes: &[u8]) {
    if let Ok(token) = enrol::token::parse(&String::from_utf8_lossy(bytes)) {
        let again = enrol::token::parse(&enrol::token::write(&token));
        assert_eq!(again, Ok(token), "what is written reads back");
    }
    if let Ok(request) = v1::EnrolRequest::decode(bytes)
        && let Some(v1::enrol_request::By::Certificate(by)) = request.by
    {
        let said = enrol::token::renewal("lab", "n1", &request.csr);
        drop(Certificate::read(&by.certificate).map(|it| it.lifetime_s()));
        _ = certificate::has_signed(&by.certificate.to_vec().into(), &said, &by.signature);
    }
    let answered = v1::EnrolAnswer::decode(bytes).map(|it| it.chain).unwrap_or_default();
    let answered: Chain = answered.into_iter().map(|der| der.to_vec().into()).collect();
    for chain in [answered, certificate::chain(bytes).unwrap_or_default()] {
        if let Some(authority) = chain.last() {
            drop(certificate::pin(authority));
            drop(certificate::verify(&chain, authority, 1_800_000_000));
        }
    }
}

fn route_table(bytes: &[u8]) {
    let Ok(mesh) = v1::Mesh::decode(bytes) else { return };
    if let Ok(table) = purlin_mesh::wire::table(1, &mesh) {
        drop(intercept::rules(&table, 1));
        probe::routes(table);
    }
}

/// However a query comes it is answered as itself, and in no more bytes than fit.
fn names(query: &[u8]) {
    let known = |name: &str| {
        (!name.starts_with('x'))
            .then(|| (0..name.len()).map(|n| [10, 0, 0, n as u8].into()).collect())
    };
    for (over, most) in [(Transport::Datagram, dns::MAX_UDP), (Transport::Stream, dns::MAX_TCP)] {
        if let Some((_, answer)) = dns::answer(query, over, known) {
            assert!(answer.len() <= most && answer[..2] == query[..2], "{answer:?}");
        }
    }
}
