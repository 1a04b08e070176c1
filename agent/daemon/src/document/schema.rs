//! The form of a document as a JSON Schema (2020-12), for editors: what may stand where,
//! with the comments of its `.proto` file. A number's limits and its default are taken from
//! the comment, which tells them in one way only: "1 to 3600", "Default 10"; so are the
//! words that a text may be ("One of a, b.") and that a field must be there ("Required.").
//!
//! Whether a document is good as a whole is not for a schema to say; `purlin config plan`
//! does.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};

use super::comment;

/// The schema of documents of this message.
pub fn of(descriptor: &MessageDescriptor) -> Json {
    let mut definitions = Map::new();
    define(descriptor, &mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": descriptor.name(),
        "$ref": reference(descriptor),
        "$defs": definitions,
    })
}

fn reference(descriptor: &MessageDescriptor) -> String {
    format!("#/$defs/{}", descriptor.name())
}

fn define(descriptor: &MessageDescriptor, definitions: &mut Map<String, Json>) {
    if definitions.contains_key(descriptor.name()) {
        return;
    }
    // Told before its fields are, which may be of the same message again.
    definitions.insert(descriptor.name().into(), Json::Null);
    let mut required = Vec::new();
    let of = |field: FieldDescriptor| {
        let about = about(descriptor, &field);
        if about.contains("Required.") {
            required.push(Json::from(field.name()));
        }
        (field.name().to_owned(), property(&field, about, definitions))
    };
    let properties: Map<_, _> = descriptor.fields().map(of).collect();
    let mut definition = json!({
        "type": "object",
        "description": flowing(&comment(descriptor, descriptor.path())),
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        definition["required"] = required.into();
    }
    definitions.insert(descriptor.name().into(), definition);
}

/// What a field is for: as it says, or as the message says that is in it.
fn about(descriptor: &MessageDescriptor, field: &FieldDescriptor) -> String {
    let own = flowing(&comment(descriptor, field.path()));
    match field.kind() {
        Kind::Message(inner) if own.is_empty() => flowing(&comment(&inner, inner.path())),
        _ => own,
    }
}

fn property(field: &FieldDescriptor, about: String, definitions: &mut Map<String, Json>) -> Json {
    let kind = field.kind();
    let mut of = match (&kind, field.is_map()) {
        (Kind::Message(entry), true) => {
            let value = value(&entry.map_entry_value_field().kind(), definitions);
            json!({"type": "object", "additionalProperties": value})
        }
        _ if field.is_list() => json!({"type": "array", "items": value(&kind, definitions)}),
        _ => {
            let mut of = value(&kind, definitions);
            if matches!(kind, Kind::Uint32 | Kind::Uint64) {
                if let Some((least, most)) = range(&about) {
                    (of["minimum"], of["maximum"]) = (least.into(), most.into());
                }
                if let Some(default) = default(&about) {
                    of["default"] = default.into();
                }
            }
            if let (Kind::String, Some(words)) = (&kind, one_of(&about)) {
                of["enum"] = words.into();
            }
            of
        }
    };
    of["description"] = about.into();
    of
}

fn value(kind: &Kind, definitions: &mut Map<String, Json>) -> Json {
    match kind {
        Kind::Message(descriptor) => {
            define(descriptor, definitions);
            json!({"$ref": reference(descriptor)})
        }
        Kind::Uint32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        Kind::Uint64 => json!({"type": "integer", "minimum": 0}),
        Kind::Double => json!({"type": "number"}),
        Kind::Bool => json!({"type": "boolean"}),
        _ => json!({"type": "string"}),
    }
}

/// A comment's lines as one.
fn flowing(comment: &str) -> String {
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first "N to M".
fn range(about: &str) -> Option<(u64, u64)> {
    let mut ends = about.match_indices(" to ");
    ends.find_map(|(at, to)| {
        let least = about[..at].rsplit(' ').next()?.parse().ok()?;
        Some((least, number(&about[at + to.len()..])?))
    })
}

/// The words of "One of a, b."
fn one_of(about: &str) -> Option<Vec<&str>> {
    let words = about.split_once("One of ")?.1.split(['.', ':']).next()?;
    Some(words.split(", ").collect())
}

fn default(about: &str) -> Option<u64> {
    number(about.split_once("Default ")?.1)
}

fn number(text: &str) -> Option<u64> {
    let end = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::document::descriptor;

    #[test]
    fn what_may_stand_where_is_told_with_its_limits() {
        let schema = of(&descriptor("Desired"));
        let told = serde_json::to_string_pretty(&schema["$defs"]["Spool"]["properties"]["cap_mib"]);
        expect![[r##"
            {
              "default": 256,
              "description": "Bytes on disk for metrics, in MiB, 2 to 65536. Events have an eighth of it beside it, alarms a sixteenth, logs a quarter, and what is brought of other nodes (relay) as much again. Default 256.",
              "maximum": 65536,
              "minimum": 2,
              "type": "integer"
            }"##]]
        .assert_eq(&told.expect("a tree"));
        let told = serde_json::to_string_pretty(&schema["$defs"]["Rack"]);
        expect![[r##"
            {
              "additionalProperties": false,
              "description": "What the node reads of its rack.",
              "properties": {
                "buses": {
                  "additionalProperties": {
                    "$ref": "#/$defs/Bus"
                  },
                  "description": "Buses by name, at most 16.",
                  "type": "object"
                }
              },
              "type": "object"
            }"##]]
        .assert_eq(&told.expect("a tree"));
    }

    #[test]
    fn words_and_what_must_be_there_are_told() {
        let schema = of(&descriptor("RegisterMap"));
        let register = &schema["$defs"]["MapRegister"];
        assert_eq!(register["required"], json!(["name", "at", "type"]));
        assert_eq!(register["properties"]["write"]["enum"], json!(["unix_time"]));
        let types = json!(["u16", "s16", "u32", "s32", "f32", "string", "flags"]);
        assert_eq!(register["properties"]["type"]["enum"], types);
    }

    #[test]
    fn every_field_says_what_it_is() {
        for schema in ["Desired", "RegisterMap"].map(|it| of(&descriptor(it))) {
            let messages = schema["$defs"].as_object().expect("definitions");
            let fields = messages.iter().flat_map(|(message, it)| {
                let fields = it["properties"].as_object().expect("properties");
                fields.iter().map(move |(name, it)| (format!("{message}.{name}"), it))
            });
            let is_bare = |it: &&(String, &Json)| it.1["description"] == "";
            let bare: Vec<_> = fields.filter(|it| is_bare(&it)).map(|(name, _)| name).collect();
            expect![""].assert_eq(&bare.join("\n"));
        }
    }
}
