//! Whom a node believes: which keys may say what, and whether what they say is new.
//!
//! Two levels of keys. Root keys are kept offline; enough of them together sign a
//! [`KeySet`], which names the others by [`Role`]. What is not in the newest set is
//! revoked. A set is followed by one that enough roots of *both* have signed, so that
//! roots can be changed, and no minority of them can take over a fleet.
//!
//! Documents are ordered by (epoch, version). A cloud that was rebuilt starts to count
//! anew; only the roots can let it, by a set with a later epoch. Signatures are not
//! checked here: what arrives has passed that.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

use crate::settings::Refusal;

/// A time that is surely past, in seconds since 1970: 2026-11-01, raised with each
/// release. A clock that says less is wrong, as one without a battery is at its start.
pub const BUILT_UNIX_S: u64 = 1_793_491_200;
/// Roots of a fleet: a board of directors.
const MAX_ROOTS: usize = 16;
/// Other keys of a fleet.
const MAX_KEYS: usize = 64;
/// Seconds until a command expires, at most: so long its id is kept.
pub const MAX_COMMAND_S: u64 = 86_400;

/// The first bytes of the SHA-256 of a public key.
pub type KeyId = [u8; 8];

/// What a key may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What a node is to do.
    Config,
    /// What it is to do once.
    Command,
    /// That its machine is to start anew.
    Reboot,
    /// What a technician may do in front of it.
    Technician,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Config, Role::Command, Role::Reboot, Role::Technician];

    /// The name in a key set.
    pub fn name(self) -> &'static str {
        match self {
            Role::Config => "config",
            Role::Command => "command",
            Role::Reboot => "reboot",
            Role::Technician => "technician",
        }
    }
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What it is known by.
    pub id: KeyId,
    /// For people.
    pub name: String,
    /// Ed25519.
    pub public: [u8; 32],
    /// What it may say; nothing for a root.
    pub roles: Vec<Role>,
}

/// Who may say what in a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    /// The fleet.
    pub fleet: String,
    /// Grows.
    pub version: u64,
    /// Documents are of the same.
    pub epoch: u64,
    /// Kept offline.
    pub roots: Vec<Key>,
    /// So many of them must sign.
    pub threshold: usize,
    /// The others.
    pub keys: Vec<Key>,
}

impl KeySet {
    /// Whether it makes sense in itself, and enough of its own roots have signed it.
    pub fn found(&self, signers: &BTreeSet<KeyId>) -> Result<(), String> {
        let (roots, keys) = (self.roots.len(), self.keys.len());
        if roots > MAX_ROOTS || keys > MAX_KEYS {
            return Err(format!(
                "{roots} roots and {keys} keys: at most {MAX_ROOTS} and {MAX_KEYS}"
            ));
        }
        if self.threshold == 0 || self.threshold > roots {
            return Err(format!("{} of {roots} roots can't sign", self.threshold));
        }
        let ids: BTreeSet<_> = self.roots.iter().chain(&self.keys).map(|key| key.id).collect();
        if ids.len() != roots + keys {
            return Err("a key stands in it twice".into());
        }
        self.enough(signers)
    }

    /// Whether it may take the place of `current`.
    pub fn follow(&self, current: &KeySet, signers: &BTreeSet<KeyId>) -> Result<(), String> {
        self.found(signers)?;
        if self.fleet != current.fleet {
            return Err(format!("it is of fleet {}, and not {}", self.fleet, current.fleet));
        }
        if self.version <= current.version || self.epoch < current.epoch {
            return Err(format!(
                "version {} in epoch {}, after version {} in epoch {}",
                self.version, self.epoch, current.version, current.epoch
            ));
        }
        current.enough(signers).map_err(|why| format!("{why} of the key set before it"))
    }

    fn enough(&self, signers: &BTreeSet<KeyId>) -> Result<(), String> {
        let signed = self.roots.iter().filter(|root| signers.contains(&root.id)).count();
        match signed >= self.threshold {
            true => Ok(()),
            false => Err(format!("signed by {signed} of the {} roots needed", self.threshold)),
        }
    }

    /// The key of that id, if it may say that.
    pub fn key(&self, id: &[u8], role: Role) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id && key.roles.contains(&role))
    }
}

