//! The node's router: accepts connections, chooses an endpoint for each request, and
//! passes it on.
//!
//! | part | what it owns |
//! | --- | --- |
//! | [`owner`] | the table in force, on disk first; which addresses are bound |
//! | [`control`] | the Unix socket: tables in, questions answered |
//! | [`worker`] | a thread a core: its sockets, its connections, its pool |
//! | [`accept`] | what a connection is: PROXY protocol, HTTP, TLS by name, bytes |
//! | [`intercept`] | where a connection was going that was taken on its way |
//! | [`http`] | requests: guarded, routed, forwarded; parking and upgrades |
//! | [`jwt`] | a request's token: read, verified, known for a while |
//! | [`relay`] | bytes, spliced |
//! | [`names`] | DNS for services |
//! | [`udp`] | clients of UDP, and where each one's datagrams go |
//! | [`identity`], [`renewal`] | who this node is in its rack, who others are, and that it stays so |
//! | [`discovery`] | which nodes of the rack are there |
//! | [`records`] | which endpoints they offer |
//! | [`tunnel`] | from node to node: HBONE |
//! | [`who`] | which workload of this node a connection is from |
//! | [`uplink`] | the agent's way to its broker through another node |
//! | [`handover`] | sockets and idle connections, from one process to the next |
//! | [`live`], [`target`], [`endpoint`] | what is known of services and endpoints, node-wide |
//! | [`split`] | what became of a new backend's requests, and whether it is stepped back from |
//! | [`signals`] | what is told of each route and endpoint |
//! | [`told`], [`openmetrics`], [`scrape`] | the same as metrics, and as a page on loopback |
//! | [`tap`] | the last requests, while somebody looks |
//! | [`health`] | checks of endpoints, on the owner's thread |
//!
//! It starts from its own directory and nothing else: no agent, no network, no clock
//! that is right.

#![deny(unsafe_code)]

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time,
};

use crate::{
    control::Control,
    handover::Inherited,
    identity::{Keeper, clock::Clock},
    numa::Seat,
    owner::Owner,
    tap::Tap,
    who::finder::Finder,
};

mod accept;
mod connection;
mod control;
mod counters;
mod discovery;
mod endpoint;
mod handover;
mod health;
pub mod http;
pub mod identity;
mod intercept;
pub mod journal;
pub mod jwt;
pub mod keep;
mod live;
mod names;
mod numa;
pub mod openmetrics;
mod owner;
mod pool;
pub mod probe;
mod records;
mod relay;
mod renewal;
mod scrape;
mod show;
mod signals;
mod split;
mod tap;
mod target;
mod told;
mod tunnel;
mod udp;
mod uplink;
mod who;
pub mod wire;
mod worker;

/// For connections to end by themselves after a signal; a request takes less, and what
/// is cut then are tunnels and plain TCP.
const DRAIN: Duration = Duration::from_secs(20);
/// Between two looks at whether they have.
const DRAIN_LOOK: Duration = Duration::from_millis(100);
/// Between two looks at addresses that could not be had, and at who the node is.
const LOOK: Duration = Duration::from_secs(1);
/// After this a mesh has all that it starts with.
const STARTED: Duration = Duration::from_secs(3);
/// How often memory is given back: the workers wait while a heap of their own is walked.
const GIVE_BACK: Duration = Duration::from_secs(30);

/// Where a process that begins anew is told its [`Place`].
const PLACE: &str = "PURLIN_MESH_PLACE";

/// Where a mesh keeps its things.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Its directory, for the last table.
    pub dir: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// The agent's socket: whoever owns that hands over tables.
    pub agents: PathBuf,
    /// How long connections may go on after another mesh has taken over.
    pub drain: Duration,
    /// For this project's own tests: what the clock shows at the start.
    pub clock_unix_s: Option<u64>,
}

/// `purlin mesh`: the same process begins anew, and knows its place from the start. What it
/// took to find it, the command line and the shape of every document, would be a third of an
/// idle mesh's memory for ever.
pub fn start(place: Place) -> ExitCode {
    let mut words = env::args_os();
    let name = words.next().unwrap_or_default();
    // Either may fail, a path that is no UTF-8 and a system without /proc; it serves anyway.
    if let (Ok(executable), Ok(told)) = (env::current_exe(), serde_json::to_string(&place)) {
        let error = Command::new(executable).arg0(name).args(words).env(PLACE, told).exec();
        eprintln!("purlin mesh: it can't begin anew, and goes on: {error}");
    }
    main(place)
}

