//! The audit log's lines, and what proves that none was changed or taken out.
//!
//! Each line is JSON and names the SHA-256 of the line before it. A file ends with a
//! checkpoint: such a line, signed by the node's own key, and the next file begins with
//! the checkpoint's hash. So a byte that was edited and a line that was removed show at the
//! next line, and a file that was cut off shows at the next file, or at the head: the
//! newest line's number and hash, which the running agent knows and the core was told.

use std::fmt;

use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::trust::{self, SigningKey};

/// What the last line of a file is.
pub const CHECKPOINT: &str = "audit.checkpoint";
/// A signature for one purpose is none for another.
const DOMAIN: &[u8] = b"purlin audit 1";
/// Longest line, its newline included: what it is about is bounded before.
pub const MAX_LINE_BYTES: usize = 8 << 10;

/// One thing that was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Counts from 1.
    pub number: u64,
    /// By the node's clock.
    pub unix_ms: u64,
    /// Who did it, e.g. uid 1000 (local).
    pub by: String,
    /// What was done, e.g. config.confirmed.
    pub what: String,
    /// To what, and what came of it.
    pub text: String,
    /// SHA-256 of the line before, in hexadecimal digits; empty for the first.
    pub before: String,
    /// Of a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// Where the log ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Of the newest line; 0 if there is none.
    pub number: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// Where a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// File and line.
    pub at: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.why)
    }
}

impl Line {
    /// The line after `head`, as it is written.
    pub fn after(head: &Head, line: Line) -> (String, Head) {
        let line = Line { number: head.number + 1, before: head.sha256.clone(), ..line };
        let number = line.number;
        // None of its fields can fail to be written.
        let text = serde_json::to_string(&line).unwrap_or_default();
        let sha256 = hex::encode(trust::sha256(text.as_bytes()));
        (text + "\n", Head { number, sha256 })
    }

    /// The checkpoint after `head`.
    pub fn checkpoint(head: &Head, unix_ms: u64, key: &SigningKey) -> Line {
        let signature = hex::encode(key.sign(&signed(head)));
        Line {
            unix_ms,
            by: "the agent".into(),
            what: CHECKPOINT.into(),
            text: format!("by key {}", hex::encode(key.id())),
            signature: Some(signature),
            ..Line::default()
        }
    }
}

fn signed(head: &Head) -> Vec<u8> {
    [DOMAIN, &head.number.to_le_bytes(), head.sha256.as_bytes()].concat()
}

/// Goes through a log from its first file to its last.
#[derive(Debug)]
pub struct Verifier {
    public: [u8; 32],
    anchors: Vec<Head>,
    head: Option<Head>,
    /// The last line was a checkpoint.
    is_closed: bool,
}

impl Verifier {
    /// By the node's public key, and by what the log's head was known to be at some time.
    pub fn new(public: [u8; 32], anchors: Vec<Head>) -> Self {
        Self { public, anchors, head: None, is_closed: true }
    }

    /// The next file.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<Vec<Line>, Broken> {
        let broken = |at: String, why: String| Err(Broken { at, why });
        if !self.is_closed {
            return broken(name.into(), "the file before it ends without a checkpoint".into());
        }
        let mut lines = Vec::new();
        for (n, text) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let at = format!("{name}:{}", n + 1);
            let Some(text) = text.strip_suffix(b"\n") else {
                return broken(at, "it is cut off in the middle".into());
            };
            match self.line(text) {
                Ok(line) => lines.push(line),
                Err(why) => return broken(at, why),
            }
        }
        Ok(lines)
    }

    fn line(&mut self, text: &[u8]) -> Result<Line, String> {
        let line: Line =
            serde_json::from_slice(text).map_err(|error| format!("not a line of it: {error}"))?;
        if let Some(head) = &self.head {
            if line.number != head.number + 1 {
                return Err(format!("line {} follows line {}", line.number, head.number));
            }
            if line.before != head.sha256 {
                return Err(format!("line {} was changed after it was written", head.number));
            }
        }
        self.is_closed = line.what == CHECKPOINT;
        if self.is_closed {
            let before = Head { number: line.number - 1, sha256: line.before.clone() };
            let signature =
                line.signature.as_deref().and_then(|it| hex::decode(it).ok()).unwrap_or_default();
            let key = UnparsedPublicKey::new(&ED25519, self.public);
            key.verify(&signed(&before), &signature)
                .map_err(|_| "a checkpoint that this node's key has not signed".to_owned())?;
        }
        let head = Head { number: line.number, sha256: hex::encode(trust::sha256(text)) };
        let differs = |anchor: &&Head| anchor.number == head.number && **anchor != head;
        if self.anchors.iter().any(|anchor| differs(&anchor)) {
            return Err(format!("line {} is not the one that was told", head.number));
        }
        self.head = Some(head);
        Ok(line)
    }

    /// The log's end.
    pub fn end(self) -> Result<Head, Broken> {
        let head = self.head.unwrap_or_default();
        let last = self.anchors.iter().map(|anchor| anchor.number).max().unwrap_or(0);
        if head.number < last {
            let why = format!("it ends with line {}, and line {last} was told", head.number);
            return Err(Broken { at: "the end".into(), why });
        }
        Ok(head)
    }
}
