//! The helper's own end: reads a request, does it, answers; nothing else. What it
//! keeps between two requests are the two sources that tell something by themselves, and
//! what a BMC needs minutes to tell.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    panic,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use purlin_core::{
    inventory::{Inventory, Part, PartData, Problem},
    rack::bmc::Place,
};
use purlin_drivers::{
    Archive, Root, cgroup, gpu, ipmi::Bmc, irq, kubelet, lldp, nic, power, storage,
};

use super::{Answer, Changed, Request, What, checked_length, encode, nri, pass, reboot};
use crate::{clock, placement::features, tasks};

/// What comes after `helper` for those with a privilege.
const WRITE: &str = "write";
const GPU: &str = "gpu";
const NIC: &str = "nic";

/// `purlin helper`: serves requests on standard input, a socket, until it closes. With
/// `only` it is `write`, `gpu` or `nic`, one with a privilege, and does nothing but what needs it.
pub fn main(only: Option<&OsStr>) -> ExitCode {
    // A panic is answered as a problem; standard error may be a closed pipe.
    panic::set_hook(Box::new(|_| {}));
    let serves = match only {
        Some(only) if only == WRITE => needs_privilege,
        Some(only) if only == GPU => is_of_gpus,
        Some(only) if only == NIC => |what: &What| matches!(what, What::Blink { .. }),
        Some(_) => return ExitCode::FAILURE,
        None => |_: &What| true,
    };
    match serve(only.is_some(), serves) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("purlin helper is started by the agent, with a socket as its input: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(is_privileged: bool, serves: fn(&What) -> bool) -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails on a terminal, where it would wait for ever.
    socket.local_addr()?;
    let mut heard = Heard::default();
    let refuses = |request: &Request| {
        is_privileged && !(serves(&request.what) && request.root == Path::new("/"))
    };
    loop {
        let mut header = [0; 4];
        match socket.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let mut body = vec![0; checked_length(header)?];
        socket.read_exact(&mut body)?;
        let request: Request = serde_json::from_slice(&body)?;
        let answer = match &request.what {
            what if refuses(&request) => {
                Answer::nothing(what, "this helper does only what needs a privilege")
            }
            What::GpuEvents | What::Neighbours | What::Bmc(_) | What::Identify(_) => {
                heard.answer(&request.root, &request.what)
            }
            what => heard.joining(answer(&request.root, what)),
        };
        let answer = Answer { id: request.id, ..answer };
        let frame = encode(&answer)?;
        let sent = match &answer.connection {
            Some(connection) => pass::send(&socket, &frame, connection)?,
            None => 0,
        };
        socket.write_all(&frame[sent..])?;
        // A directory that came to be since this one was started is closed to it: the
        // next one may write there.
        let is_refused = matches!(answer.changed, Some(Changed::Refused(_)));
        if is_privileged && is_refused && matches!(request.what, What::Features(_)) {
            return Ok(());
        }
    }
}

fn needs_privilege(what: &What) -> bool {
    use What::{Affinity, Cap, Cpuset, Features, Freeze, Kubelet, Nri, PowerOff, Reboot};
    let of_power = matches!(what, Freeze { .. } | Cap(_) | PowerOff | What::Caps);
    of_power || matches!(what, Cpuset(_) | Affinity(_) | Nri(_) | Features(_) | Kubelet | Reboot)
}

fn is_of_gpus(what: &What) -> bool {
    matches!(what, What::GpuLimits | What::LimitGpus(_))
}

/// Sources that are opened when they are first asked and then kept.
#[derive(Default)]
struct Heard {
    gpus: Option<gpu::Events>,
    lldp: Option<Result<lldp::Listener, String>>,
    /// Interfaces that it can't listen on, and why.
    refused: Vec<String>,
    bmc: Option<Bmc>,
}

impl Heard {
    /// What was heard; of a dump nothing is.
    fn answer(&mut self, root: &Path, what: &What) -> Answer {
        match Root::open(root) {
            Ok(root) if !root.is_live() => Answer::default(),
            Ok(root) => match what {
                What::Neighbours => self.neighbours(&root),
                What::Bmc(place) => self.look(&root, *place),
                What::Identify(seconds) => self.identify(&root, *seconds),
                _ => self.gpu_events(),
            },
            Err(error) => Answer::nothing(what, error.to_string()),
        }
    }

    /// NVML where it is, and when it is there.
    fn gpu_events(&mut self) -> Answer {
        let gpu_events = self.gpus.get_or_insert_default().poll();
        Answer { gpu_events, ..Answer::default() }
    }

    /// The BMC, opened when it is first asked; a problem says why it can't be.
    fn bmc(&mut self, root: &Root) -> Result<Option<&mut Bmc>, String> {
        if self.bmc.is_none() {
            self.bmc = Bmc::open(root)?;
        }
        Ok(self.bmc.as_mut())
    }

    fn look(&mut self, root: &Root, place: Place) -> Answer {
        match self.bmc(root) {
            Ok(None) => Answer::default(),
            Ok(Some(bmc)) => {
                let (look, problems) = bmc.look(place);
                Answer { bmc: Some(Box::new(look)), problems, ..Answer::default() }
            }
            Err(why) => Answer::nothing(&What::Bmc(place), why),
        }
    }

    fn identify(&mut self, root: &Root, seconds: u8) -> Answer {
        let done = self.bmc(root).and_then(|bmc| match bmc {
            Some(bmc) => bmc.identify(seconds).map(|()| Changed::Identified),
            None => Ok(Changed::Absent),
        });
        Answer::changing(done.unwrap_or_else(Changed::Refused))
    }

    /// Passes on what was read; where interfaces were, it is listened from then on.
    fn joining(&mut self, answer: Answer) -> Answer {
        if let (Some(Ok(listener)), Some(PartData::Nic(nics))) = (&mut self.lldp, &answer.data) {
            self.refused = listener.join(nics);
        }
        answer
    }

    /// Who is heard on the interfaces as they were last read: by this helper, or now.
    fn neighbours(&mut self, root: &Root) -> Answer {
        if self.lldp.is_none() {
            self.lldp = Some(lldp::Listener::new());
            self.joining(answer_from(root, &What::Part(Part::Nic)));
        }
        let (neighbours, refused) = match &mut self.lldp {
            Some(Ok(listener)) => {
                (listener.poll(Duration::from_millis(clock::boot_ms())), self.refused.clone())
            }
            Some(Err(why)) => (Vec::new(), vec![why.clone()]),
            None => Default::default(),
        };
        let problem = |what| Problem { part: Part::Nic, at: "LLDP".into(), what };
        let problems = refused.into_iter().map(problem).collect();
        Answer { neighbours, problems, ..Answer::default() }
    }
}

/// Reads every part of a dump.
pub(super) fn dump(root: &Path) -> Inventory {
    let mut inventory = Inventory::default();
    let root = Root::open(root).map_err(|error| error.to_string());
    for part in Part::ALL {
        let what = What::Part(part);
        let answer = match &root {
            Ok(root) => answer_from(root, &what),
            Err(error) => Answer::nothing(&what, error),
        };
        inventory.put(part, answer.data, answer.problems);
    }
    inventory
}

/// Does what is asked of this machine, and brings what it read for that.
pub(super) fn gather(what: &What) -> (Answer, Archive) {
    match Root::gathering() {
        Ok(root) => (answer_from(&root, what), root.gathered()),
        Err(error) => (Answer::nothing(what, error.to_string()), Archive::default()),
    }
}

/// Does what is asked.
pub(super) fn answer(root: &Path, what: &What) -> Answer {
    match Root::open(root) {
        Ok(root) => answer_from(&root, what),
        Err(error) => Answer::nothing(what, error.to_string()),
    }
}

/// A driver that panics is a problem of its part.
fn answer_from(root: &Root, what: &What) -> Answer {
    panic::catch_unwind(panic::AssertUnwindSafe(|| match what {
        What::Part(part) => {
            let (data, problems) = purlin_drivers::read(*part, root);
            Answer { data, problems, ..Answer::default() }
        }
        What::Smart(device) => {
            let (smart, problems) = storage::smart_of(root, device);
            Answer { smart, problems, ..Answer::default() }
        }
        What::Sample(sampler) => {
            let (points, problems) = purlin_drivers::sample(*sampler, root);
            Answer { points, problems, ..Answer::default() }
        }
        What::Cpuset(change) => {
            let changed = cgroup::change(root, change);
            Answer::changing(changed.map_or_else(Changed::Refused, Changed::Cpuset))
        }
        What::Affinity(affinity) => Answer::changing(match irq::set(root, affinity) {
            Ok(()) => Changed::Affinity,
            Err(irq::Refused::Managed) => Changed::Managed,
            Err(irq::Refused::Because(why)) => Changed::Refused(why),
        }),
        What::Nri(socket) => match nri::connect(socket) {
            Ok(Some(connection)) => {
                Answer { connection: Some(connection), ..Answer::changing(Changed::Connected) }
            }
            Ok(None) => Answer::changing(Changed::Absent),
            Err(why) => Answer::changing(Changed::Refused(why)),
        },
        What::Features(room) => {
            let dir = Path::new(features::DIRECTORY);
            Answer::changing(match features::write(dir, room) {
                Ok(true) => Changed::Told,
                Ok(false) => Changed::Absent,
                Err(error) => Changed::Refused(format!("{}: {error}", dir.display())),
            })
        }
        What::Reboot => {
            let told = reboot::systemd("reboot");
            Answer::changing(told.map_or_else(Changed::Refused, |()| Changed::Told))
        }
        What::PowerOff => {
            let told = reboot::systemd("poweroff");
            Answer::changing(told.map_or_else(Changed::Refused, |()| Changed::Told))
        }
        What::Freeze { cgroup, still } => {
            Answer::changing(match power::freeze(root, cgroup, *still) {
                Ok(true) => Changed::Told,
                Ok(false) => Changed::Absent,
                Err(why) => Changed::Refused(why),
            })
        }
        What::Caps => match power::caps(root) {
            Ok(caps) => Answer { caps, ..Answer::default() },
            Err(why) => Answer::nothing(what, why),
        },
        What::Cap(caps) => {
            let done = power::cap(root, caps);
            Answer::changing(done.map_or_else(Changed::Refused, |()| Changed::Told))
        }
        What::GpuLimits => match gpu::limits(root) {
            Ok(gpu_limits) => Answer { gpu_limits, ..Answer::default() },
            Err(why) => Answer::nothing(what, why),
        },
        What::LimitGpus(caps) => {
            let done = gpu::limit_to(caps);
            Answer::changing(done.map_or_else(Changed::Refused, |()| Changed::Told))
        }
        What::Blink { nic, seconds } => {
            let done = nic::blink(nic, *seconds);
            Answer::changing(done.map_or_else(Changed::Refused, |()| Changed::Identified))
        }
        What::Kubelet => {
            let (kubelet, problems) = kubelet::read(root);
            Answer { kubelet, problems, ..Answer::default() }
        }
        // Only the process that keeps them hears anything.
        What::GpuEvents | What::Neighbours | What::Bmc(_) | What::Identify(_) => Answer::default(),
    }))
    .unwrap_or_else(|panic| Answer::nothing(what, tasks::panic_text(Some(panic))))
}
