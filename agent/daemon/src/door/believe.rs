//! Whom the door believes. A technician is believed for who he is to the kernel; what
//! comes over the uplink, if the node was given keys, for who has signed it.

use std::path::Path;

use prost::bytes::Bytes;
use purlin_core::{
    settings::Refusal,
    trust::{Checker, Claims, Mark},
};
use purlin_proto::v1::{self, Origin};

use super::{Door, Offer, record};
use crate::{
    clock,
    trust::{self, Envelope, keys::Keys},
};

/// Whose documents are taken from the uplink.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Whoever may publish on this node's topic: the agent's file names no keys.
    Anyone,
    /// Who has signed them.
    Keys(Keys),
    /// Nobody: the keys can't be read.
    Nobody(String),
}

impl Trust {
    /// What the agent's file and the ledger say.
    pub fn open(file: Option<&Path>, content: &v1::Ledger) -> Self {
        match file.map(|file| Keys::open(file, &content.keys)) {
            None => Trust::Anyone,
            Some(Ok(keys)) => Trust::Keys(keys),
            Some(Err(why)) => Trust::Nobody(why),
        }
    }
}

impl Door {
    /// The offer with its document out of its envelope.
    pub(super) async fn believe(&mut self, offer: &Offer) -> Result<Offer, Refusal> {
        if offer.origin != Origin::Uplink || offer.claims.is_some() || offer.manner.again {
            return Ok(offer.clone());
        }
        let keys = match (&self.trust, trust::is_signed(&offer.bytes)) {
            (Trust::Anyone, false) => return Ok(offer.clone()),
            (Trust::Anyone, true) => {
                let hint = "name the fleet's keys in the agent's file: trust.keys";
                return Err(refusal("signed", "one that is not: this node has no keys", hint));
            }
            (Trust::Nobody(why), _) => {
                let hint = format!("{why}; mend it and restart the agent, or apply it locally");
                return Err(refusal("not believed", "none: this node's keys can't be read", &hint));
            }
            (Trust::Keys(_), false) => {
                let hint = "sign it: purlin fleet push --keys DIR, or purlin fleet sign";
                return Err(refusal("not signed", "one signed by a key of role config", hint));
            }
            (Trust::Keys(keys), true) => keys.clone(),
        };
        let unreadable =
            |why: String| refusal("not readable", "a COSE_Sign1 with its tag (RFC 9052)", &why);
        let envelope = Envelope::read(&offer.bytes).map_err(unreadable)?;
        let keys = match &envelope.key_set {
            Some(bytes) => self.adopt(keys, bytes).await?,
            None => keys,
        };
        let believed = envelope
            .open(&keys.set)
            .map_err(|why| refusal("not believed", "one signed by a key of role config", &why))?;
        Ok(Offer {
            bytes: Bytes::from(believed.document),
            sha256: Bytes::copy_from_slice(&believed.claims.sha256),
            by: format!("key {}", believed.signer),
            claims: Some(Box::new(believed.claims)),
            ..offer.clone()
        })
    }

    /// The key set that came along, if it follows the one in force: durable first.
    async fn adopt(&mut self, keys: Keys, bytes: &[u8]) -> Result<Keys, Refusal> {
        let followed = keys.followed_by(bytes).map_err(|why| Refusal {
            path: "the key set".into(),
            value: "not believed".into(),
            limit: "one that enough roots of the one before have signed".into(),
            hint: why,
        })?;
        let Some(next) = followed else { return Ok(keys) };
        let mut content = self.content.clone();
        content.keys = next.bytes.clone().into();
        if let Err(error) = self.store(content).await {
            return Err(refusal(
                "not kept",
                "a state directory that can be written",
                &error.to_string(),
            ));
        }
        let (version, epoch) = (next.set.version, next.set.epoch);
        tracing::info!(version, epoch, "a key set follows");
        let text = format!("key set {version} of epoch {epoch} is in force");
        self.audit.tell("the fleet's roots", "config.keys", &text);
        self.spool.event("config.keys", text);
        self.trust = Trust::Keys(next.clone());
        Ok(next)
    }

    /// How far this node has come, once that document is durable.
    pub(super) fn mark(&self, content: &mut v1::Ledger, claims: Option<&Claims>) {
        let Some(claims) = claims else { return };
        let before = content.mark.take().unwrap_or_default();
        self.floor.learn(claims.issued_unix_s);
        content.mark = Some(v1::Mark {
            epoch: claims.epoch,
            version: claims.version,
            sha256: claims.sha256.clone().into(),
            trusted_unix_s: before.trusted_unix_s.max(claims.issued_unix_s),
        });
    }

    /// Whether what a signed document says of itself fits this node, now.
    pub(super) fn check_claims(&self, claims: &Claims) -> Vec<Refusal> {
        let Trust::Keys(keys) = &self.trust else { return Vec::new() };
        let mark = self.content.mark.clone().unwrap_or_default();
        let checker = Checker {
            fleet: &self.identity.fleet,
            node: &self.identity.node,
            epoch: keys.set.epoch,
            mark: &Mark { epoch: mark.epoch, version: mark.version, sha256: mark.sha256.to_vec() },
            active_sha256: &record::sha256_of(self.content.active.as_ref()),
            clock_unix_s: clock::unix_ms() / 1000,
            trusted_unix_s: self.floor.least(),
        };
        checker.check(claims)
    }
}

fn refusal(value: &str, limit: &str, hint: &str) -> Refusal {
    Refusal {
        path: "the document".into(),
        value: value.into(),
        limit: limit.into(),
        hint: hint.into(),
    }
}
