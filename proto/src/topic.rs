//! MQTT topic names, `purlin/v1/<fleet>/<node>/…`.

/// A node's topics.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
}

impl Topics {
    /// Topics of `node` in `fleet`; both must be [valid levels](is_level).
    pub fn new(fleet: &str, node: &str) -> Self {
        Self { prefix: format!("purlin/v1/{fleet}/{node}") }
    }

    /// Durable batches of one class, by the class's name.
    pub fn class(&self, class: &str) -> String {
        format!("{}/{class}", self.prefix)
    }

    /// The same of another node, which this one publishes for it.
    pub fn relayed(&self, origin: &str, class: &str) -> String {
        format!("{}/relay/{origin}/{class}", self.prefix)
    }

    /// Retained: what the values of another node's samples are.
    pub fn relayed_dictionary(&self, origin: &str, hash: u64) -> String {
        format!("{}/relay/{origin}/dict/{hash:016x}", self.prefix)
    }

    /// Retained: what a sample's values are.
    pub fn dictionary(&self, hash: u64) -> String {
        format!("{}/dict/{hash:016x}", self.prefix)
    }

    /// Retained: the configuration the core wants of this node.
    pub fn desired(&self) -> String {
        format!("{}/desired", self.prefix)
    }

    /// What the core wants done once.
    pub fn command(&self) -> String {
        format!("{}/command", self.prefix)
    }

    /// What became of it.
    pub fn result(&self) -> String {
        format!("{}/result", self.prefix)
    }

    /// What this node asks for a certificate with.
    pub fn enrol(&self) -> String {
        format!("{}/enrol", self.prefix)
    }

    /// The certificate, or why there is none.
    pub fn certificate(&self) -> String {
        format!("{}/certificate", self.prefix)
    }

    /// Retained: what the node runs on and what became of the last document.
    pub fn reported(&self) -> String {
        format!("{}/reported", self.prefix)
    }

    /// Retained while it is raised: an alarm, by its id.
    pub fn alarm(&self, id: &str) -> String {
        format!("{}/alarms/{id}", self.prefix)
    }

    /// Where `purlin link test` publishes an empty message.
    pub fn link_test(&self) -> String {
        format!("{}/link-test", self.prefix)
    }
}

/// Whether `name` may stand for a fleet or a node: one topic level of 1 to 64
/// letters, digits, `-`, `_` or `.`, so that it needs no escaping anywhere.
pub fn is_level(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
