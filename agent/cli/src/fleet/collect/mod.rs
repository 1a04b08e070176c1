//! `purlin fleet collect`: the core's end of the uplink. It takes batches off the broker,
//! decodes them, drops what comes again, marks what is missing, and hands on to what an
//! operator already runs.
//!
//! | file | what it owns |
//! | --- | --- |
//! | [`mod@line`] | messages between the broker and the far side, in their order |
//! | [`intake`] | what came of each log: decoding, deduplication, holes |
//! | [`mod@deliver`], [`to`] | the far side |
//! | [`journal`], [`shelf`] | the state directory |
//!
//! **Invariant: the broker is told that a message is taken after the far side took it and
//! the journal is on disk.** Acknowledgements are given in the order in which messages
//! came, so the broker's window is what bounds memory: a far side that is slow or dead
//! makes the broker queue, and nothing here grows.
//!
//! **Invariant: what is of one node is handed on in the order in which it came.** That is
//! two orders at once: what was on the node's disk when its link came up comes beside what
//! it measures now (docs/decisions/027), each in itself in order, and says which it is.

use std::{fs, sync::Arc, time::Duration};

use purlin_daemon::{
    clock,
    mqtt::{Arrived, Durable, Filter, Mqtt, Subscriber},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};

use crate::{
    args::CollectArgs,
    exit::{Ended, Exit, Failure},
    output::{Output, note},
};

mod deliver;
mod intake;
mod journal;
mod line;
mod progress;
mod shelf;
mod taken;
mod to;

use deliver::{Delivered, Health, deliver};
use intake::Intake;
use journal::Journal;
use line::{Line, Load};
use progress::Progress;
use shelf::Shelf;
use to::Far;

/// To connect, and for each subscription.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two attempts.
const RECONNECT: Duration = Duration::from_secs(2);
/// What comes within it goes in one load.
const LINGER: Duration = Duration::from_millis(100);
/// How long a load that is under way may take when we are to stop.
const GOODBYE: Duration = Duration::from_secs(5);

/// Collects until it is told to stop.
pub async fn run(args: &CollectArgs, output: &Output) -> Ended {
    let token = args.token_file.as_ref().map(|path| {
        let read = fs::read_to_string(path).map(|it| it.trim().to_owned());
        read.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
    });
    let far = Far::open(&args.to, token.transpose()?.as_deref())?;
    let shelf = Shelf::open(&args.state).map_err(Failure::Failed)?;
    let path = args.state.join("journal");
    let (journal, logs) = Journal::open(path.clone())
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    let intake = Intake::new(shelf, logs, args.partition, args.share.is_none());
    let mut collector = Collector {
        args,
        line: Line::new(intake, journal),
        far: Some(far),
        sending: None,
        health: Arc::new(watch::Sender::new(None)),
        progress: Progress::default(),
    };
    let stop = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(term), Ok(int)] = stop else {
        return Err(Failure::Failed("the kernel gives no signals".into()));
    };
    collector.run(Stop { term, int }, output).await
}

struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

struct Collector<'a> {
    args: &'a CollectArgs,
    line: Line,
    /// While nothing is being sent.
    far: Option<Far>,
    sending: Option<JoinHandle<(Far, Load, Delivered)>>,
    health: Arc<Health>,
    progress: Progress,
}

