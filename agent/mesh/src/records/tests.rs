//! Records that go round, and those that must not.

use std::{fs, sync::Arc};

use purlin_core::{mesh::credential::Revocations, trust::BUILT_UNIX_S};

use super::*;
use crate::{
    discovery::gossip::Member,
    identity::{
        self, Identity, Keeper,
        authority::{Authority, NODE_LIFE_S, ROOT_LIFE_S},
        clock::Clock,
    },
    wire,
};

const NOW: u64 = BUILT_UNIX_S;
const DAY: u64 = 86_400;
const GRACE: u64 = 30 * DAY;

struct Rack(Authority);

/// A node: who it is, and what it knows.
struct Node {
    dir: tempfile::TempDir,
    keeper: Keeper,
    records: Records,
}

impl Rack {
    fn new(id: &str) -> Self {
        Self(Authority::make(id, NOW - 365 * DAY, ROOT_LIFE_S).expect("a root"))
    }

    fn node(&self, name: &str) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let none = Revocations::default();
        let own = self.0.make_node(name, NOW, NODE_LIFE_S, &none).expect("a node");
        let mut node = Node {
            keeper: Keeper::new(dir.path(), Clock::new(Some(NOW + DAY))),
            dir,
            records: Records::default(),
        };
        node.write(identity::NODE, own);
        node.write(identity::RACK, self.0.certificate_pem());
        node
    }
}

