//! Whether a command is one: signed by whom it must be, meant for this node now, and new.

use prost::bytes::Bytes;
use purlin_core::{
    settings::Refusal,
    trust::{Checker, Claims, Mark},
};
use purlin_proto::v1::{self, CommandSeen, signed_command::Command};
use tokio::sync::oneshot;

use super::{Owner, carry_out::describe};
use crate::{
    clock,
    door::{Ask, Trust},
    trust::Envelope,
    uplink::Message,
};

/// A command is a few words and a signature.
const MAX_BYTES: usize = 4096;
/// Bytes of an id.
const ID_BYTES: usize = 16;
/// Of a key's name and of what is to be done, on disk.
const MAX_NAME: usize = 250;

/// What is to be made of a command that is believed.
pub enum Judged {
    /// It is durable that it is begun.
    Begun(CommandSeen, Command),
    /// It was begun before.
    Again(CommandSeen),
}

/// Why a command is not begun, and what is known of it.
pub struct Refused {
    /// Empty if it could not be read.
    pub id: Bytes,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

impl Owner {
    /// Looks at a command from all sides, and makes it durable that it is begun.
    pub(super) async fn judge(&mut self, message: &Message) -> Result<Judged, Refused> {
        let unknown = |why: String| Refused { id: Bytes::new(), by: "the core".into(), why };
        if message.payload.len() > MAX_BYTES {
            let bytes = message.payload.len();
            return Err(unknown(format!("{bytes} bytes: a command has at most {MAX_BYTES}")));
        }
        let keys = match self.trust().await.map_err(unknown)? {
            Trust::Keys(keys) => keys,
            Trust::Anyone => {
                let why = "this node has no keys to know a command by: name the fleet's key set \
                           in its file: trust.keys";
                return Err(unknown(why.into()));
            }
            Trust::Nobody(why) => return Err(unknown(format!("no key is believed: {why}"))),
        };
        let envelope = Envelope::read(&message.payload);
        let envelope = envelope
            .map_err(|why| unknown(format!("{why}: sign it with purlin fleet command --keys")))?;
        let (signed, key) = envelope.open_command(&keys.set).map_err(unknown)?;
        let by = short(&format!("key {}", key.name));
        let refused = |why: String| Refused { id: signed.id.clone(), by: by.clone(), why };
        if signed.id.len() != ID_BYTES {
            return Err(refused(format!("an id of {} bytes: it has {ID_BYTES}", signed.id.len())));
        }
        let refusals = self.checker(keys.set.epoch).check_command(&claims(&signed));
        if let Some(seen) = self.seen.find(&signed.id).filter(|_| is_for_us(&refusals)) {
            return Ok(Judged::Again(seen.clone()));
        }
        if !refusals.is_empty() {
            return Err(refused(told(&refusals)));
        }
        let since = self.seen.since_unix_s();
        if signed.issued_unix_s < since {
            return Err(refused(format!(
                "signed at {}, before this node began at {since} to keep in mind what it has \
                 carried out: sign it anew",
                signed.issued_unix_s
            )));
        }
        let Some(command) = signed.command.clone() else {
            return Err(refused("it says nothing that this agent knows how to do".into()));
        };
        let reply = message.reply.clone().unwrap_or_default();
        let seen = CommandSeen {
            id: signed.id.clone(),
            expires_unix_s: signed.expires_unix_s,
            by: by.clone(),
            what: short(&describe(&command)),
            reboots: matches!(command, Command::Reboot(_)),
            boot: self.wiring.boot,
            response_topic: reply.topic.unwrap_or_default(),
            correlation: reply.correlation.unwrap_or_default(),
            ..CommandSeen::default()
        };
        let now = (clock::unix_ms() / 1000).max(self.wiring.floor.least());
        self.seen.begin(seen.clone(), signed.issued_unix_s, now).map_err(refused)?;
        self.wiring.floor.learn(self.seen.trusted_unix_s());
        Ok(Judged::Begun(seen, command))
    }

    fn checker(&self, epoch: u64) -> Checker<'_> {
        const NO_MARK: &Mark = &Mark { epoch: 0, version: 0, sha256: Vec::new() };
        Checker {
            fleet: &self.wiring.sources.identity.fleet,
            node: &self.wiring.sources.identity.node,
            epoch,
            mark: NO_MARK,
            active_sha256: &[],
            clock_unix_s: clock::unix_ms() / 1000,
            trusted_unix_s: self.wiring.floor.least(),
        }
    }

    async fn trust(&self) -> Result<Trust, String> {
        let (reply, answer) = oneshot::channel();
        let stopping = "the configuration's task is away: try again";
        self.wiring.door.send(Ask::Trust(reply)).await.map_err(|_| stopping)?;
        answer.await.map_err(|_| stopping.to_owned())
    }
}

/// What was begun and has expired since may still be asked after.
fn is_for_us(refusals: &[Refusal]) -> bool {
    refusals.iter().all(|it| it.path == "expires_unix_s")
}

fn claims(signed: &v1::SignedCommand) -> Claims {
    Claims {
        fleet: signed.fleet.clone(),
        node: signed.node.clone(),
        epoch: signed.epoch,
        issued_unix_s: signed.issued_unix_s,
        expires_unix_s: signed.expires_unix_s,
        ..Claims::default()
    }
}

fn told(refusals: &[Refusal]) -> String {
    let told = refusals
        .iter()
        .map(|it| format!("{} is {}, and must be {}: {}", it.path, it.value, it.limit, it.hint));
    told.collect::<Vec<_>>().join("; ")
}

fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_NAME)].to_owned()
}
