//! From a document's bytes to a message, with *every* reason why not.
//!
//! TOML, YAML and JSON are read into one tree and walked beside the message's
//! descriptor: serde would stop at the first error. Binary protobuf is decoded
//! through the descriptor as well, since prost drops unknown fields silently.
//! Nothing here knows what a value means; that is the core's to check.

use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use purlin_core::settings::Refusal;
use purlin_proto::api;
use serde_json::Value as Json;

pub mod schema;

/// Largest document that is looked at. The uplink announces more to the broker,
/// so that one too large still arrives and can be refused with a reason.
pub const MAX_BYTES: usize = 256 << 10;
/// A document with more wrong than this is not worth listing further.
const MAX_REFUSALS: usize = 50;
/// A wrong value is quoted up to this length.
const MAX_QUOTE: usize = 60;

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    Toml,
    Yaml,
    Json,
    Protobuf,
}

impl Format {
    /// The format that a media type names; TOML where it names none.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "" | "application/toml" | "text/plain" => Some(Format::Toml),
            "application/yaml" | "text/yaml" => Some(Format::Yaml),
            "application/json" => Some(Format::Json),
            "application/x-protobuf" | "application/octet-stream" => Some(Format::Protobuf),
            _ => None,
        }
    }
}

/// The descriptor of one of our own messages.
pub fn descriptor(name: &str) -> MessageDescriptor {
    (purlin_proto::DESCRIPTORS.get_message_by_name(&format!("purlin.v1.{name}")))
        .expect("the message is compiled into purlin-proto")
}

/// The comment that stands before a definition in its `.proto` file, a space before each
/// line.
pub fn comment(descriptor: &MessageDescriptor, path: &[i32]) -> String {
    let file = descriptor.parent_file();
    let locations = file.file_descriptor_proto().source_code_info.as_ref();
    let location =
        locations.and_then(|info| info.location.iter().find(|location| location.path == path));
    location.and_then(|location| location.leading_comments.clone()).unwrap_or_default()
}

/// Reads a document as message `M` of the given descriptor: what could be read,
/// and everything that was wrong. A document with anything wrong is refused; what
/// could be read of it lets its values be checked in the same breath.
pub fn parse<M: Message + Default>(
    descriptor: MessageDescriptor,
    format: Format,
    bytes: &[u8],
) -> (M, Vec<Refusal>) {
    let (message, mut refusals) = match read(descriptor, format, bytes) {
        Ok(read) => read,
        Err(refusal) => return (M::default(), vec![refusal]),
    };
    let message = message.transcode_to().unwrap_or_else(|error| {
        push(&mut refusals, whole("a whole message", &error.to_string()));
        M::default()
    });
    (message, refusals)
}

/// The error is for what is no document at all.
fn read(
    descriptor: MessageDescriptor,
    format: Format,
    bytes: &[u8],
) -> Result<(DynamicMessage, Vec<Refusal>), Refusal> {
    if bytes.len() > MAX_BYTES {
        return Err(Refusal {
            value: format!("{} bytes", bytes.len()),
            ..whole(&format!("at most {MAX_BYTES} bytes"), "split off what this node doesn't need")
        });
    }
    let tree = match format {
        Format::Protobuf => return decode(descriptor, bytes),
        Format::Toml => parse_tree(bytes, |text| toml::from_str(text), "TOML")?,
        Format::Yaml => parse_tree(bytes, |text| serde_saphyr::from_str(text), "YAML")?,
        Format::Json => parse_tree(bytes, |text| serde_json::from_str(text), "JSON")?,
    };
    Ok(build(descriptor, &tree))
}

/// The document as one tree; the only error there is for syntax.
fn parse_tree<E: std::fmt::Display>(
    bytes: &[u8],
    parse: impl FnOnce(&str) -> Result<Json, E>,
    language: &str,
) -> Result<Json, Refusal> {
    let unreadable = |why: String| whole(&format!("well-formed {language}"), why.trim());
    let text = std::str::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    parse(text).map_err(|error| unreadable(error.to_string()))
}

/// Builds as much of the message as a tree tells, and everything that is wrong
/// with it.
pub fn build(descriptor: MessageDescriptor, tree: &Json) -> (DynamicMessage, Vec<Refusal>) {
    let mut refusals = Vec::new();
    let message = build_message(descriptor.clone(), tree, "", &mut refusals);
    (message.unwrap_or_else(|| DynamicMessage::new(descriptor)), refusals)
}

