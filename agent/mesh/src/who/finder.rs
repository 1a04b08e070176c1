//! Finds the path of a cgroup by its id. The kernel tells that only to who may read all
//! files, so that the hierarchy is walked: by a thread of its own, when an id comes that is
//! not known, and seldom.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use purlin_drivers::cgroup::ids;
use tokio::{sync::oneshot, time};

/// From one walk's end to the next one's beginning: a walk of 1500 cgroups takes some 35 ms.
const REST: Duration = Duration::from_millis(200);
/// For an answer: two walks and their rest, on a slow machine.
const ANSWER: Duration = Duration::from_secs(1);
/// Questions that may wait.
const MAX_WAITING: usize = 1024;

type Question = (u64, oneshot::Sender<Option<Arc<str>>>);

/// Asks the thread, from any worker.
#[derive(Clone, Debug)]
pub struct Finder {
    questions: SyncSender<Question>,
    /// Why workloads are not known as they could be.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Finder {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (questions, inbox) = sync_channel(MAX_WAITING);
        thread::Builder::new().name("mesh-who".into()).spawn(move || run(&inbox))?;
        Ok(Self { questions, trouble: Arc::default() })
    }

    /// The path of a cgroup below its mount. `Err` if nobody knows yet.
    pub async fn path(&self, id: u64) -> Result<Option<Arc<str>>, &'static str> {
        let (reply, answer) = oneshot::channel();
        self.questions.try_send((id, reply)).map_err(|_| "too many ask at once")?;
        let answer = time::timeout(ANSWER, answer).await;
        answer.map_err(|_| "no answer in time")?.map_err(|_| "no answer")
    }

    /// Takes note of what the kernel doesn't tell.
    pub fn trouble(&self, why: String) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref() != Some(&why) {
            tracing::warn!(why, "whose connections of this node are is not known");
            *trouble = Some(why);
        }
    }

    /// The kernel can be asked, after all.
    pub fn well(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Why workloads are not known as they could be.
    pub fn told(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn run(inbox: &Receiver<Question>) {
    let mut known: HashMap<u64, Arc<str>> = HashMap::new();
    let mut walked: Option<Instant> = None;
    while let Ok(first) = inbox.recv() {
        let mut asked = vec![first];
        let is_known = |it: &Question| known.contains_key(&it.0);
        if !asked.iter().all(is_known) {
            if let Some(walked) = walked {
                thread::sleep(REST.saturating_sub(walked.elapsed()));
            }
            // Whoever asks after this may be of a cgroup that the walk does not meet.
            asked.extend(inbox.try_iter());
            let found = ids::unified().map(|mount| ids::by_id(&mount)).unwrap_or_default();
            known = found.into_iter().map(|(id, path)| (id, path.into())).collect();
            walked = Some(Instant::now());
        }
        for (id, reply) in asked {
            _ = reply.send(known.get(&id).cloned());
        }
    }
}