/// The place of a process that has begun anew.
pub fn place() -> Option<Place> {
    serde_json::from_str(env::var(PLACE).ok()?.as_str()).ok()
}

/// Runs until a signal. Prints its own errors.
pub fn main(place: Place) -> ExitCode {
    let log = tracing_subscriber::fmt().with_target(false).with_max_level(tracing::Level::INFO);
    // Under a test harness somebody may have set one already.
    _ = match journal::is_stderr() {
        true => {
            let log = log.with_ansi(false).without_time().with_level(false);
            log.with_writer(journal::Journal).try_init()
        }
        false => log.with_writer(io::stderr).try_init(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(run(place)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("purlin mesh: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(place: Place) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    fs::create_dir_all(&place.dir).map_err(|error| {
        let what = format!("can't make {}: {error}", place.dir.display());
        io::Error::new(error.kind(), what)
    })?;
    // Found now: at an upgrade another file has this name.
    let executable = env::current_exe()?;
    let mut inherited = Inherited::read()?;
    let socket = match &inherited {
        Some(inherited) => inherited.control.try_clone()?,
        None => control::bind(&place.socket)?,
    };
    let started = Instant::now();
    // Only to choose by: two meshes that start in the same nanosecond may choose alike.
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_nanos() as u64);
    let cores = thread::available_parallelism()?.get();
    let seats = Seat::all(cores).into_iter().enumerate();
    let tap = Arc::new(Tap::new(started));
    let clock = Clock::new(place.clock_unix_s);
    let finder = Finder::start()?;
    let shared = worker::Shared {
        started,
        clock: clock.clone(),
        tap: tap.clone(),
        is_released: inherited.is_none(),
        finder: finder.clone(),
    };
    let workers =
        seats.map(|(n, seat)| worker::start(n, seed.wrapping_add(n as u64), seat, shared.clone()));
    let workers = workers.collect::<io::Result<Vec<_>>>()?;
    let handed = inherited.as_mut().map(|it| std::mem::take(&mut it.sockets));
    let dir = place.dir.clone();
    let keeper = Keeper::new(&place.dir, clock);
    let (scrapes, scraped) = watch::channel(None);
    let handed = handed.unwrap_or_default();
    let owner = Owner::start(place.dir, workers, started, keeper, handed, scrapes, finder);
    let control = Arc::new(Control::new(owner, place.agents, executable, socket, tap));
    tracing::info!(workers = cores, generation = control.owner().status().generation, "ready");
    match inherited {
        Some(inherited) => inherited.take_over(control.owner().adopter())?,
        // Without systemd there is nobody to tell.
        None => _ = sd_notify::notify(&[NotifyState::Ready]),
    }
    let look = async {
        loop {
            time::sleep(LOOK).await;
            let mut owner = control.owner();
            owner.bind_missing();
            owner.look_who();
            owner.look_records();
            owner.look_splits();
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = control.stop.notified() => {}
        served = control::serve(control.clone()) => return served,
        () = look => {}
        () = renewal::run(&control) => {}
        () = discovery::run(&control, &dir) => {}
        () = scrape::run(&control, scraped) => {}
        () = feed_watchdog() => {}
        () = give_back() => {}
    }
    let has_heir = control.owner().has_heir();
    tracing::info!(has_heir, "draining");
    control.owner().drain();
    if !has_heir {
        _ = sd_notify::notify(&[NotifyState::Stopping]);
        _ = fs::remove_file(&place.socket);
    }
    let drained = time::timeout(if has_heir { place.drain } else { DRAIN }, async {
        while !control.owner().is_drained() {
            time::sleep(DRAIN_LOOK).await;
        }
    });
    tokio::select! {
        drained = drained => if drained.is_err() {
            tracing::warn!(open = control.owner().open(), "connections are cut at the drain's deadline");
        },
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Gives back what connections needed that are parked by now.
async fn give_back() {
    time::sleep(STARTED).await;
    purlin_drivers::give_back_code();
    loop {
        time::sleep(GIVE_BACK).await;
        purlin_drivers::give_back_memory();
    }
}

/// Tells systemd that the process is alive, half as often again as it wants to know.
async fn feed_watchdog() {
    match sd_notify::watchdog_enabled() {
        None => std::future::pending().await,
        Some(timeout) => {
            let mut ticks = time::interval(timeout / 2);
            loop {
                ticks.tick().await;
                _ = sd_notify::notify(&[NotifyState::Watchdog]);
            }
        }
    }
}
