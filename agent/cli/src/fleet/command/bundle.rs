//! A support bundle out of the records that bring it: parts in any order, some of them
//! twice, and other records between.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use purlin_daemon::{
    command::{BUNDLE, MAX_BUNDLE_BYTES},
    trust, wire,
};
use purlin_proto::v1::{Line, record::Body};

/// What has come of one.
#[derive(Debug, Default)]
pub struct Parts(BTreeMap<usize, Vec<u8>>);

impl Parts {
    /// Takes what a batch of class log has of it; the bundle once all of it is there.
    pub fn take(&mut self, batch: &[u8], id: &[u8]) -> Option<Vec<u8>> {
        let batch = wire::decode(batch).ok()?;
        let id = hex::encode(id);
        for (_, record) in wire::records(&batch).ok()? {
            let Some(Body::Line(line)) = record.body else { continue };
            let is_of_it = line.source == BUNDLE && line.attributes.get("command") == Some(&id);
            if let Some(whole) = is_of_it.then(|| self.add(&line)).flatten() {
                return Some(whole);
            }
        }
        None
    }

    fn add(&mut self, line: &Line) -> Option<Vec<u8>> {
        let number = |name: &str| line.attributes.get(name)?.parse::<usize>().ok();
        let (part, parts) = (number("part")?, number("parts")?);
        let bytes = BASE64_STANDARD.decode(&line.text).ok()?;
        let known: usize = self.0.values().map(Vec::len).sum();
        if part == 0 || part > parts || known + bytes.len() > MAX_BUNDLE_BYTES {
            return None;
        }
        self.0.insert(part, bytes);
        let whole: Vec<u8> = self.0.values().flatten().copied().collect();
        let is_whole = self.0.len() == parts
            && line.attributes.get("sha256") == Some(&hex::encode(trust::sha256(&whole)));
        is_whole.then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(part: usize, text: &[u8], whole: &[u8]) -> Line {
        let attributes = [
            ("part", part.to_string()),
            ("parts", "2".into()),
            ("sha256", hex::encode(trust::sha256(whole))),
        ];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value)).into();
        Line { text: BASE64_STANDARD.encode(text), attributes, ..Line::default() }
    }

    #[test]
    fn parts_are_put_together_whatever_their_order_and_a_wrong_one_makes_no_bundle() {
        let mut parts = Parts::default();
        assert_eq!(parts.add(&line(2, b"world", b"hello world")), None);
        assert_eq!(parts.add(&line(2, b"world", b"hello world")), None, "twice");
        assert_eq!(parts.add(&line(3, b"!", b"hello world")), None, "one too many");
        assert_eq!(parts.add(&line(1, b"hullo ", b"hello world")), None, "not what was sent");
        assert_eq!(parts.add(&line(1, b"hello ", b"hello world")), Some(b"hello world".into()));
    }
}