/// What a signed document says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/trust.proto")]
pub struct Claims {
    pub fleet: String,
    pub node: String,
    pub epoch: u64,
    pub version: u64,
    pub base_sha256: Vec<u8>,
    pub issued_unix_s: u64,
    pub not_before_unix_s: u64,
    pub expires_unix_s: u64,
    /// What it is known by.
    pub sha256: Vec<u8>,
}

/// How far a node has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Mark {
    pub epoch: u64,
    pub version: u64,
    pub sha256: Vec<u8>,
}

/// Who checks, and when.
#[derive(Clone, Debug)]
pub struct Checker<'a> {
    /// This node's fleet.
    pub fleet: &'a str,
    /// This node.
    pub node: &'a str,
    /// Epoch of the key set in force.
    pub epoch: u64,
    /// How far it has come.
    pub mark: &'a Mark,
    /// SHA-256 that it reports of its active document.
    pub active_sha256: &'a [u8],
    /// Its clock, in seconds since 1970.
    pub clock_unix_s: u64,
    /// A time that is surely past: this agent was built by then, or a signed document told.
    pub trusted_unix_s: u64,
}

impl Checker<'_> {
    /// Everything that keeps this node from taking the document.
    pub fn check(&self, claims: &Claims) -> Vec<Refusal> {
        let mut reasons = Reasons::default();
        self.check_addressee(claims, &mut reasons);
        self.check_order(claims, &mut reasons);
        self.check_time(claims, &mut reasons);
        reasons.0
    }

    /// The same of a command. Whether it came before is for who keeps their ids to say.
    pub fn check_command(&self, claims: &Claims) -> Vec<Refusal> {
        let mut reasons = Reasons::default();
        self.check_addressee(claims, &mut reasons);
        self.check_time(claims, &mut reasons);
        let latest = self.now(claims).saturating_add(MAX_COMMAND_S);
        if claims.expires_unix_s == 0 || claims.expires_unix_s > latest {
            let (value, limit) = (format!("{}", claims.expires_unix_s), format!("up to {latest}"));
            let hint = "a command expires within a day: sign it anew, and see what this node's \
                        clock says";
            reasons.refuse("expires_unix_s", value, limit, hint);
        }
        reasons.0
    }

    fn check_addressee(&self, claims: &Claims, reasons: &mut Reasons) {
        if claims.fleet != self.fleet {
            let hint = "it was signed for another fleet";
            reasons.refuse("fleet", claims.fleet.clone(), self.fleet.into(), hint);
        }
        if !selects(&claims.node, self.node) {
            let hint = "it was signed for another node: sign one for this node, or a selector";
            reasons.refuse("node", claims.node.clone(), self.node.into(), hint);
        }
        if claims.epoch != self.epoch {
            let hint = "an epoch steps only with a key set that the roots have signed";
            reasons.refuse("epoch", format!("{}", claims.epoch), format!("{}", self.epoch), hint);
        }
    }

    fn check_order(&self, claims: &Claims, reasons: &mut Reasons) {
        let (at, mark) = ((claims.epoch, claims.version), (self.mark.epoch, self.mark.version));
        if at < mark || (at == mark && claims.sha256 != self.mark.sha256) {
            let limit = match at == mark {
                true => format!("over {}, which was another document", mark.1),
                false => format!("over {} in epoch {}", mark.1, mark.0),
            };
            reasons.refuse(
                "version",
                format!("{}", claims.version),
                limit,
                "a later version is known: raise it",
            );
        }
        if !claims.base_sha256.is_empty() && claims.base_sha256 != self.active_sha256 {
            let hint = "it was written for another document in force: look at it, and sign it anew";
            reasons.refuse("base_sha256", hex(&claims.base_sha256), hex(self.active_sha256), hint);
        }
    }

    /// A clock that is surely behind can't tell that something is not valid yet: it was
    /// signed by now, so that it is at least as late as that.
    fn now(&self, claims: &Claims) -> u64 {
        match self.clock_unix_s < self.trusted_unix_s {
            true => self.trusted_unix_s.max(claims.issued_unix_s),
            false => self.clock_unix_s,
        }
    }

    fn check_time(&self, claims: &Claims, reasons: &mut Reasons) {
        let now = self.now(claims);
        if claims.expires_unix_s != 0 && now >= claims.expires_unix_s {
            let (value, limit) = (format!("{}", claims.expires_unix_s), format!("after {now}"));
            reasons.refuse("expires_unix_s", value, limit, "it has expired: sign it anew");
        }
        if claims.not_before_unix_s > now {
            let (value, limit) = (format!("{}", claims.not_before_unix_s), format!("up to {now}"));
            reasons.refuse(
                "not_before_unix_s",
                value,
                limit,
                "it is not valid yet, by this node's clock",
            );
        }
    }
}

