//! What nodes say of the services that run on them. Each node signs its own record by its
//! certificate's key; records go round among nodes, by whichever, and each node looks at
//! the signature itself.
//!
//! That there is something new is told beside the gossip, as one number over all that a
//! node knows; whoever has another number asks through the tunnel for what is newer
//! ([`fetch`]). What an endpoint is added to is for the document to say
//! ([`purlin_core::mesh::offer`]). What was known last is on disk, and is all that a rack
//! needs to start from cold.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prost::Message;
use purlin_core::mesh::{
    hashed::{hash, mix},
    offer::{self, MAX_OFFERS, Offer},
    table::{MAX_PEERS, Table},
};
use purlin_proto::{mesh as view, v1};

use self::signed::{Record, Refused, sign, verify, wire};
use crate::{discovery::members::Members, identity::Identity, keep};

pub mod fetch;
pub(crate) mod signed;
#[cfg(test)]
mod tests;

/// A node that was not there for so long has no endpoints here any more: as long as gossip
/// remembers it. Its record's number is kept, so that an older one is known for what it is.
const GONE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Of an answer that holds records, in bytes: what is left is asked for again.
const MAX_ANSWER: usize = 192 << 10;

/// Where this node's own offers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its agent: what its containers' annotations say.
    Containers,
    /// Somebody who types.
    Hand,
}

/// All that is known. The lock is held for no wait, and nothing that carries traffic takes
/// it.
#[derive(Debug, Default)]
pub struct Records(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    number: u64,
    containers: Vec<Offer>,
    by_hand: Vec<Offer>,
    own: Option<v1::SignedServiceRecord>,
    others: BTreeMap<String, Other>,
    refused: BTreeMap<Refused, u64>,
}

/// Another node's record.
#[derive(Debug)]
struct Other {
    signed: v1::SignedServiceRecord,
    number: u64,
    offers: Vec<Offer>,
    /// Why it is not believed any more.
    refused: Option<Refused>,
    /// When its node was there last, as far as this process knows.
    there: Instant,
    is_gone: bool,
}

impl Other {
    fn new(signed: v1::SignedServiceRecord, record: Record) -> Self {
        let Record { number, offers, .. } = record;
        Self { signed, number, offers, refused: None, there: Instant::now(), is_gone: false }
    }

    fn is_used(&self) -> bool {
        self.refused.is_none() && !self.is_gone
    }
}

impl State {
    fn offers(&self) -> Vec<Offer> {
        self.by_hand.iter().chain(&self.containers).take(MAX_OFFERS).cloned().collect()
    }

    /// All offers that are believed, each with its node; this one's own first.
    fn used<'s>(&'s self, own: Option<&'s str>) -> Vec<(Option<&'s str>, &'s Offer)> {
        let mine = self.by_hand.iter().chain(&self.containers).map(|it| (own, it));
        let others = self.others.iter().filter(|(_, it)| it.is_used());
        let others = others.flat_map(|(node, it)| it.offers.iter().map(|it| (Some(&**node), it)));
        mine.chain(others).collect()
    }

    /// Makes this node's record anew if it says something else, or is by another
    /// certificate.
    fn sign(&mut self, identity: Option<&Identity>) {
        let Some(identity) = identity else {
            self.own = None;
            return;
        };
        // One that offers nothing tells all the same that its certificate was renewed.
        let offers = self.offers();
        let is_same = self.own.as_ref().is_some_and(|own| {
            let by = own.certificates.first().map(|it| &it[..]);
            let said = v1::ServiceRecord::decode(&own.record[..]).unwrap_or_default();
            let number = said.number;
            by == identity.chain.first().map(|it| &it[..])
                && number == self.number
                && said.endpoints == offers.iter().map(wire).collect::<Vec<_>>()
        });
        if is_same {
            return;
        }
        self.number = self.number.saturating_add(1);
        match sign(identity, self.number, &offers) {
            Ok(signed) => self.own = Some(signed),
            Err(why) => tracing::error!(why, "what this node offers can't be signed"),
        }
    }

    fn kept(&self) -> v1::KeptRecords {
        v1::KeptRecords {
            number: self.number,
            containers: self.containers.iter().map(wire).collect(),
            by_hand: self.by_hand.iter().map(wire).collect(),
            records: self.others.values().map(|it| it.signed.clone()).collect(),
        }
    }
}

