//! The whole machine, read once for a command that works without the agent.
//!
//! It is read in a thread, which is left behind when it gets stuck. A process with
//! such a thread can't end: whoever reads the live machine does so in one that can be
//! left behind itself ([`apart`]).

use std::{
    path::{self, Path, PathBuf},
    sync::mpsc,
    thread,
};

use purlin_core::{
    inventory::{Inventory, Part},
    metric::Sampler,
};
use purlin_drivers::Archive;

pub use purlin_drivers::apart;

use super::{ANSWER_DEADLINE, Answer, MAX_STUCK_DEVICES, What, put, server, too_many_stuck};

/// Reads the live machine, each part and each disk's health under a deadline, or
/// the dump at `root`.
pub fn inventory(root: Option<&Path>) -> Inventory {
    match root.filter(|root| !is_live(root)) {
        // It can't hang in the kernel, and a tar is unpacked once for all parts.
        Some(dump) => server::dump(dump),
        None => {
            let mut inventory = Inventory::default();
            let mut reader = Reader::new(|what| server::answer(Path::new("/"), what));
            for part in Part::ALL {
                read_part(&mut inventory, part, |what| {
                    reader.ask(&what).unwrap_or_else(|why| Answer::nothing(&what, why))
                });
            }
            inventory
        }
    }
}

/// Whether that root is the live machine's, however it was typed.
pub fn is_live(root: &Path) -> bool {
    let root = path::absolute(root).unwrap_or_else(|_| PathBuf::from(root));
    root == Path::new("/")
}

/// A machine and the files it was read from.
#[derive(Debug, Default)]
pub struct Dump {
    /// What was read.
    pub inventory: Inventory,
    /// Every file that was.
    pub files: Archive,
}

/// Reads this machine and keeps each file that is read; `told` hears which part
/// is next.
pub fn gather(told: impl Fn(Part)) -> Dump {
    let mut dump = Dump::default();
    let Dump { inventory, files } = &mut dump;
    let mut reader = Reader::new(server::gather);
    let mut ask = |what| match reader.ask(&what) {
        Ok((answer, read)) => {
            // The limits of an archive are far above what drivers read of a machine.
            _ = files.absorb(&read);
            answer
        }
        Err(why) => Answer::nothing(&what, why),
    };
    for part in Part::ALL {
        told(part);
        read_part(inventory, part, &mut ask);
    }
    for sampler in Sampler::ALL {
        ask(What::Sample(sampler));
    }
    dump
}

/// Reads one part, and each device's health, by `ask`.
fn read_part(inventory: &mut Inventory, part: Part, mut ask: impl FnMut(What) -> Answer) {
    let answer = ask(What::Part(part));
    let devices = put(inventory, part, answer, true);
    let all = devices.into_iter().map(|it| ask(What::Smart(it.clone())).of_device(it)).collect();
    inventory.put_health(all);
}

/// A thread that reads, and another when that one gets stuck.
struct Reader<T> {
    read: fn(&What) -> T,
    running: Option<(mpsc::Sender<What>, mpsc::Receiver<T>)>,
    stuck_devices: usize,
}

impl<T: Send + 'static> Reader<T> {
    fn new(read: fn(&What) -> T) -> Self {
        Self { read, running: None, stuck_devices: 0 }
    }

    /// What a read brings, or why it brings nothing.
    fn ask(&mut self, what: &What) -> Result<T, String> {
        let is_device = matches!(what, What::Smart(_));
        if is_device && self.stuck_devices >= MAX_STUCK_DEVICES {
            return Err(too_many_stuck());
        }
        let (asks, answers) = self.running.get_or_insert_with(|| start(self.read));
        // A thread that is gone shows when nothing comes.
        _ = asks.send(what.clone());
        answers.recv_timeout(ANSWER_DEADLINE).map_err(|_| {
            self.running = None;
            self.stuck_devices += usize::from(is_device);
            format!("no answer within {ANSWER_DEADLINE:?}")
        })
    }
}

fn start<T: Send + 'static>(read: fn(&What) -> T) -> (mpsc::Sender<What>, mpsc::Receiver<T>) {
    let ((asks, inbox), (reply, answers)) = (mpsc::channel(), mpsc::channel());
    thread::spawn(move || inbox.iter().try_for_each(|what| reply.send(read(&what))));
    (asks, answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_machine_may_be_typed_in_several_ways() {
        assert!(is_live(Path::new("/")) && is_live(Path::new("/.")) && is_live(Path::new("//")));
        assert!(!is_live(Path::new("dump")) && !is_live(Path::new("/tmp")));
    }

    #[test]
    fn a_read_that_does_not_come_back_costs_its_own_answer_and_a_thread() {
        let read = |what: &What| match what {
            What::Smart(_) => loop {
                thread::park();
            },
            _ => 7,
        };
        let mut reader = Reader::new(read);
        reader.stuck_devices = MAX_STUCK_DEVICES - 1;
        assert_eq!(reader.ask(&What::Part(Part::Cpu)), Ok(7));
        let stuck = reader.ask(&What::Smart("sda".into()));
        assert_eq!(stuck, Err("no answer within 5s".into()));
        assert_eq!(reader.ask(&What::Part(Part::Gpu)), Ok(7), "by another thread");
        let more = reader.ask(&What::Smart("sdb".into()));
        assert_eq!(more, Err("not asked: 8 other devices do not answer".into()));
    }
}