impl Collector<'_> {
    async fn run(&mut self, mut stop: Stop, output: &Output) -> Ended {
        let mut every = time::interval_at(Instant::now() + self.args.every, self.args.every);
        let mut session: Option<Subscriber> = None;
        let mut connect = Instant::now();
        let mut look = time::interval(LINGER);
        loop {
            if self.line.is_full() || look_is_due(&self.line) {
                self.send();
            }
            tokio::select! {
                // Dropping it loses nothing: what came stays in its channel.
                arrived = next(&mut session) => match arrived {
                    Ok(arrived) => {
                        self.progress.messages += 1;
                        self.line.came(arrived, &mut self.progress);
                    }
                    Err(why) => {
                        if why.contains("took our session over") {
                            let what = "another copy has our name: give each its own --name";
                            return Err(Failure::Failed(format!("{why}; {what}")));
                        }
                        note(&format!("{}: {why}", self.args.login.broker));
                        self.progress.broker = Some(why);
                        self.line.disconnected();
                        (session, connect) = (None, Instant::now() + RECONNECT);
                    }
                },
                sent = sent(&mut self.sending) => {
                    let (far, load, delivered) = sent;
                    self.far = Some(far);
                    self.sending = None;
                    self.done(load, delivered, session.as_ref()).await?;
                }
                () = time::sleep_until(connect), if session.is_none() => {
                    match self.connect().await {
                        Ok(connected) => {
                            self.progress.broker = None;
                            session = Some(connected);
                        }
                        Err(why) => {
                            if self.progress.broker.as_ref() != Some(&why) {
                                note(&format!("{}: {why}", self.args.login.broker));
                            }
                            self.progress.broker = Some(why);
                            connect = Instant::now() + RECONNECT;
                        }
                    }
                }
                _ = look.tick() => {
                    for topic in self.line.look(&mut self.progress)? {
                        if session.is_some() {
                            self.ask(topic).await;
                        }
                    }
                }
                _ = every.tick() => {
                    self.line.overdue(self.args.hole_after, &mut self.progress);
                    self.tell(output)?;
                }
                () = stop.asked() => break,
            }
            self.acknowledge(session.as_ref()).await;
        }
        self.leave(session, output).await
    }

    /// Begins to hand on what waits, unless that is under way.
    fn send(&mut self) {
        let Some(mut far) = self.far.take() else { return };
        let load = self.line.load();
        if load.is_empty() {
            self.far = Some(far);
            return;
        }
        let health = self.health.clone();
        self.sending = Some(tokio::spawn(async move {
            let delivered = deliver(&mut far, load.taken(), &health).await;
            (far, load, delivered)
        }));
    }

    /// What was handed on is written down, and then acknowledged.
    async fn done(
        &mut self,
        load: Load,
        delivered: Delivered,
        session: Option<&Subscriber>,
    ) -> Result<(), Failure> {
        self.line.done(load, delivered, &mut self.progress)?;
        self.acknowledge(session).await;
        Ok(())
    }

    async fn acknowledge(&mut self, session: Option<&Subscriber>) {
        for receipt in self.line.acknowledged() {
            if let Some(session) = session {
                session.acknowledge(receipt).await;
            }
        }
    }

    async fn connect(&mut self) -> Result<Subscriber, String> {
        let mqtt = self.args.login.mqtt(self.client_id());
        let (filters, path) = (self.filters(), self.args.state.join("subscribed"));
        let wanted = filters.iter().map(|it| format!("{}\n", it.topic)).collect::<String>();
        let before = fs::read_to_string(&path).unwrap_or_default();
        // A session that was never subscribed to all of it holds nothing that was promised.
        let keep =
            Durable { expiry: self.args.session, ahead: self.args.ahead, anew: before.is_empty() };
        let session = self.session(&mqtt, keep).await?;
        if session.resumed && before != wanted {
            let held = before.trim_end().replace('\n', ", ");
            return Err(format!(
                "the broker keeps a session for other topics ({held}): give this one another \
                 --name, and another --state"
            ));
        }
        if !session.resumed {
            for filter in &filters {
                subscribe(&session, filter).await?;
            }
            let written = fs::write(&path, wanted);
            written.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let known = if session.resumed { "it kept our session" } else { "a new session" };
        note(&format!("{}: connected, {known}", self.args.login.broker));
        Ok(session)
    }

    fn client_id(&self) -> String {
        let (part, of) = (self.args.partition.part, self.args.partition.of);
        let name = self.args.name.clone().unwrap_or_else(|| format!("{part}-of-{of}"));
        format!("purlin-collect-{name}")
    }

    /// Dictionaries first, and never shared: each copy needs them.
    fn filters(&self) -> Vec<Filter> {
        let any = |list: &[String]| match list {
            [] => vec!["+".to_owned()],
            list => list.to_vec(),
        };
        let share = self.args.share.as_ref().map(|it| format!("$share/{it}/")).unwrap_or_default();
        let mut filters = Vec::new();
        for fleet in any(&self.args.fleet) {
            for node in any(&self.args.node) {
                let own = format!("purlin/v1/{fleet}/{node}");
                let relayed = format!("purlin/v1/{fleet}/+/relay/{node}");
                for at in [&own, &relayed] {
                    filters.push(Filter {
                        topic: format!("{at}/dict/+"),
                        retained_again: self.line.is_new(),
                    });
                }
                for class in purlin_core::identity::Class::ALL {
                    let name = class.name();
                    filters.push(Filter {
                        topic: format!("{share}{own}/{name}"),
                        retained_again: true,
                    });
                }
                for class in purlin_core::identity::Class::OWN {
                    let name = class.name();
                    filters.push(Filter {
                        topic: format!("{share}{relayed}/{name}"),
                        retained_again: true,
                    });
                }
            }
        }
        filters.sort_by_key(|it| !it.topic.ends_with("dict/+"));
        filters
    }

    async fn session(&self, mqtt: &Mqtt, keep: Durable) -> Result<Subscriber, String> {
        let connected = Box::pin(Subscriber::connect(mqtt, &self.args.login.broker, keep));
        let connected = time::timeout(CONNECT, connected).await;
        connected.unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}")))
    }

    /// Asks the broker for what it retains on a topic, over a session that ends with it: in
    /// one that the broker kept, nothing can be subscribed to.
    async fn ask(&mut self, topic: String) {
        let mqtt = self.args.login.mqtt(format!("{}-asks", self.client_id()));
        let keep = Durable { expiry: Duration::ZERO, ahead: 8, anew: true };
        let asked = async {
            let mut session = self.session(&mqtt, keep).await?;
            subscribe(&session, &Filter { topic, retained_again: true }).await?;
            session.next().await
        };
        if let Ok(Ok(arrived)) = time::timeout(CONNECT, asked).await {
            self.line.came(arrived.without_receipt(), &mut self.progress);
        }
    }

    fn tell(&mut self, output: &Output) -> Result<(), Failure> {
        self.progress.unix_ms = clock::unix_ms();
        self.progress.far = self.health.borrow().clone();
        self.line.tell(&mut self.progress);
        output.append(&self.progress, || self.progress.line())?;
        Ok(())
    }

    /// Lets what is under way end, for a moment, and leaves the rest to the broker.
    async fn leave(&mut self, session: Option<Subscriber>, output: &Output) -> Ended {
        if let Ok((far, load, delivered)) = time::timeout(GOODBYE, sent(&mut self.sending)).await {
            self.far = Some(far);
            self.done(load, delivered, session.as_ref()).await?;
        }
        if let Some(task) = self.sending.take() {
            task.abort();
        }
        if let Some(session) = session {
            session.leave().await;
        }
        self.tell(output)?;
        Ok(Exit::Ok)
    }
}

fn look_is_due(line: &Line) -> bool {
    line.oldest().is_some_and(|since| since.elapsed() >= LINGER)
}

async fn next(session: &mut Option<Subscriber>) -> Result<Arrived, String> {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

async fn sent(task: &mut Option<JoinHandle<(Far, Load, Delivered)>>) -> (Far, Load, Delivered) {
    match task {
        Some(task) => match task.await {
            Ok(sent) => sent,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        },
        None => std::future::pending().await,
    }
}

async fn subscribe(session: &Subscriber, filter: &Filter) -> Result<(), String> {
    let subscribed = time::timeout(CONNECT, session.subscribe(filter)).await;
    subscribed.unwrap_or_else(|_| {
        Err(format!("no answer within {CONNECT:?} to the subscription to {}", filter.topic))
    })
}
