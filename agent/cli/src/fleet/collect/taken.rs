//! What a message says, once it is decoded, and what of it is new.

use std::sync::Arc;

use purlin_core::{arrival::Range, identity::Class};
use purlin_daemon::{otlp::Whose, wire};
use purlin_proto::{
    topic::is_level,
    v1::{self, record::Body},
};

/// Whose log: with a number, a record's identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    /// The fleet.
    pub fleet: String,
    /// The node.
    pub node: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// The class.
    pub class: Class,
}

/// What is handed on of one message, oldest first.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Whose it is.
    pub whose: Whose,
    /// Of which class.
    pub class: Class,
    /// It was on the node's disk when its link came up.
    pub historical: bool,
    /// Records that did not come before, by number.
    pub records: Vec<(u64, v1::Record)>,
    /// What their samples are, by hash.
    pub dictionaries: Vec<(u64, Arc<v1::Dictionary>)>,
    /// Numbers that the node gave up, and why.
    pub gaps: Vec<v1::Gap>,
    /// Numbers that are missing, and nobody says why.
    pub holes: Vec<Range>,
    /// When it came.
    pub came_unix_ms: u64,
}

impl Taken {
    /// What one of its samples is of.
    pub fn dictionary(&self, hash: u64) -> Option<&v1::Dictionary> {
        self.dictionaries.iter().find(|(it, _)| *it == hash).map(|(_, it)| &**it)
    }

    /// How much it is: a value of a sample is one, and any other record about as much as
    /// sixteen.
    pub fn weight(&self) -> usize {
        let of = |record: &v1::Record| match &record.body {
            Some(Body::Sample(sample)) => sample.gauges.len() + sample.counters.len(),
            _ => 16,
        };
        16 + self.records.iter().map(|(_, record)| of(record)).sum::<usize>()
            + 16 * (self.gaps.len() + self.holes.len())
    }
}

/// What a topic is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A batch: the fleet, whose it is, who published it for it, and its class.
    Batch { fleet: String, node: String, relay: Option<String>, class: Class },
    /// A dictionary of a node, by its hash.
    Dictionary { node: String, hash: u64 },
}

impl Topic {
    /// Reads one; `None` if it is none of these.
    pub fn read(topic: &str) -> Option<Self> {
        let levels: Vec<&str> = topic.split('/').collect();
        let (fleet, publisher, rest) = match &levels[..] {
            ["purlin", "v1", fleet, publisher, rest @ ..] => (*fleet, *publisher, rest),
            _ => return None,
        };
        let (node, relay, rest) = match rest {
            ["relay", origin, rest @ ..] => (*origin, Some(publisher.to_owned()), rest),
            rest => (publisher, None, rest),
        };
        if !is_level(fleet) || !is_level(node) {
            return None;
        }
        let node = node.to_owned();
        match rest {
            ["dict", hash] => {
                Some(Self::Dictionary { node, hash: u64::from_str_radix(hash, 16).ok()? })
            }
            [class] => {
                let class = Class::ALL.into_iter().find(|it| it.name() == *class)?;
                Some(Self::Batch { fleet: fleet.into(), node, relay, class })
            }
            _ => None,
        }
    }

    /// Whose it is: partitions go by it.
    pub fn node(&self) -> &str {
        match self {
            Self::Batch { node, .. } | Self::Dictionary { node, .. } => node,
        }
    }
}

/// A batch that says the same as its topic does.
pub fn batch(payload: &[u8], node: &str, class: Class) -> Result<v1::Batch, String> {
    let batch = wire::decode(payload).map_err(|error| error.to_string())?;
    if batch.node != node || batch.class() != wire::class_to_wire(class) {
        let (of, its) = (&batch.node, batch.class().as_str_name());
        return Err(format!("it says that it is of node {of:?} and {its}"));
    }
    match (batch.first_seq, batch.last_seq) {
        (first, last) if first > last || last == u64::MAX => {
            Err(format!("its numbers are {first} to {last}"))
        }
        _ => Ok(batch),
    }
}

/// Numbers of a batch that are neither a record nor in a gap: one that the node could not
/// read.
pub fn holes_within(batch: &v1::Batch, records: &[(u64, v1::Record)]) -> Vec<Range> {
    let gaps = batch.gaps.iter().map(|it| (it.first_seq, it.last_seq));
    let mut told: Vec<Range> = records.iter().map(|(seq, _)| (*seq, *seq)).chain(gaps).collect();
    told.sort_unstable();
    let (mut next, mut holes) = (batch.first_seq, Vec::new());
    for (first, last) in told {
        if first > next {
            holes.push((next, (first - 1).min(batch.last_seq)));
        }
        next = next.max(last.saturating_add(1));
    }
    if next <= batch.last_seq {
        holes.push((next, batch.last_seq));
    }
    holes
}

/// Why the numbers of a gap are missing, for a program.
pub fn cause(gap: &v1::Gap) -> String {
    gap.cause().as_str_name().trim_start_matches("CAUSE_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_says_whose_it_is() {
        let of = |node: &str, relay: Option<&str>| {
            let relay = relay.map(str::to_owned);
            Some(Topic::Batch { fleet: "f".into(), node: node.into(), relay, class: Class::Log })
        };
        assert_eq!(Topic::read("purlin/v1/f/n1/log"), of("n1", None));
        assert_eq!(Topic::read("purlin/v1/f/n2/relay/n1/log"), of("n1", Some("n2")));
        let dictionary = Topic::Dictionary { node: "n1".into(), hash: 0xab };
        assert_eq!(Topic::read("purlin/v1/f/n2/relay/n1/dict/00000000000000ab"), Some(dictionary));
        for other in
            ["purlin/v1/f/n1/reported", "purlin/v1/f/n1", "x/v1/f/n1/log", "purlin/v1/f//log"]
        {
            assert_eq!(Topic::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_number_that_is_in_no_gap_is_a_hole() {
        let gap = v1::Gap { first_seq: 3, last_seq: 5, lost: 2, cause: 1 };
        let batch =
            v1::Batch { first_seq: 1, last_seq: 9, gaps: vec![gap], ..v1::Batch::default() };
        let records = [1, 4, 8].map(|seq| (seq, v1::Record::default()));
        assert_eq!(holes_within(&batch, &records), [(2, 2), (6, 7), (9, 9)]);
        assert_eq!(holes_within(&batch, &[]), [(1, 2), (6, 9)]);
    }
}
