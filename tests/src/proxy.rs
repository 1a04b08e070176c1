//! An observer between the agent and its broker, which can also be a bad network.
//!
//! It exists because a broker that is killed forgets what it had acknowledged:
//! asked afterwards, it can't tell a record that was lost from one that it took
//! and dropped. The observer keeps, for each (incarnation, class, seq), whether
//! it was seen and whether the broker's PUBACK for it went past.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::socket;
use prost::Message;
use purlin_daemon::wire;
use purlin_proto::v1::{Alarm, Batch, Class, Dictionary, Event, Gap, record::Body};

use crate::{
    Result,
    mqtt::{self, Packet},
};

/// How long a read waits before it looks at the behaviour again.
const TICK: Duration = Duration::from_millis(20);

/// What the proxy does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Passes everything on.
    Forward,
    /// Answers CONNECT with "not authorized".
    Refuse,
    /// Accepts, and then neither reads nor writes.
    Hang,
    /// Passes on half of each PUBLISH and cuts the connection.
    Cut,
    /// Answers each batch of metrics itself, with this reason code.
    Answer(u8),
}

/// Who a record is, apart from its node: incarnation and class.
pub type Log = (u64, Class);

/// What the observer knows of one record.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Hash of its bytes as first seen.
    bytes: u64,
    /// A PUBACK with success went past for a batch that held it.
    confirmed: bool,
}

/// Everything that went past.
#[derive(Debug, Default)]
pub struct Observed {
    records: HashMap<Log, BTreeMap<u64, Seen>>,
    /// Events, as they first came.
    pub events: Vec<Event>,
    /// Alarms, as they first came.
    pub alarms: Vec<Alarm>,
    /// What was told to be missing, and of which log.
    pub gaps: Vec<(Log, Gap)>,
    /// Dictionaries that were published, by their hash.
    pub dictionaries: HashMap<u64, Dictionary>,
    /// Samples whose dictionary had not been published before them.
    pub nameless: u64,
    /// Batches seen.
    pub batches: u64,
    /// Records seen again.
    pub duplicates: u64,
    /// Identities that came with other bytes than before: two records under one
    /// name, of which a reader keeps the wrong one.
    pub conflicts: Vec<(Log, u64)>,
    /// What could not be read.
    pub unreadable: Vec<String>,
}

impl Observed {
    /// Records seen, each once.
    pub fn records(&self) -> usize {
        self.records.values().map(BTreeMap::len).sum()
    }

    /// Sequence numbers `1..=last` of `log` that no PUBACK was seen for.
    pub fn unconfirmed(&self, log: Log, last: u64) -> Vec<u64> {
        let records = self.records.get(&log);
        let confirmed = |seq| records.and_then(|r| r.get(&seq)).is_some_and(|r| r.confirmed);
        (1..=last).filter(|&seq| !confirmed(seq)).collect()
    }