impl Node {
    fn write(&mut self, name: &str, text: impl AsRef<[u8]>) {
        let dir = self.dir.path().join(identity::DIR);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(name), text).expect("a write");
        self.keeper.look(GRACE);
        self.records.judge(self.keeper.identity().map(Arc::as_ref));
    }

    fn identity(&self) -> &Identity {
        self.keeper.identity().expect("somebody")
    }

    fn offers(&self, addresses: &[&str]) {
        let offer = |at: &&str| Offer::checked("shop", at, 100, "by hand").expect("an offer");
        let all = addresses.iter().map(offer).collect();
        self.records.offer(Source::Containers, all, Some(self.identity()));
    }

    /// What of another node is news here.
    fn asks(&self, other: &Node) -> usize {
        let newer = other.records.newer_than(&self.records.known());
        self.records.take(self.identity(), newer.records)
    }

    /// Where the service is, by all that is believed here.
    fn shop(&self) -> Vec<String> {
        let mesh = v1::Mesh {
            services: vec![v1::Service {
                name: "shop".into(),
                endpoints_from: vec!["*".into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut table = wire::table(1, &mesh).expect("a table");
        let own = self.keeper.identity().map(|it| it.node.as_str());
        self.records.add_to(&mut table, own);
        table.services[0].endpoints.iter().map(|it| it.key()).collect()
    }

    fn own(&self) -> v1::SignedServiceRecord {
        self.records.state().own.clone().expect("a record")
    }

    fn refuses(&self, signed: v1::SignedServiceRecord) -> String {
        let before = self.records.refusals();
        assert_eq!(self.records.take(self.identity(), vec![signed]), 0);
        let mut after = self.records.refusals();
        after.retain(|why, count| before.get(why) != Some(count));
        after.into_keys().collect()
    }
}

fn sealed(by: &Node, said: v1::ServiceRecord) -> v1::SignedServiceRecord {
    signed::seal(by.identity(), &said).expect("a signature")
}

#[test]
fn what_a_node_offers_is_known_to_all_by_whichever_way_and_gone_when_it_says_so() {
    let rack = Rack::new("r1");
    let [a, b, c] = ["a", "b", "c"].map(|name| rack.node(name));
    a.asks(&b);
    b.asks(&a);
    assert_eq!((a.shop(), a.records.digest()), (vec![], b.records.digest()), "nothing is said");
    b.offers(&["10.0.0.1:80", "10.0.0.1:81"]);
    assert_ne!(a.records.digest(), b.records.digest());
    assert_eq!(a.asks(&b), 1);
    assert_eq!((a.asks(&b), a.records.digest()), (0, b.records.digest()), "once is enough");
    assert_eq!(c.asks(&a), 2, "by a third, which can change nothing");
    assert_eq!(c.shop(), ["b/10.0.0.1:80", "b/10.0.0.1:81"]);
    assert_eq!(b.shop(), c.shop(), "as the node itself has it");
    b.offers(&["10.0.0.1:81"]);
    a.offers(&["10.0.0.9:80"]);
    assert_eq!((c.asks(&b), c.asks(&a)), (1, 1), "and nothing older of b by a");
    assert_eq!(c.shop(), ["a/10.0.0.9:80", "b/10.0.0.1:81"]);
    b.offers(&[]);
    assert_eq!((c.asks(&b), c.shop()), (1, vec!["a/10.0.0.9:80".into()]));
    assert_eq!(a.records.refusals(), BTreeMap::new());
}

#[test]
fn a_record_that_its_node_did_not_make_now_is_refused_and_counted() {
    let rack = Rack::new("r1");
    let [a, mut b, c] = ["a", "b", "c"].map(|name| rack.node(name));
    b.offers(&["10.0.0.1:80"]);
    let first = b.own();
    b.offers(&["10.0.0.1:81"]);
    assert_eq!(a.asks(&b), 1);
    assert_eq!(a.refuses(first), "replayed");
    // By another key than its certificate's.
    c.offers(&["10.0.0.2:80"]);
    let by_c = c.own();
    let wrong = v1::SignedServiceRecord { signature: by_c.signature.clone(), ..b.own() };
    assert_eq!(a.refuses(wrong), "wrong key");
    let wrong = v1::SignedServiceRecord { record: by_c.record.clone(), ..b.own() };
    assert_eq!(a.refuses(wrong), "wrong key");
    // About another node: c vouches for itself alone.
    let said = v1::ServiceRecord::decode(&b.own().record[..]).expect("a record");
    let about_b = sealed(&c, v1::ServiceRecord { number: 9, ..said.clone() });
    assert_eq!(a.refuses(about_b), "about another node");
    let about_r2 = v1::ServiceRecord { rack: "r2".into(), number: 9, ..said.clone() };
    assert_eq!(a.refuses(sealed(&b, about_r2)), "about another node");
    // Of another rack, and of another rack of this name.
    for id in ["r2", "r1"] {
        let foreign = Rack::new(id).node("b");
        foreign.offers(&["10.0.0.3:80"]);
        assert_eq!(a.refuses(foreign.own()), "foreign certificate", "{id}");
    }
    // What can't be.
    let endpoint = v1::OfferedEndpoint { address: "0.0.0.0:0".into(), ..Default::default() };
    let many = vec![said.endpoints[0].clone(); MAX_OFFERS + 1];
    for endpoints in [vec![endpoint], many] {
        let said = v1::ServiceRecord { endpoints, number: 9, ..said.clone() };
        assert_eq!(a.refuses(sealed(&b, said)), "garbage");
    }
    let garbage = v1::SignedServiceRecord { record: vec![255; 40].into(), ..b.own() };
    assert_eq!(a.refuses(garbage), "garbage");
    assert_eq!(a.refuses(v1::SignedServiceRecord::default()), "foreign certificate");
    assert_eq!(a.shop(), ["b/10.0.0.1:81"], "and nothing of it is used");
    // Revoked: what is known is believed no more, and nothing new is.
    let nodes = vec![("b".to_owned(), NOW + DAY)];
    let list = Revocations { number: 1, issued: NOW + DAY, nodes };
    let (mut a, list) = (a, rack.0.revoke(&list).expect("a list"));
    a.write(identity::REVOKED, &list);
    assert_eq!(a.shop(), [""; 0]);
    let passed_on = a.records.newer_than(&v1::KnownRecords::default()).records;
    assert_eq!(passed_on, [a.own()], "and it is not passed on");
    assert_eq!(a.refuses(b.own()), "revoked certificate");
    // It is let in again, and so is what it says then.
    let again = rack.0.make_node("b", NOW + 2 * DAY, NODE_LIFE_S, &Revocations::default());
    b.write(identity::NODE, again.expect("a node"));
    assert_eq!((a.asks(&b), a.shop()), (1, vec!["b/10.0.0.1:81".into()]), "signed anew");
}

#[test]
fn a_certificate_that_ended_is_told_of_until_its_node_has_another_or_is_let_in_no_more() {
    let rack = Rack::new("r1");
    let [a, mut b] = ["a", "b"].map(|name| rack.node(name));
    let none = Revocations::default();
    let made = |ago: u64, life| rack.0.make_node("b", NOW - ago, life, &none).expect("a node");
    b.write(identity::NODE, made(10 * DAY, 5 * DAY));
    assert_eq!((a.asks(&b), a.keeper.lapsed().len()), (1, 1), "let in, and told");
    b.write(identity::NODE, made(0, NODE_LIFE_S));
    assert_eq!((a.asks(&b), a.keeper.lapsed().len()), (1, 0), "renewed");
    b.write(identity::NODE, made(10 * DAY, 5 * DAY));
    assert_eq!((a.asks(&b), a.keeper.lapsed().len()), (1, 1));
    // Only a clock that others have too refuses anybody for his time.
    a.keeper.clock().peers_agree(true);
    b.write(identity::NODE, made(60 * DAY, 5 * DAY));
    assert_eq!((a.asks(&b), a.keeper.lapsed().len()), (0, 0), "over the grace");
    assert_eq!(a.records.refusals().into_keys().collect::<Vec<_>>(), ["expired certificate"]);
}

#[test]
fn a_rack_starts_from_what_it_knew_last_and_a_node_that_forgot_is_heard_again() {
    let rack = Rack::new("r1");
    let [mut a, mut b] = ["a", "b"].map(|name| rack.node(name));
    b.offers(&["10.0.0.1:80"]);
    let first = b.own();
    b.offers(&["10.0.0.1:81"]);
    a.asks(&b);
    a.records.store(a.dir.path()).expect("a write");
    a.records = Records::load(a.dir.path()).expect("it reads back");
    assert_eq!(a.shop(), [""; 0], "nothing is believed unseen");
    assert!(a.records.judge(a.keeper.identity().map(Arc::as_ref)));
    assert_eq!(a.shop(), ["b/10.0.0.1:81"]);
    assert_eq!(a.refuses(first), "replayed", "also across a restart");
    // b has lost its disk: its numbers begin anew.
    b.records = Records::default();
    b.offers(&["10.0.0.1:82"]);
    assert_eq!(a.asks(&b), 0);
    assert_eq!(b.asks(&a), 2, "a's record, and its own, which is ahead");
    assert_eq!((a.asks(&b), a.shop()), (1, vec!["b/10.0.0.1:82".into()]));
}

#[test]
fn a_node_that_was_away_for_long_has_no_endpoints_until_it_is_back() {
    let rack = Rack::new("r1");
    let [a, b] = ["a", "b"].map(|name| rack.node(name));
    b.offers(&["10.0.0.1:80"]);
    a.asks(&b);
    let members = Members::default();
    assert!(!a.records.look(&members));
    let Some(long_ago) = Instant::now().checked_sub(GONE_AFTER + Duration::from_secs(1)) else {
        return println!("this machine has not been up for a day");
    };
    a.records.state().others.get_mut("b").expect("b").there = long_ago;
    assert!(a.records.look(&members) && a.shop().is_empty());
    let of_b = b.records.known().known;
    assert!(a.records.known().known.ends_with(&of_b), "and its number stays known");
    let address = ([10, 0, 0, 1], 15008).into();
    members.note(&Member { node: "b".into(), address, life: 1 }, true);
    assert!(a.records.look(&members));
    assert_eq!(a.shop(), ["b/10.0.0.1:80"]);
}