fn build_message(
    descriptor: MessageDescriptor,
    tree: &Json,
    path: &str,
    refusals: &mut Vec<Refusal>,
) -> Option<DynamicMessage> {
    let fields = match tree {
        Json::Object(fields) => fields,
        // An empty YAML document.
        Json::Null if path.is_empty() => return Some(DynamicMessage::new(descriptor)),
        other => return wrong(path, other, "a table of settings", refusals),
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in fields {
        let path = join(path, name);
        match descriptor.get_field_by_name(name) {
            None => push(refusals, unknown_field(&descriptor, path, name)),
            Some(field) => {
                if let Some(value) = build_field(&field, value, &path, refusals) {
                    message.set_field(&field, value);
                }
            }
        }
    }
    Some(message)
}

fn build_field(
    field: &FieldDescriptor,
    tree: &Json,
    path: &str,
    refusals: &mut Vec<Refusal>,
) -> Option<Value> {
    if field.is_list() {
        let Json::Array(items) = tree else {
            return wrong(path, tree, "a list", refusals);
        };
        let items = items.iter().enumerate();
        let built = items.filter_map(|(n, item)| {
            build_value(&field.kind(), item, &format!("{path}[{n}]"), refusals)
        });
        return Some(Value::List(built.collect()));
    }
    if !field.is_map() {
        return build_value(&field.kind(), tree, path, refusals);
    }
    let Json::Object(entries) = tree else {
        return wrong(path, tree, "a table of names and values", refusals);
    };
    let Kind::Message(entry) = field.kind() else { return None };
    let kind = entry.map_entry_value_field().kind();
    let built = entries.iter().filter_map(|(key, value)| {
        let value = build_value(&kind, value, &join(path, key), refusals)?;
        Some((MapKey::String(key.clone()), value))
    });
    Some(Value::Map(built.collect()))
}

fn build_value(kind: &Kind, tree: &Json, path: &str, refusals: &mut Vec<Refusal>) -> Option<Value> {
    match kind {
        Kind::Message(descriptor) => {
            build_message(descriptor.clone(), tree, path, refusals).map(Value::Message)
        }
        Kind::String => match tree.as_str() {
            Some(text) => Some(Value::String(text.into())),
            None => wrong(path, tree, "text in quotes", refusals),
        },
        Kind::Uint32 => match tree.as_u64().map(u32::try_from) {
            Some(Ok(number)) => Some(Value::U32(number)),
            _ => wrong(path, tree, "a whole number from 0 to 4294967295", refusals),
        },
        Kind::Uint64 => match tree.as_u64() {
            Some(number) => Some(Value::U64(number)),
            None => wrong(path, tree, "a whole number from 0 on", refusals),
        },
        Kind::Double => match tree.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Some(Value::F64(number)),
            None => wrong(path, tree, "a number", refusals),
        },
        Kind::Bool => match tree.as_bool() {
            Some(yes) => Some(Value::Bool(yes)),
            None => wrong(path, tree, "true or false", refusals),
        },
        other => wrong(path, tree, &format!("a {other:?}, which only protobuf can hold"), refusals),
    }
}

/// A message as the tree that it would be read from.
pub fn tree(descriptor: MessageDescriptor, message: &impl Message) -> Json {
    let mut dynamic = DynamicMessage::new(descriptor);
    match dynamic.transcode_from(message) {
        Ok(()) => message_tree(&dynamic),
        Err(_) => Json::Null,
    }
}

fn message_tree(message: &DynamicMessage) -> Json {
    let fields = message.fields();
    Json::Object(fields.map(|(field, value)| (field.name().into(), value_tree(value))).collect())
}

fn value_tree(value: &Value) -> Json {
    match value {
        Value::Message(message) => message_tree(message),
        Value::List(values) => values.iter().map(value_tree).collect(),
        Value::Map(entries) => {
            let key = |key: &MapKey| key.as_str().unwrap_or_default().to_owned();
            Json::Object(entries.iter().map(|(name, it)| (key(name), value_tree(it))).collect())
        }
        Value::String(text) => text.as_str().into(),
        Value::Bool(yes) => (*yes).into(),
        Value::U32(number) => (*number).into(),
        Value::U64(number) => (*number).into(),
        Value::F64(number) => (*number).into(),
        // No document has a field of another kind: `build_value` could not read it.
        _ => Json::Null,
    }
}

fn decode(
    descriptor: MessageDescriptor,
    bytes: &[u8],
) -> Result<(DynamicMessage, Vec<Refusal>), Refusal> {
    let limit = format!("an encoded {}", descriptor.full_name());
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|error| Refusal {
        value: format!("{} bytes", bytes.len()),
        ..whole(&limit, &error.to_string())
    })?;
    let mut refusals = Vec::new();
    find_unknown(&message, "", &mut refusals);
    Ok((message, refusals))
}