impl Records {
    /// What was known last. Others' records are believed once [`Records::judge`] has looked
    /// at them.
    pub fn load(dir: &Path) -> io::Result<Self> {
        let Some(kept) = keep::read::<v1::KeptRecords>(dir, keep::RECORDS)? else {
            return Ok(Self::default());
        };
        let offers = |all: &[v1::OfferedEndpoint]| {
            all.iter().take(MAX_OFFERS).filter_map(|it| signed::offer(it).ok()).collect()
        };
        let others = kept.records.into_iter().take(MAX_PEERS).filter_map(|signed| {
            let said = v1::ServiceRecord::decode(&signed.record[..]).ok()?;
            let record = Record { node: said.node, number: said.number, offers: Vec::new() };
            let node = record.node.clone();
            Some((node, Other { refused: Some(Refused::Foreign), ..Other::new(signed, record) }))
        });
        let (containers, by_hand) = (offers(&kept.containers), offers(&kept.by_hand));
        let others = others.collect();
        let state = State { number: kept.number, containers, by_hand, others, ..State::default() };
        Ok(Self(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what is known durable.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        let kept = self.state().kept();
        keep::write(dir, keep::RECORDS, &kept)
    }

    /// Who this node is, or who is out, has changed: signs anew, and looks at every record
    /// again. Whether that made a difference.
    pub fn judge(&self, identity: Option<&Identity>) -> bool {
        let mut state = self.state();
        let number = state.number;
        state.sign(identity);
        let mut is_other = state.number != number;
        for it in state.others.values_mut() {
            let before = (it.refused, it.offers.len());
            match identity.map(|identity| verify(identity, &it.signed)) {
                Some(Ok(record)) => (it.refused, it.offers) = (None, record.offers),
                Some(Err(why)) => it.refused = Some(why),
                None => it.refused = Some(Refused::Foreign),
            }
            is_other |= before != (it.refused, it.offers.len());
        }
        is_other
    }

    /// This node offers these from now on; whether that is something else than before.
    pub fn offer(&self, from: Source, offers: Vec<Offer>, identity: Option<&Identity>) -> bool {
        let mut state = self.state();
        let before = match from {
            Source::Containers => &mut state.containers,
            Source::Hand => &mut state.by_hand,
        };
        if *before == offers {
            return false;
        }
        *before = offers;
        state.sign(identity);
        true
    }

    /// What was offered by hand.
    pub fn by_hand(&self) -> Vec<Offer> {
        self.state().by_hand.clone()
    }

    /// Records that another node passed on; how many of them are news.
    pub fn take(&self, identity: &Identity, records: Vec<v1::SignedServiceRecord>) -> usize {
        let mut news = 0;
        for signed in records {
            let taken = verify(identity, &signed)
                .and_then(|record| self.state().take(identity, signed, record));
            match taken {
                Ok(is_new) => news += usize::from(is_new),
                Err(why) => {
                    tracing::warn!(%why, "a service record was refused");
                    *self.state().refused.entry(why).or_default() += 1;
                }
            }
        }
        news
    }

    /// Nodes come and go; whether one that is gone for good has come back, or the reverse.
    pub fn look(&self, members: &Members) -> bool {
        let mut is_other = false;
        for (node, it) in &mut self.state().others {
            if members.is_up(node) {
                it.there = Instant::now();
            }
            let is_gone = it.there.elapsed() > GONE_AFTER;
            is_other |= is_gone != it.is_gone;
            it.is_gone = is_gone;
        }
        is_other
    }

    /// One number over all that is known: whoever has another one knows something else.
    pub fn digest(&self) -> u64 {
        self.known()
            .known
            .iter()
            .fold(0, |all, it| all ^ mix(hash(it.node.as_bytes()) ^ mix(it.number)))
    }

    /// Of which nodes there is a record, and which.
    pub fn known(&self) -> v1::KnownRecords {
        let state = self.state();
        let own = state.own.as_ref().and_then(|it| v1::ServiceRecord::decode(&it.record[..]).ok());
        let own = own.map(|it| v1::KnownRecord { node: it.node, number: it.number });
        let others = state.others.iter().filter(|(_, it)| it.refused.is_none());
        let others =
            others.map(|(node, it)| v1::KnownRecord { node: node.clone(), number: it.number });
        v1::KnownRecords { known: own.into_iter().chain(others).collect() }
    }

    /// What somebody doesn't know who knows this, as much of it as fits.
    pub fn newer_than(&self, known: &v1::KnownRecords) -> v1::ServiceRecords {
        let known: BTreeMap<&str, u64> =
            known.known.iter().map(|it| (it.node.as_str(), it.number)).collect();
        let state = self.state();
        let own = state.own.iter().filter(|it| {
            let said = v1::ServiceRecord::decode(&it.record[..]).unwrap_or_default();
            known.get(said.node.as_str()).is_none_or(|number| *number < said.number)
        });
        let is_newer = |(node, it): &(&String, &Other)| {
            it.refused.is_none() && known.get(node.as_str()).is_none_or(|n| *n < it.number)
        };
        let others = state.others.iter().filter(is_newer).map(|(_, it)| &it.signed);
        let mut bytes = 0;
        let fits = |it: &&v1::SignedServiceRecord| {
            bytes += it.encoded_len() + 8;
            bytes <= MAX_ANSWER
        };
        v1::ServiceRecords { records: own.chain(others).take_while(fits).cloned().collect() }
    }

    /// Adds what is offered to a table.
    pub fn add_to(&self, table: &mut Table, own: Option<&str>) {
        offer::add(table, &self.state().used(own));
    }

    /// Records that were refused, by why.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.state().refused.iter().map(|(why, count)| (why.to_string(), *count)).collect()
    }

    /// For people and machines: what is offered, and what becomes of it by a document.
    pub fn view(&self, document: &Table, own: Option<&str>) -> view::Offers {
        let state = self.state();
        let used = state.used(own);
        let unused = offer::add(&mut document.clone(), &used);
        let row = |node: Option<&str>, it: &Offer, unused: Option<String>| view::Offered {
            node: node.unwrap_or_default().into(),
            service: it.service.clone(),
            address: it.address.to_string(),
            weight: it.weight,
            source: it.source.clone(),
            unused,
        };
        let used = used.into_iter().zip(unused);
        let used = used.map(|((node, it), why)| row(node, it, why.map(|it| it.to_string())));
        let others = state.others.iter().filter(|(_, it)| !it.is_used()).flat_map(|(node, it)| {
            let why =
                it.refused.map_or("its node is gone for over a day".into(), |it| it.to_string());
            it.offers.iter().map(move |offer| row(Some(node), offer, Some(why.clone())))
        });
        view::Offers { offers: used.chain(others).collect() }
    }
}

impl State {
    /// A record that was looked at; whether it is news.
    fn take(
        &mut self,
        identity: &Identity,
        signed: v1::SignedServiceRecord,
        record: Record,
    ) -> Result<bool, Refused> {
        if record.node == identity.node {
            // This node has lost what it knew of itself: what it says now has to be newer.
            let is_ahead = record.number > self.number;
            if is_ahead {
                self.number = record.number;
                self.own = None;
                self.sign(Some(identity));
            }
            return Ok(is_ahead);
        }
        if self.others.len() >= MAX_PEERS && !self.others.contains_key(&record.node) {
            return Err(Refused::TooMany);
        }
        match self.others.get(&record.node) {
            Some(known) if known.number > record.number => Err(Refused::Replayed),
            Some(known) if known.number == record.number && known.refused.is_none() => Ok(false),
            _ => {
                self.others.insert(record.node.clone(), Other::new(signed, record));
                Ok(true)
            }
        }
    }
}
