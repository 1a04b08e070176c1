//! Asks another node for the records that it has and this one hasn't.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::Method;
use prost::Message;
use purlin_proto::v1;
use tokio::task::AbortHandle;

use crate::{control::Control, tunnel};

/// From one question to the next: a handshake each, some ms of CPU.
const PAUSE: Duration = Duration::from_millis(100);
/// One who had nothing new, though it knows something else, is asked the same again after
/// this: it knows less, or believes what this node doesn't.
const AGAIN: Duration = Duration::from_secs(30);
/// Nodes that this is kept of.
const MAX_ASKED: usize = 256;

/// Who was asked in vain: what both knew then, and when.
type InVain = BTreeMap<String, (u64, u64, Instant)>;

/// Asks one at a time.
#[derive(Debug, Default)]
pub struct Fetch {
    asking: Option<(AbortHandle, Instant)>,
    in_vain: Arc<std::sync::Mutex<InVain>>,
}

impl Fetch {
    /// A node has told the number of all that it knows.
    pub fn heard(&mut self, control: &Arc<Control>, node: String, theirs: u64) {
        let is_busy = |(asking, since): &(AbortHandle, Instant)| {
            !asking.is_finished() || since.elapsed() < PAUSE
        };
        if self.asking.as_ref().is_some_and(is_busy) {
            return;
        }
        let ours = control.owner().live().records.digest();
        let in_vain = self.in_vain.clone();
        let is_in_vain =
            |it: &(u64, u64, Instant)| (it.0, it.1) == (theirs, ours) && it.2.elapsed() < AGAIN;
        if theirs == ours || lock(&in_vain).get(&node).is_some_and(is_in_vain) {
            return;
        }
        let control = control.clone();
        let asked = tokio::spawn(async move {
            match ask(&control, &node).await {
                Ok(0) => {}
                Ok(_) => return,
                // A connection that failed may succeed with the next datagram.
                Err(why) => return tracing::debug!(node, why, "its records can't be had"),
            }
            let mut in_vain = lock(&in_vain);
            if in_vain.len() >= MAX_ASKED {
                in_vain.clear();
            }
            in_vain.insert(node, (theirs, ours, Instant::now()));
        });
        self.asking = Some((asked.abort_handle(), Instant::now()));
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some((asking, _)) = &self.asking {
            asking.abort();
        }
    }
}

fn lock(it: &std::sync::Mutex<InVain>) -> std::sync::MutexGuard<'_, InVain> {
    it.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How many records of a node were news.
async fn ask(control: &Control, node: &str) -> Result<usize, String> {
    let (identity, address, known) = {
        let owner = control.owner();
        let live = owner.live();
        (owner.keeper.identity().cloned(), live.peer(node), live.records.known())
    };
    let (Some(identity), Some(address)) = (identity, address) else {
        return Err("there is no way to it".into());
    };
    let what = (Method::POST, "/v1/records");
    let asked = tunnel::client::ask(identity, node, address, what, known.encode_to_vec()).await;
    let answer = asked.map_err(|error| error.to_string())?;
    let answer = v1::ServiceRecords::decode(&answer[..]).map_err(|error| error.to_string())?;
    Ok(control.owner().take_records(answer.records))
}