/// Why something is not taken.
#[derive(Default)]
struct Reasons(Vec<Refusal>);

impl Reasons {
    fn refuse(&mut self, path: &str, value: String, limit: String, hint: &str) {
        self.0.push(Refusal { path: path.into(), value, limit, hint: hint.into() });
    }
}

/// Whether a selector names the node: its id, a prefix and a star, or a star.
pub fn selects(selector: &str, node: &str) -> bool {
    match selector.strip_suffix('*') {
        Some(prefix) => node.starts_with(prefix),
        None => selector == node,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn key(id: u8, roles: &[Role]) -> Key {
        let (name, public) = (String::new(), [id; 32]);
        Key { id: [id; 8], name, public, roles: roles.into() }
    }

    fn set(version: u64, roots: &[u8], threshold: usize) -> KeySet {
        let roots = roots.iter().map(|id| key(*id, &[])).collect();
        let keys = vec![key(100, &[Role::Config]), key(101, &[Role::Command])];
        KeySet { fleet: "f".into(), version, epoch: 1, roots, threshold, keys }
    }

    fn by(signers: &[u8]) -> BTreeSet<KeyId> {
        signers.iter().map(|id| [*id; 8]).collect()
    }

    #[test]
    fn a_key_says_only_what_its_role_allows() {
        let set = set(1, &[1], 1);
        assert!(set.key(&[100; 8], Role::Config).is_some());
        assert!(set.key(&[100; 8], Role::Command).is_none());
        assert!(set.key(&[1; 8], Role::Config).is_none(), "a root signs key sets alone");
    }

    #[test]
    fn roots_are_changed_by_the_old_and_the_new_together() {
        let old = set(1, &[1, 2, 3], 2);
        let new = set(2, &[3, 4, 5], 2);
        assert!(new.follow(&old, &by(&[1, 3, 4])).is_ok());
        let why = new.follow(&old, &by(&[3, 4])).expect_err("one old root");
        assert!(why.contains("1 of the 2 roots needed of the key set before"), "{why}");
        assert!(new.follow(&old, &by(&[1, 2])).is_err(), "no new root");
        assert!(old.follow(&new, &by(&[1, 2, 3, 4])).is_err(), "and never back");
        let stepped_back = KeySet { epoch: 0, ..set(3, &[1, 2, 3], 2) };
        assert!(stepped_back.follow(&old, &by(&[1, 2])).is_err());
    }

    #[test]
    fn a_set_without_sense_is_none() {
        assert!(set(1, &[1, 2], 0).found(&by(&[1, 2])).is_err());
        assert!(set(1, &[1, 2], 3).found(&by(&[1, 2])).is_err());
        assert!(set(1, &[1, 1], 2).found(&by(&[1])).is_err(), "one root is not two");
        assert!(set(1, &[1, 100], 1).found(&by(&[1])).is_err(), "a root with another role");
    }

    fn claims() -> Claims {
        Claims {
            fleet: "f".into(),
            node: "n1".into(),
            epoch: 1,
            version: 7,
            sha256: vec![7],
            issued_unix_s: 1000,
            not_before_unix_s: 1000,
            expires_unix_s: 2000,
            ..Claims::default()
        }
    }

    fn checker(mark: &Mark, clock_unix_s: u64) -> Checker<'_> {
        Checker {
            fleet: "f",
            node: "n1",
            epoch: 1,
            mark,
            active_sha256: &[9],
            clock_unix_s,
            trusted_unix_s: 500,
        }
    }

    /// Paths of the reasons, by this clock.
    fn refused(claims: &Claims, clock_unix_s: u64, mark: (u64, u64)) -> Vec<String> {
        let mark = Mark { epoch: mark.0, version: mark.1, sha256: vec![7] };
        checker(&mark, clock_unix_s).check(claims).into_iter().map(|refusal| refusal.path).collect()
    }

    #[test]
    fn only_what_is_new_and_meant_for_this_node_is_taken() {
        let ok: [&str; 0] = [];
        assert_eq!(refused(&claims(), 1500, (1, 6)), ok);
        assert_eq!(refused(&claims(), 1500, (1, 7)), ok, "the same again");
        assert_eq!(refused(&Claims { sha256: vec![8], ..claims() }, 1500, (1, 7)), ["version"]);
        assert_eq!(refused(&claims(), 1500, (1, 8)), ["version"], "rollback");
        assert_eq!(refused(&claims(), 1500, (0, 99)), ok, "a later epoch counts anew");
        assert_eq!(refused(&Claims { epoch: 2, ..claims() }, 1500, (1, 8)), ["epoch"]);
        assert_eq!(refused(&Claims { epoch: 0, ..claims() }, 1500, (1, 8)), ["epoch", "version"]);
        let elsewhere = Claims { fleet: "g".into(), node: "n2".into(), ..claims() };
        assert_eq!(refused(&elsewhere, 1500, (1, 6)), ["fleet", "node"]);
        assert_eq!(refused(&Claims { node: "n*".into(), ..claims() }, 1500, (1, 6)), ok);
        assert_eq!(
            refused(&Claims { base_sha256: vec![1], ..claims() }, 1500, (1, 6)),
            ["base_sha256"]
        );
        assert_eq!(refused(&Claims { base_sha256: vec![9], ..claims() }, 1500, (1, 6)), ok);
    }

    #[test]
    fn a_command_is_for_this_node_and_for_a_day_at_most() {
        let mark = Mark { epoch: 1, version: 99, sha256: Vec::new() };
        let checker = |clock_unix_s| checker(&mark, clock_unix_s);
        let paths = |claims: &Claims, clock| -> Vec<String> {
            checker(clock).check_command(claims).into_iter().map(|it| it.path).collect()
        };
        let ok: [&str; 0] = [];
        assert_eq!(paths(&claims(), 1500), ok, "documents' versions are no affair of its");
        assert_eq!(paths(&claims(), 2000), ["expires_unix_s"]);
        let elsewhere = Claims { node: "n2".into(), epoch: 2, ..claims() };
        assert_eq!(paths(&elsewhere, 1500), ["node", "epoch"]);
        let never = Claims { expires_unix_s: 0, ..claims() };
        assert_eq!(paths(&never, 1500), ["expires_unix_s"], "one that never expires");
        let late = Claims { expires_unix_s: 1500 + MAX_COMMAND_S + 1, ..claims() };
        assert_eq!(paths(&late, 1500), ["expires_unix_s"]);
        assert_eq!(paths(&late, 5), ["expires_unix_s"], "by a clock of 1970 it is 1000");
        let day = Claims { expires_unix_s: 1000 + MAX_COMMAND_S, ..claims() };
        assert_eq!(paths(&day, 5), ok);
    }

    #[test]
    fn a_clock_of_1970_neither_lets_in_nor_keeps_out() {
        let ok: [&str; 0] = [];
        assert_eq!(refused(&claims(), 999, (1, 6)), ["not_before_unix_s"], "a clock that goes");
        assert_eq!(refused(&claims(), 2000, (1, 6)), ["expires_unix_s"]);
        // At 5 s after 1970, though 500 is surely past.
        assert_eq!(refused(&claims(), 5, (1, 6)), ok);
        let expired =
            Claims { expires_unix_s: 400, not_before_unix_s: 0, issued_unix_s: 300, ..claims() };
        assert_eq!(refused(&expired, 5, (1, 6)), ["expires_unix_s"]);
        let later = Claims { not_before_unix_s: 1800, ..claims() };
        assert_eq!(refused(&later, 5, (1, 6)), ["not_before_unix_s"], "signed ahead of its time");
    }
}