    fn batch(&mut self, batch: &Batch) -> std::result::Result<(), String> {
        self.batches += 1;
        let log = (batch.incarnation, batch.class());
        self.gaps.extend(batch.gaps.iter().map(|gap| (log, *gap)));
        for (seq, record) in wire::records(batch).map_err(|e| e.to_string())? {
            let bytes = hash(&record.encode_to_vec());
            let seen = self.records.entry(log).or_default();
            if let Some(seen) = seen.get(&seq) {
                self.duplicates += 1;
                if seen.bytes != bytes {
                    self.conflicts.push((log, seq));
                }
                continue;
            }
            seen.insert(seq, Seen { bytes, confirmed: false });
            match record.body {
                Some(Body::Event(event)) => self.events.push(event),
                Some(Body::Alarm(alarm)) => self.alarms.push(alarm),
                Some(Body::Sample(sample)) => {
                    let known = self.dictionaries.contains_key(&sample.dictionary);
                    self.nameless += u64::from(!known);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a gap accounts for this record.
    pub fn has_gap(&self, log: Log, seq: u64) -> bool {
        self.gaps
            .iter()
            .any(|(of, gap)| *of == log && (gap.first_seq..=gap.last_seq).contains(&seq))
    }

    fn confirm(&mut self, sent: &Sent) {
        let Some(records) = self.records.get_mut(&sent.log) else { return };
        for (_, record) in records.range_mut(sent.first..=sent.last) {
            record.confirmed = true;
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// A batch on its way, by its packet identifier.
#[derive(Debug)]
struct Sent {
    log: Log,
    first: u64,
    last: u64,
}

/// A TCP proxy in front of a broker.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: u16,
    closed: AtomicBool,
    behaviour: Mutex<Behaviour>,
    observed: Mutex<Observed>,
}

impl Proxy {
    /// Listens on a free port for what is meant for `upstream`, both on loopback.
    pub fn start(upstream: u16) -> Result<Self> {
        Self::serving(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, upstream)
    }

    /// The same with a socket that somebody made, such as one of another network.
    pub fn serving(listener: TcpListener, upstream: u16) -> Result<Self> {
        let port = listener.local_addr()?.port();
        let ours = listener.try_clone()?;
        let shared = Arc::new(Shared {
            upstream,
            closed: AtomicBool::new(false),
            behaviour: Mutex::new(Behaviour::Forward),
            observed: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if theirs.closed.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&theirs);
                thread::spawn(move || shared.serve(client));
            }
        });
        Ok(Self { port, listener: ours, shared })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the agent is told to connect to.
    pub fn endpoint(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Changes what happens to connections, those that exist included.
    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// What went past so far.
    pub fn observed(&self) -> MutexGuard<'_, Observed> {
        lock(&self.shared.observed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Wakes who accepts, wherever that socket's network is, and then sees that it is closed.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
    }
}

impl Shared {
    fn behaviour(&self) -> Behaviour {
        *lock(&self.behaviour)
    }

    /// One client, until either side ends.
    fn serve(&self, mut client: TcpStream) {
        while self.behaviour() == Behaviour::Hang {
            if self.closed.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(TICK);
        }
        if self.behaviour() == Behaviour::Refuse {
            let _ = client.write_all(&mqtt::NOT_AUTHORIZED);
            return;
        }
        let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream)) else { return };
        let sent = Mutex::new(HashMap::new());
        thread::scope(|scope| {
            scope.spawn(|| self.pump(&client, &broker, |packet| self.client_sent(packet, &sent)));
            self.pump(&broker, &client, |packet| self.broker_sent(packet, &sent));
        });
    }

    /// Carries packets one way, each after it was `noted`. Closes both sides at
    /// the end of either.
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, noted: impl Fn(&[u8]) -> Next) {
        let mut carry = || -> std::result::Result<(), String> {
            let text = |e: std::io::Error| e.to_string();
            from.set_read_timeout(Some(TICK)).map_err(text)?;
            let mut stream = mqtt::Stream::default();
            let mut buffer = [0; 16 << 10];
            loop {
                match self.behaviour() {
                    _ if self.closed.load(Ordering::Relaxed) => return Ok(()),
                    Behaviour::Hang => {
                        thread::sleep(TICK);
                        continue;
                    }
                    Behaviour::Refuse => return Ok(()),
                    Behaviour::Forward | Behaviour::Cut | Behaviour::Answer(_) => {}
                }
                match from.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => stream.feed(&buffer[..n]),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) => return Err(e.to_string()),
                }
                while let Some(packet) = stream.packet()? {
                    match noted(&packet) {
                        Next::Pass => to.write_all(&packet).map_err(text)?,
                        Next::Answer(bytes) => from.write_all(&bytes).map_err(text)?,
                        Next::Cut => {
                            return to.write_all(&packet[..packet.len() / 2]).map_err(text);
                        }
                    }
                }
            }
        };
        let _ = carry();
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn client_sent(&self, packet: &[u8], sent: &Mutex<HashMap<u16, Sent>>) -> Next {
        let (topic, id, payload) = match mqtt::parse(packet) {
            Ok(Packet::Publish { topic, id, payload }) => (topic, id, payload),
            Ok(_) => return Next::Pass,
            Err(e) => {
                self.unreadable(e);
                return Next::Pass;
            }
        };
        match (self.behaviour(), id) {
            (Behaviour::Cut, _) => return Next::Cut,
            (Behaviour::Answer(reason), Some(id)) if topic.ends_with("/metric") => {
                return Next::Answer(mqtt::puback(id, reason));
            }
            _ => {}
        }
        if let Some(hash) = topic.split_once("/dict/").map(|(_, hash)| hash) {
            if let Err(e) = self.dictionary(hash, &payload) {
                self.unreadable(format!("{topic}: {e}"));
            }
            return Next::Pass;
        }
        if !["alarm", "event", "metric", "log"].iter().any(|it| topic.ends_with(&format!("/{it}")))
        {
            return Next::Pass;
        }
        let read = wire::decode(&payload).map_err(|e| e.to_string());
        let noted = read.and_then(|batch| {
            lock(&self.observed).batch(&batch)?;
            let id = id.ok_or("a batch at QoS 0")?;
            let log = (batch.incarnation, batch.class());
            let (first, last) = (batch.first_seq, batch.last_seq);
            lock(sent).insert(id, Sent { log, first, last });
            Ok(())
        });
        if let Err(e) = noted {
            self.unreadable(format!("{topic}: {e}"));
        }
        Next::Pass
    }

    fn dictionary(&self, hash: &str, payload: &[u8]) -> std::result::Result<(), String> {
        let hash = u64::from_str_radix(hash, 16).map_err(|e| e.to_string())?;
        let bytes = wire::unpack(payload).map_err(|e| e.to_string())?;
        if wire::hash_of(&bytes) != hash {
            return Err("its hash is another".into());
        }
        let dictionary = Dictionary::decode(bytes.as_slice()).map_err(|e| e.to_string())?;
        lock(&self.observed).dictionaries.insert(hash, dictionary);
        Ok(())
    }

    fn broker_sent(&self, packet: &[u8], sent: &Mutex<HashMap<u16, Sent>>) -> Next {
        if let Ok(Packet::Puback { id, reason }) = mqtt::parse(packet)
            && let Some(batch) = lock(sent).remove(&id)
            && reason < 0x80
        {
            lock(&self.observed).confirm(&batch);
        }
        Next::Pass
    }

    fn unreadable(&self, what: String) {
        lock(&self.observed).unreadable.push(what);
    }
}

/// What becomes of a packet.
enum Next {
    Pass,
    /// It goes no further, and this goes back.
    Answer(Vec<u8>),
    Cut,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
