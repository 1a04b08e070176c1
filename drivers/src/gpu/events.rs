//! What NVIDIA GPUs say of their own accord: Xid errors, memory errors, a GPU
//! that is lost and comes back.
//!
//! Source: NVML's event sets. [`Events`] holds the library open, one set a
//! GPU, so that one GPU's fault silences no other's; it belongs into a process
//! that can be lost. It must never wait: what is not there at a poll is there
//! at the next. AMD's and Intel's drivers tell such things in the kernel log
//! and in uevents, and not here.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use nvml_wrapper::{Nvml, bitmasks::event::EventTypes, error::NvmlError};
pub use purlin_core::inventory::{GpuEvent, GpuEventKind};

use super::{MAX_GPUS, nvml, nvml_library, xid_text};
use crate::sys::nvml::Watch;

/// Between two attempts to load the library or to find a lost GPU: either may
/// take the driver some hundred milliseconds.
const RETRY: Duration = Duration::from_secs(10);

/// The most events of one GPU that one poll takes: a storm of them must not
/// hold up the others.
const MAX_EVENTS: usize = 64;

/// The events worth hearing; a performance state changes all the time.
const WANTED: EventTypes = EventTypes::DOUBLE_BIT_ECC_ERROR
    .union(EventTypes::CRITICAL_XID_ERROR)
    .union(EventTypes::MIG_CONFIG_CHANGE);

/// NVIDIA's events, from the first poll on.
pub struct Events {
    library: PathBuf,
    watch: Option<Watch>,
    /// PCI addresses of GPUs that were watched and no longer answer.
    lost: BTreeSet<String>,
    tried: Option<Instant>,
    retry: Duration,
}

impl Default for Events {
    fn default() -> Self {
        Self::new(nvml_library(), RETRY)
    }
}

impl Events {
    /// Events as the given library tells them; `retry` is the time between two
    /// attempts to load it or to find a lost GPU.
    pub fn new(library: PathBuf, retry: Duration) -> Self {
        Self { library, watch: None, lost: BTreeSet::new(), tried: None, retry }
    }

    /// What happened since the last poll. Without a library there is nothing;
    /// one that comes later is found, and one that goes is let go.
    pub fn poll(&mut self) -> Vec<GpuEvent> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll_guarded()));
        // nvml-wrapper panics on a library that lacks what it takes for granted.
        polled.unwrap_or_else(|_| {
            std::mem::forget(self.watch.take());
            Vec::new()
        })
    }

    fn poll_guarded(&mut self) -> Vec<GpuEvent> {
        let mut events = Vec::new();
        self.register(&mut events);
        let Some(watch) = &mut self.watch else { return events };
        let watched: Vec<String> = watch.watched().map(str::to_owned).collect();
        for pci in watched {
            match drain(watch, &pci, &mut events) {
                NvmlError::Timeout => {}
                NvmlError::GpuLost | NvmlError::ResetRequired => {
                    watch.remove(&pci);
                    events.push(GpuEvent { pci: pci.clone(), kind: GpuEventKind::Lost });
                    self.lost.insert(pci);
                }
                // The driver was unloaded, or the library no longer reaches it.
                _ => {
                    self.watch = None;
                    break;
                }
            }
        }
        events
    }

    /// Loads the library where it isn't, and watches every GPU that isn't.
    fn register(&mut self, events: &mut Vec<GpuEvent>) {
        if self.watch.is_some() && self.lost.is_empty() || !self.is_due() {
            return;
        }
        self.tried = Some(Instant::now());
        if self.watch.is_none() {
            let opened = nvml::open(&self.library).ok();
            self.watch = opened.and_then(|nvml| match Watch::new(Box::new(nvml)) {
                Ok(watch) => Some(watch),
                Err(nvml) => {
                    nvml::close(*nvml);
                    None
                }
            });
        }
        let Some(watch) = &mut self.watch else { return };
        let watched: BTreeSet<String> = watch.watched().map(str::to_owned).collect();
        for pci in gpus(watch.nvml()).difference(&watched) {
            if watch.add(pci, WANTED).is_ok() && self.lost.remove(pci) {
                events.push(GpuEvent { pci: pci.clone(), kind: GpuEventKind::Back });
            }
        }
    }

    fn is_due(&self) -> bool {
        self.tried.is_none_or(|tried| tried.elapsed() >= self.retry)
    }
}

/// PCI addresses of the GPUs that answer.
fn gpus(nvml: &Nvml) -> BTreeSet<String> {
    let count = nvml.device_count().unwrap_or_default().min(MAX_GPUS as u32);
    let pci = |index| nvml::address(&nvml.device_by_index(index).ok()?.pci_info().ok()?.bus_id);
    (0..count).filter_map(pci).collect()
}

/// Takes the events of one GPU until there is none; says why it stopped.
fn drain(watch: &Watch, pci: &str, events: &mut Vec<GpuEvent>) -> NvmlError {
    for _ in 0..MAX_EVENTS {
        let (kind, code) = match watch.next(pci) {
            Ok(event) => event,
            Err(error) => return error,
        };
        events.extend(told(kind, code).map(|kind| GpuEvent { pci: pci.into(), kind }));
    }
    NvmlError::Timeout
}

fn told(kind: EventTypes, code: Option<u64>) -> Option<GpuEventKind> {
    if let Some(code) = code {
        return Some(GpuEventKind::Xid { code, text: xid_text(code).into() });
    }
    if kind.contains(EventTypes::DOUBLE_BIT_ECC_ERROR) {
        return Some(GpuEventKind::EccDouble);
    }
    kind.contains(EventTypes::MIG_CONFIG_CHANGE).then_some(GpuEventKind::MigChanged)
}