fn find_unknown(message: &DynamicMessage, path: &str, refusals: &mut Vec<Refusal>) {
    for unknown in message.unknown_fields() {
        push(
            refusals,
            refusal(
                &join(path, &format!("field {}", unknown.number())),
                String::new(),
                format!("a field of {}", message.descriptor().full_name()),
                "it was written for a newer agent: update this one, or leave the field out",
            ),
        );
    }
    for (field, value) in message.fields() {
        let path = join(path, field.name());
        match value {
            Value::Message(inner) => find_unknown(inner, &path, refusals),
            Value::Map(entries) => {
                for (key, value) in entries {
                    if let (MapKey::String(key), Value::Message(inner)) = (key, value) {
                        find_unknown(inner, &join(&path, key), refusals);
                    }
                }
            }
            Value::List(items) => {
                for (n, inner) in items.iter().enumerate() {
                    if let Value::Message(inner) = inner {
                        find_unknown(inner, &format!("{path}[{n}]"), refusals);
                    }
                }
            }
            _ => {}
        }
    }
}

fn unknown_field(descriptor: &MessageDescriptor, path: String, name: &str) -> Refusal {
    let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
    let nearest = names
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let hint = match nearest {
        Some(nearest) if strsim::jaro_winkler(nearest, name) > 0.7 => {
            format!("did you mean \"{nearest}\"?")
        }
        _ => "leave it out, or update the agent if it is newer than this one".into(),
    };
    let limit = format!("one of {}", names.join(", "));
    refusal(&path, name.into(), limit, &hint)
}

fn wrong<T>(path: &str, value: &Json, limit: &str, refusals: &mut Vec<Refusal>) -> Option<T> {
    let path = if path.is_empty() { "the document" } else { path };
    push(refusals, refusal(path, quote(value), limit, "correct this value"));
    None
}

fn push(refusals: &mut Vec<Refusal>, refusal: Refusal) {
    if refusals.len() < MAX_REFUSALS {
        refusals.push(refusal);
    }
}

fn refusal(path: &str, value: String, limit: impl Into<String>, hint: &str) -> Refusal {
    Refusal { path: path.into(), value, limit: limit.into(), hint: hint.into() }
}

