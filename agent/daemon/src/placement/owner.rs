//! The task `placement`.

use std::{sync::Arc, time::Duration};

use purlin_core::{
    cpuset,
    inventory::Inventory,
    place::{
        book::{Book, Grant, Outcome, Room, Rules},
        container::Container,
        decide::Refusal,
        machine::Machine,
        repack::{Plan, Resident},
        request::Request,
        targets::Targets,
    },
    settings::Settings,
};
use purlin_drivers::{Root, cgroup};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
    time::{self, Instant},
};

use super::{Ask, Served, Store, Teller};
use crate::{clock, kubelet, spool::Spool};

/// What was decided is on disk after this time: a pod's containers come together, and
/// flash wears. What is lost with the power is found again from what runs.
const STORE_AFTER: Duration = Duration::from_millis(200);
/// After a failure to write.
const STORE_AGAIN: Duration = Duration::from_secs(30);
/// Nobody is answered before the machine is known, and what kubelet gave out of it, or for
/// so long: a refusal in the seconds after a start would be about nothing but the start.
const FIRST_KNOWN: Duration = Duration::from_secs(10);

/// Containers whose memory is looked up for one plan: a file each, some hundredths of a
/// millisecond. Of others what they asked for counts.
const MAX_MEASURED: usize = 256;

/// What it goes by.
#[derive(Debug)]
pub struct Sources {
    /// The machine.
    pub inventory: watch::Receiver<Arc<Inventory>>,
    /// The settings.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// What kubelet gave out.
    pub kubelet: watch::Receiver<kubelet::State>,
    /// Where it says by which rules it has planned.
    pub planned: watch::Sender<Option<Rules>>,
    /// Where it says what is left.
    pub room: watch::Sender<Option<Room>>,
    /// Where it says what containers serve.
    pub served: watch::Sender<Option<Arc<Served>>>,
    /// Takes the events.
    pub spool: Spool,
}

/// What comes of asking for a place.
type Decided = Result<Grant, Box<Refusal>>;

/// Owns the book.
#[derive(Debug)]
pub struct Owner {
    sources: Sources,
    inbox: mpsc::Receiver<Ask>,
    targets: watch::Sender<Arc<Targets>>,
    book: Book,
    teller: Teller,
    store: Store,
    /// When what was decided is to be on disk.
    store_at: Option<Instant>,
    /// What the plan was made for.
    planned: Option<(Result<Machine, String>, Rules)>,
}

impl Owner {
    /// Goes on with a book that was kept.
    pub fn new(
        sources: Sources,
        inbox: mpsc::Receiver<Ask>,
        (store, book): (Store, Book),
    ) -> (Self, watch::Receiver<Arc<Targets>>) {
        let (targets, published) = watch::channel(Arc::default());
        let (store_at, planned) = (None, None);
        let teller = Teller::new(sources.spool.clone());
        (Self { sources, inbox, targets, book, teller, store, store_at, planned }, published)
    }