/// A refusal of the document as a whole.
fn whole(limit: &str, hint: &str) -> Refusal {
    refusal("the document", String::new(), limit, hint)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn quote(value: &Json) -> String {
    shortened(value.to_string())
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A core refusal, for people.
pub fn refusal_view(refusal: Refusal) -> api::Refusal {
    let Refusal { path, value, limit, hint } = refusal;
    api::Refusal { path, value, limit, hint }
}

/// The same refusals, as many and as long as are worth telling: they are kept in
/// the ledger and published.
pub fn bounded(mut refusals: Vec<Refusal>) -> Vec<Refusal> {
    refusals.truncate(MAX_REFUSALS);
    for refusal in &mut refusals {
        refusal.path = shortened(std::mem::take(&mut refusal.path));
        refusal.value = shortened(std::mem::take(&mut refusal.value));
    }
    refusals
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use purlin_proto::v1;

    use super::*;

    #[track_caller]
    fn check(format: Format, document: &[u8], expected: Expect) {
        let (message, refusals) = parse::<v1::Desired>(descriptor("Desired"), format, document);
        let line =
            |r: &Refusal| format!("{}: {} (may be {}; {})\n", r.path, r.value, r.limit, r.hint);
        let shown = match refusals.is_empty() {
            true => format!("{message:?}\n"),
            false => refusals.iter().map(line).collect(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn the_three_human_forms_say_the_same() {
        let toml = "version = 7\n[sampling]\ninterval_s = 5\ninterval_s_by_sampler.cpu = 1\n";
        let yaml = "version: 7\nsampling:\n  interval_s: 5\n  interval_s_by_sampler: {cpu: 1}\n";
        let json = r#"{"version":7,"sampling":{"interval_s":5,"interval_s_by_sampler":{"cpu":1}}}"#;
        for (format, text) in [(Format::Toml, toml), (Format::Yaml, yaml), (Format::Json, json)] {
            check(
                format,
                text.as_bytes(),
                expect![[r#"
                Desired { node: "", version: 7, least_agent: "", sampling: Some(Sampling { interval_s: Some(5), interval_s_by_sampler: {"cpu": 1} }), log: None, spool: None, uplink: None, placement: None, alarms: None, export: None, mesh: None, intake: None, rack: None, power: None }
            "#]],
            );
        }
    }

    #[test]
    fn all_errors_of_shape_are_told_at_once() {
        check(
            Format::Toml,
            b"verion = 1\nnode = 5\nlog = 3\n[sampling]\ninterval_s = \"10\"\ninterval_s_by_sampler.cpu = -1\n[spool]\ncap_mib = 1.5\n[zzz]\n",
            expect![[r#"
                log: 3 (may be a table of settings; correct this value)
                node: 5 (may be text in quotes; correct this value)
                sampling.interval_s: "10" (may be a whole number from 0 to 4294967295; correct this value)
                sampling.interval_s_by_sampler.cpu: -1 (may be a whole number from 0 to 4294967295; correct this value)
                spool.cap_mib: 1.5 (may be a whole number from 0 to 4294967295; correct this value)
                verion: verion (may be one of node, version, least_agent, sampling, log, spool, uplink, placement, alarms, export, mesh, intake, rack, power; did you mean "version"?)
                zzz: zzz (may be one of node, version, least_agent, sampling, log, spool, uplink, placement, alarms, export, mesh, intake, rack, power; leave it out, or update the agent if it is newer than this one)
            "#]],
        );
    }

    #[test]
    fn what_is_wrong_in_a_list_says_which_item() {
        check(
            Format::Toml,
            b"mesh = { listeners = [{ name = \"a\" }, { nam = 1, name = 2 }], services = 3, routes = [4] }",
            expect![[r#"
                mesh.listeners[1].nam: nam (may be one of name, address, protocol, zone, proxy_protocol, intercept; did you mean "name"?)
                mesh.listeners[1].name: 2 (may be text in quotes; correct this value)
                mesh.routes[0]: 4 (may be a table of settings; correct this value)
                mesh.services: 3 (may be a list; correct this value)
            "#]],
        );
        // Listeners (20.1), the second with field 50 = 1.
        check(
            Format::Protobuf,
            &[0xa2, 1, 7, 0x0a, 0, 0x0a, 3, 0x90, 3, 1],
            expect![[r#"
                mesh.listeners[1].field 50:  (may be a field of purlin.v1.Listener; it was written for a newer agent: update this one, or leave the field out)
            "#]],
        );
    }

    #[test]
    fn what_is_no_document_at_all_says_where() {
        check(
            Format::Json,
            b"{",
            expect![[r#"
            the document:  (may be well-formed JSON; EOF while parsing an object at line 1 column 1)
        "#]],
        );
        check(
            Format::Toml,
            b"\xff",
            expect![[r#"
            the document:  (may be well-formed TOML; invalid utf-8 sequence of 1 bytes from index 0)
        "#]],
        );
        check(
            Format::Yaml,
            b"- 1\n- 2\n",
            expect![[r#"
            the document: [1,2] (may be a table of settings; correct this value)
        "#]],
        );
    }

    #[test]
    fn unknown_binary_fields_are_refused_at_any_depth() {
        // Field 99 of Desired = 1; sampling (10) holds field 50 = 1.
        let bytes = [0x98, 0x06, 0x01, 0x52, 0x03, 0x90, 0x03, 0x01];
        check(
            Format::Protobuf,
            &bytes,
            expect![[r#"
            field 99:  (may be a field of purlin.v1.Desired; it was written for a newer agent: update this one, or leave the field out)
            sampling.field 50:  (may be a field of purlin.v1.Sampling; it was written for a newer agent: update this one, or leave the field out)
        "#]],
        );
        check(
            Format::Protobuf,
            &[0xff; 9],
            expect![[r#"
            the document: 9 bytes (may be an encoded purlin.v1.Desired; failed to decode Protobuf message: invalid varint)
        "#]],
        );
    }

    #[test]
    fn bombs_are_refused_in_little_time() {
        let refused =
            |format, bytes| parse::<v1::Desired>(descriptor("Desired"), format, bytes).1.len();
        let deep = "[".repeat(100_000);
        for format in [Format::Json, Format::Yaml, Format::Toml] {
            assert_eq!(refused(format, deep.as_bytes()), 1);
        }
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let again = vec![format!("*a{}", n - 1); 9].join(", ");
            laughs += &format!("a{n}: &a{n} [{again}]\n");
        }
        assert_eq!(refused(Format::Yaml, laughs.as_bytes()), 1);
        let large = vec![b'#'; MAX_BYTES + 1];
        assert_eq!(refused(Format::Toml, &large), 1);
    }
}