    /// Serves for ever.
    pub async fn run(&mut self) {
        let known = |inventory: &Arc<Inventory>| inventory.cpu.is_some();
        let mut first = self.sources.inventory.clone();
        _ = time::timeout(FIRST_KNOWN, first.wait_for(known)).await;
        let mut kubelet = self.sources.kubelet.clone();
        _ = time::timeout(FIRST_KNOWN, kubelet.wait_for(|state| state.is_known)).await;
        self.replan();
        loop {
            let store_at = self.store_at.unwrap_or_else(Instant::now);
            // None of them loses anything when it is dropped while it waits.
            tokio::select! {
                Some(ask) = self.inbox.recv() => self.answer(ask),
                Ok(()) = self.sources.inventory.changed() => self.replan(),
                Ok(()) = self.sources.settings.changed() => self.replan(),
                Ok(()) = self.sources.kubelet.changed() => self.replan(),
                () = time::sleep_until(store_at), if self.store_at.is_some() => self.store().await,
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        // Who asks about a container has had it read before.
        if self.sources.kubelet.has_changed().unwrap_or(false) {
            self.replan();
        }
        match ask {
            Ask::Create(it, reply) => self.decide(reply, it, Book::admit),
            Ask::Update(it, reply) => self.decide(reply, it, Book::update),
            Ask::Remove(id, reply) => self.change(reply, |book, _| book.remove(&id)),
            Ask::Adopt(via, all, reply) => {
                self.change(reply, |book, now| book.adopt(now, via, all));
            }
            Ask::Pause(paused, reply) => self.change(reply, |book, _| book.pause(paused)),
            Ask::Overview(reply) => _ = reply.send(self.book.overview()),
            Ask::WhatIf(request, reply) => _ = reply.send(self.book.what_if(&request).into()),
            Ask::Below(priority, reply) => _ = reply.send(self.book.below(priority)),
            Ask::Preview(rules, reply) => _ = reply.send(self.preview(rules)),
            Ask::Repack(request, budget, apply, reply) => {
                self.change(reply, |book, _| repack(book, &request, budget, apply));
            }
        }
    }

    /// Decides where a container goes, and tells if that is not where it asked to be.
    fn decide(
        &mut self,
        reply: oneshot::Sender<Decided>,
        it: Container,
        of: fn(&mut Book, u64, Container) -> Decided,
    ) {
        let (id, title) = (it.id.clone(), it.title());
        let decided = of(&mut self.book, clock::unix_ms(), it);
        self.publish();
        let entry = self.book.entries().get(&id).map(|entry| &entry.outcome);
        let told = match (&decided, entry) {
            (Err(refusal), _) => Some(("placement.refused", "was refused", &refusal.reason)),
            (Ok(_), Some(Outcome::Shared(Some(refusal)))) => {
                Some(("placement.failed_open", "shares, though it asked for more", &refusal.reason))
            }
            (Ok(_), _) => None,
        };
        if let Some((name, what, reason)) = told {
            let text = format!("{title} {what}: {reason}");
            let attributes =
                [("container", id), ("title", title.clone()), ("reason", reason.clone())];
            self.teller.tell(name, text, Some(&format!("{title} {reason}")), attributes);
        }
        _ = reply.send(decided);
    }

    /// Tells who has not all of its own CPUs any more.
    fn tell_lost(&mut self, before: &Targets, machine: &Machine) {
        for (id, lost) in self.book.targets().lost_since(before) {
            let Some(entry) = self.book.entries().get(&id) else { continue };
            let title = entry.container.title();
            let now = &self.book.targets().containers[&id];
            let why = match lost.iter().all(|cpu| machine.pus.contains_key(&cpu)) {
                true => "are not its own any more",
                false => "are not all online any more",
            };
            let instead = match (&entry.outcome, now.exclusive) {
                (Outcome::Shared(Some(refusal)), _) => {
                    format!("shares CPUs {}: {}", now.cpus, refusal.reason)
                }
                (_, true) => format!("has CPUs {} now", now.cpus),
                _ => format!("shares CPUs {}", now.cpus),
            };
            let text = format!("CPUs {lost} of {title} {why}: it {instead}");
            tracing::warn!(text, "exclusive CPUs were lost");
            let attributes = [
                ("container", id),
                ("title", title),
                ("lost", lost.to_string()),
                ("now", now.cpus.to_string()),
            ];
            self.teller.tell("placement.exclusive_lost", text, None, attributes);
        }
    }

    /// Changes the book. Who gets the answer finds the targets that belong to it; that
    /// nobody waits for it any more is no failure.
    fn change<T>(&mut self, reply: oneshot::Sender<T>, of: impl FnOnce(&mut Book, u64) -> T) {
        let answer = of(&mut self.book, clock::unix_ms());
        self.publish();
        _ = reply.send(answer);
    }

    /// Who would be elsewhere by these rules, and by nothing else that is different.
    fn preview(&self, by_settings: Rules) -> Vec<String> {
        let Some((Ok(machine), now)) = &self.planned else { return Vec::new() };
        let (mut book, before) = (self.book.clone(), self.book.targets());
        let rules = Rules { kubelet: now.kubelet.clone(), ..by_settings };
        let moved = book.replan(Some(machine.clone()), rules);
        let cpus = |targets: &Targets, id: &str| {
            targets.containers.get(id).map_or("wherever it likes".into(), |it| it.cpus.to_string())
        };
        let moved =
            moved.iter().map(|it| (&it.id, cpus(before, &it.id), cpus(book.targets(), &it.id)));
        let line = |(id, from, to): (&String, String, String)| {
            let title = book.entries().get(id).map(|it| it.container.title()).unwrap_or_default();
            format!("{title}: from CPUs {from} to {to}")
        };
        moved.filter(|(_, from, to)| from != to).map(line).collect()
    }

    /// Plans anew if the machine, as far as it matters here, or the rules are others.
    fn replan(&mut self) {
        let machine = Machine::of(&self.sources.inventory.borrow_and_update());
        let by_settings = self.sources.settings.borrow_and_update().placement.rules();
        let kubelet = self.sources.kubelet.borrow_and_update().gave.as_deref().cloned();
        let rules = Rules { kubelet, ..by_settings.clone() };
        if self.planned.as_ref().is_some_and(|planned| planned == &(machine.clone(), rules.clone()))
        {
            return;
        }
        match &machine {
            // Unknown is not gone: what was planned for the machine as it was holds.
            Err(why) if self.book.knows_machine() => tracing::warn!(why, "no new plan"),
            Err(why) => tracing::warn!(why, "nothing can be placed on this machine"),
            Ok(found) => {
                let before = self.book.targets().clone();
                let updates = self.book.replan(Some(found.clone()), rules.clone());
                tracing::info!(changed = updates.len(), "planned");
                if rules.enabled && !self.book.paused() {
                    self.tell_lost(&before, found);
                }
            }
        }
        self.sources.planned.send_replace(Some(by_settings));
        self.planned = Some((machine, rules));
        self.publish();
    }

    fn publish(&mut self) {
        let (services, identities) = (self.book.services(), self.book.identities());
        let served = Served { services, identities };
        self.sources.served.send_if_modified(|now| {
            let is_other = now.as_deref() != Some(&served);
            if is_other {
                *now = Some(Arc::new(served));
            }
            is_other
        });
        self.store_at.get_or_insert(Instant::now() + STORE_AFTER);
        self.targets.send_if_modified(|targets| {
            let changed = targets.generation != self.book.targets().generation;
            if changed {
                *targets = self.book.targets().clone();
            }
            changed
        });
    }

    /// Makes the book durable, beside the main loop: a worn flash may take seconds.
    async fn store(&mut self) {
        let (mut store, saved) = (self.store.clone(), self.book.save());
        let room = Some(self.book.room());
        self.sources.room.send_if_modified(|now| {
            let changed = *now != room;
            *now = room;
            changed
        });
        let stored = task::spawn_blocking(move || store.store(&saved).map(|()| store));
        let stored = stored.await;
        self.store_at = match stored.map_err(std::io::Error::other).flatten() {
            Ok(store) => {
                self.store = store;
                None
            }
            Err(error) => {
                tracing::error!(%error, again = ?STORE_AGAIN, "placements can't be kept");
                Some(Instant::now() + STORE_AGAIN)
            }
        };
    }
}

/// The memory that those who might be moved use, as far as their cgroups tell.
fn resident(book: &Book) -> Resident {
    let Ok(root) = Root::live() else { return Resident::new() };
    let of = |(id, cgroup): (&String, &String)| {
        let (by_node, _) = cgroup::resident(&root, &cpuset::path_of(cgroup)?);
        (!by_node.is_empty()).then(|| (id.clone(), by_node))
    };
    book.may_be_moved().take(MAX_MEASURED).filter_map(of).collect()
}

fn repack(book: &mut Book, request: &Request, budget: u64, apply: bool) -> Result<Plan, String> {
    let resident = resident(book);
    let plan = book.repack(request, budget, &resident).map_err(|refusal| refusal.reason)?;
    if apply {
        book.apply(&plan)?;
        tracing::info!(moves = plan.moves.len(), bytes = plan.bytes, "room was made");
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use purlin_core::{
        identity::{Class, Incarnation},
        inventory::{Cpu, NumaNode, Pu},
        place::container::{Container, Resources, Via},
        settings::Start,
    };

    use purlin_proto::v1::{self, record::Body};

    use super::*;
    use crate::{clock::Clock, placement::Client, tasks::Board};

    /// So many CPUs on one node.
    fn inventory(count: u32) -> Inventory {
        let pu = |id: u32| Pu { id, logical: id, node: Some(0) };
        let cpus = (0..count).collect();
        Inventory {
            cpu: Some(Cpu { pus: (0..count).map(pu).collect(), ..Cpu::default() }),
            numa: Some(vec![NumaNode { cpus: Some(cpus), ..NumaNode::default() }]),
            ..Inventory::default()
        }
    }

    fn pod(id: &str) -> Container {
        Container {
            id: id.into(),
            cgroup: Some(format!("/kubepods/pod/{id}")),
            resources: Resources { cpu_shares: Some(2048), ..Resources::default() },
            via: Via::Nri,
            ..Container::default()
        }
    }

    /// The texts of the first events.
    async fn events(spool: &Spool, count: u64) -> Vec<String> {
        let mut durable = spool.durable();
        durable.wait_for(|it| it[Class::Event as usize] >= count).await.expect("durable");
        let frame = spool.read(Class::Event, 1, 1 << 20).await.expect("a frame");
        let text = |(_, record): (u64, Vec<u8>)| match v1::Record::decode(&record[..])
            .expect("a record")
            .body
        {
            Some(Body::Event(event)) => event.text,
            other => panic!("{other:?}"),
        };
        frame.records.into_iter().map(text).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_decided_is_published_and_on_disk_soon_after() {
        let dir = tempfile::tempdir().expect("a directory");
        let (inventory_owner, inventory_now) = watch::channel(Arc::default());
        let settings = Settings::resolve(&Start::default(), None);
        let (_settings_owner, settings) = watch::channel(Arc::new(settings));
        let planned = watch::channel(None).0;
        let kubelet = watch::channel(kubelet::State::default()).1;
        let room = watch::channel(None).0;
        let (served, mut serving) = watch::channel(None);
        let spool =
            Spool::open(&dir.path().join("spool"), Incarnation(1), Clock::new(1), Board::default())
                .expect("a spool");
        let sources = Sources {
            inventory: inventory_now,
            settings,
            kubelet,
            planned,
            room,
            served,
            spool: spool.clone(),
        };
        let (asks, inbox) = mpsc::channel(4);
        let (store, saved, problems) = Store::open(dir.path());
        assert!(problems.is_empty());
        let (mut owner, mut targets) = Owner::new(sources, inbox, (store, Book::restore(saved)));
        let running = tokio::spawn(async move { owner.run().await });
        inventory_owner.send_replace(Arc::new(inventory(4)));

        let client = Client(asks);
        let mut db = pod("db");
        db.annotations.insert("purlin.dev/services".into(), "shop=8080".into());
        let grant = client.create(db).await.expect("an answer").expect("room");
        let at = "127.0.0.1:8080".parse().expect("an address");
        let expected = vec![("shop".to_owned(), at, "db".to_owned())];
        let services = serving.borrow_and_update().as_ref().map(|it| it.services.clone());
        assert_eq!(services, Some(expected));
        assert_eq!(grant.target.expect("a cpuset").cpus.to_string(), "2-3");
        assert_eq!(targets.borrow_and_update().shared.to_string(), "0-1");
        let refused = client.create(pod("other")).await.expect("an answer");
        assert!(refused.expect_err("one is left").reason.contains("1 of 2 exclusive PUs"));
        let reserved = Some([2, 3].into_iter().collect());
        let moved = client.preview(Rules { reserved, ..Rules::default() }).await;
        let line = "db: from CPUs 2-3 to 0-1".to_owned();
        assert_eq!(moved.expect("an answer"), [line], "as it would be, and nobody moves");
        assert_eq!(client.preview(Rules::default()).await.expect("an answer"), [""; 0]);
        assert_eq!(targets.borrow().shared.to_string(), "0-1");
        time::sleep(STORE_AFTER * 5).await;
        inventory_owner.send_replace(Arc::new(inventory(3)));
        targets.changed().await.expect("another plan");
        assert_eq!(
            events(&spool, 2).await,
            [
                "other was refused: the whole machine has only 1 of 2 exclusive PUs left",
                "CPUs 3 of db are not all online any more: it has CPUs 1-2 now",
            ]
        );
        // The disk has a time of its own, which no paused clock hastens.
        for _ in 0..500 {
            if Store::open(dir.path()).1.containers.len() == 1 {
                break;
            }
            _ = task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(20))).await;
        }
        running.abort();
        let (_, saved, _) = Store::open(dir.path());
        assert_eq!(saved.containers.len(), 1);
        // A file of nonsense is told, and nothing more.
        for name in ["placement.a", "placement.b"] {
            std::fs::write(dir.path().join(name), "nonsense").expect("a write");
        }
        let (_, saved, problems) = Store::open(dir.path());
        assert_eq!((saved.containers.len(), problems.len()), (0, 2));
    }
}
