//! The agent's main: start, run named tasks until a signal, drain, end.
//!
//! | task | reads | publishes |
//! | --- | --- | --- |
//! | `log` | lines | answers with the latest |
//! | `config` | documents ([`door`](crate::door)) | `Settings`, `Reported` |
//! | `audit` | what was done | `audit::State`, the record on disk |
//! | `helper` | requests | answers, `Helper` |
//! | `inventory` | uevents, the helper | `Inventory`, `Hardware`, the baseline, requests for CDI files |
//! | `placement` | containers, `Inventory`, `Settings` | `Targets`, the book on disk |
//! | `kubelet` | kubelet's state files, by the helper | what kubelet gave out |
//! | `features` | what is left | a file for Kubernetes' scheduler, by the helper |
//! | `nri` | the container runtime, `Targets` | containers to `placement`, `Nri` |
//! | `enforce` | `Targets`, cgroups | `Enforcement`, cpusets and interrupts |
//! | `writer`, `mover` | requests | answers |
//! | `clock` | the kernel's clocks, chronyd, ptp4l | whether they are trusted; an event when they are set |
//! | `sample-…` | `/proc`, the helper | records into the spool |
//! | `mesh` | the settings' mesh | hands it to the mesh process and starts that standalone; `Seen` |
//! | `bmc`, `bmc-helper` | the BMC | records into the spool, `View`, how far its log was told |
//! | `power`, `power-helper`, `gpu-limiter`, `blinker` | `Shown`, `Settings` | events, cgroups and caps, `Power`, what is to be taken back |
//! | `mesh-offers` | what containers serve, by `placement` | it to the mesh process |
//! | `mesh-measure` | the mesh | what it measured, to the spool |
//! | `rack-alarms` | `Shown`, `Settings`, the mesh | what is raised here to the rack, `Elsewhere` |
//! | `rack` | `Settings`, serial ports and gateways | records into the spool, `View` |
//! | `alarm` | readings, faults, `Settings` | records into the spool, `Shown`, a state file |
//! | `intake` | what workloads hand in, the journal, `Settings` | records into the spool, `View`, a place in the journal |
//! | `webhook` | `Shown` | posts on site |
//! | `export` | records, `Settings` | what is read and posted on site, `View` |
//! | `relay` | frames of peers whose uplink is down | hands them to `uplink` |
//! | `command` | what the core wants done once | results to `uplink`, ids on disk |
//! | `identity` | the certificate, a token, `Settings` | the next certificate on disk |
//! | `machine` | `Inventory` | whether the state is on the machine that it was made on |
//! | `uplink` | the spool, `Reported`, `Shown` | `Link`, documents to `config` |
//! | `sparkplug` | samples, `Settings` | Sparkplug B to a broker |
//! | `api` | all of these | JSON over the socket |
//!
//! The spool has a thread of its own, and so has the local history. Each value has
//! one owner, which alone writes its `watch` channel; a reader takes a whole snapshot.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use purlin_core::{
    alarm::Alarms,
    drift::Watcher,
    inventory::{Inventory, Nic},
    metric::Sampler,
    place::book::Book,
    power::elsewhere::Elsewhere,
    rack::bmc::Place,
    settings::Settings,
};
use purlin_proto::{
    api::{Commands, Enforcement, Mode, Nri},
    v1::AgentTest,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::{Mutex, Notify, mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    alarm, api, audit,
    boot::{self, Boot},
    cdi::Runtimes,
    clock::Clock,
    command,
    door::{self, Door, Identity, Opening, Subsystem, Ticking, VERSION},
    enforce, enrol, export,
    heart::Heart,
    helper,
    history::History,
    intake,
    inventory::{Due, Hardware, Owner},
    kubelet, logging, machine, mesh, nri,
    placement::{self, Store, features},
    power,
    rack::{
        bmc,
        run::{Rack, View},
    },
    sample,
    sandbox::Sandbox,
    secret, sparkplug,
    spool::{Keys, Spool, dir::SEALED},
    state::StateDir,
    status,
    tasks::{Board, Tasks},
    two_files::TwoFiles,
    uplink::{self, Uplink, mqtt::Mqtt, relay},
};

/// Documents and questions that may wait for the configuration's owner.
const DOOR_INBOX: usize = 16;
/// Questions that may wait for the inventory's owner.
const INVENTORY_INBOX: usize = 4;
/// From the signal to the end, at most: 3.5 s for tasks and 1 s for the disk.
const DRAIN: Duration = Duration::from_millis(3500);
const CLOSE_SPOOL: Duration = Duration::from_secs(1);
/// After this the inventory was read, and the agent does what it does from then on.
const STARTED: Duration = Duration::from_secs(15);
/// How often memory is given back.
const GIVE_BACK: Duration = Duration::from_secs(30);
/// Standard output tells what was found after this time at the latest.
const GREET_AFTER: Duration = Duration::from_secs(5);
/// What to type next, and what it tells.
const NEXT: [(&str, &str); 4] = [
    ("status", "how it is"),
    ("hw tree", "what the machine is made of"),
    ("queue show", "what waits for the core"),
    ("config default", "the agent's own file, to make this a service"),
];
/// Who did what nobody asked for.
pub(crate) const AGENT: &str = "the agent";
/// Exit code of a refused configuration file.
const INVALID: u8 = 3;

/// `purlin agent`: runs until a signal. Prints its own errors.
pub fn main(config: Option<&Path>) -> ExitCode {
    let started = Instant::now();
    let boot = match Boot::load(config) {
        Ok(boot) => boot,
        Err(refusals) => {
            eprintln!("purlin agent: the agent's own configuration is refused:");
            for refusal in refusals {
                let purlin_proto::api::Refusal { path, value, limit, hint } = refusal;
                eprintln!("  {path}: {value} (may be {limit}; {hint})");
            }
            return ExitCode::from(INVALID);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .map_err(|error| format!("the kernel gives no event loop: {error}"))
        .and_then(|runtime| {
            let ended = runtime.block_on(run(boot, started));
            // Nothing that is stuck may hold up the end.
            runtime.shutdown_background();
            ended
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("purlin agent: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(boot: Boot, started: Instant) -> Result<(), String> {
    // First of all, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let stop = CancellationToken::new();
    let mut tasks = Tasks::new(stop.clone());
    let opened = Opened::open(boot, &tasks.board())?;
    let (spool, audit) = (opened.spool.clone(), opened.audit.0.clone());
    let mut heart = Heart::new(tasks.board(), opened.boot.watchdog.clone());
    let socket = opened.boot.socket.clone();
    let state_dir = opened.state.path().to_owned();
    // Held until the very end.
    let _state = opened.spawn(&mut tasks, &stop, started);

    // Outside systemd there is nobody to tell.
    _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    spool.event("agent.started", VERSION);
    audit.tell(AGENT, "agent.started", VERSION);
    match History::start(state_dir.join("history"), state_dir.join("spool/dict")) {
        Ok(history) => spool.tell(history),
        Err(error) => tracing::warn!(%error, "there is no local history"),
    }
    tracing::info!(version = VERSION, after = ?started.elapsed(), "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = heart.beat() => {}
    }
    heart.stop();
    _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    spool.event("agent.stopped", VERSION);
    audit.note(AGENT, "agent.stopped", VERSION).await;
    stop.cancel();
    if !tasks.drain(DRAIN).await {
        tracing::warn!(after = ?DRAIN, "some tasks did not end by themselves");
    }
    if let Some(history) = spool.history() {
        _ = time::timeout(CLOSE_SPOOL, history.flush()).await;
    }
    if time::timeout(CLOSE_SPOOL, spool.close()).await.is_err() {
        tracing::error!("the disk is too slow: what was not yet durable is lost");
    }
    _ = fs::remove_file(socket);
    Ok(())
}

/// What is taken up from the disk before any task runs.
struct Opened {
    boot: Boot,
    state: StateDir,
    listener: UnixListener,
    level: logging::LevelControl,
    keeper: logging::Keeper,
    identity: Identity,
    mqtt: Mqtt,
    spool: Spool,
    clock: Clock,
    door: Door,
    placements: (Store, Book),
    alarms: (alarm::Store, Alarms),
    bmc_log: (TwoFiles, Place),
    power: (TwoFiles, power::Done),
    audit: (audit::Client, audit::Owner),
    inventory: watch::Sender<Arc<Inventory>>,
    damage: Vec<String>,
    sandbox: Sandbox,
}

impl Opened {
    #[cfg_attr(not(feature = "broker"), allow(unused_mut))]
    fn open(mut boot: Boot, board: &Board) -> Result<Self, String> {
        let state = StateDir::open(&boot.state_dir).map_err(|error| error.to_string())?;
        let listener = api::bind(&boot.socket)
            .map_err(|error| format!("can't listen at {}: {error}", boot.socket.display()))?;
        let first = Settings::resolve(&boot.start, None);
        let (level, keeper) = logging::start(boot.log_format, first.log_level.value);
        let (own, read) = boot.directories();
        let sandbox = Sandbox::enter(&own, &read);
        let (identity, damaged) = identity(&boot, &state).map_err(|error| error.to_string())?;
        #[cfg(feature = "broker")]
        stand_in(&mut boot, &identity, &state)?;
        let mqtt = boot.mqtt(&identity.node);
        let path = state.path().join("spool");
        let clock = Clock::new(state.boot());
        let (keys, unsealed) = match boot.spool_keys() {
            Ok(keys) => (keys, None),
            // What is measured meanwhile is worth more than its secrecy, and this is told.
            Err(why) => (Keys::default(), Some(format!("{why}: the spool is written in plain"))),
        };
        let spool =
            Spool::open_with(&path, identity.incarnation, clock.clone(), board.clone(), keys)
                .map_err(|error| format!("can't open the spool in {}: {error}", path.display()))?;
        let inventory = watch::channel(Arc::new(Inventory::default())).0;
        let audit = audit::new(state.path().join(audit::store::DIR));
        let opening = Opening {
            identity: identity.clone(),
            start: boot.start.clone(),
            spool: spool.clone(),
            inventory: inventory.subscribe(),
            audit: audit.0.clone(),
            floor: mqtt.floor.clone(),
            keys: boot.trust_keys.clone(),
            test: boot.test.clone(),
        };
        let (door, mut damage) = Door::open(&state, opening);
        damage.extend(damaged.into_iter().chain(unsealed));
        damage.extend(sealed_aside(&path));
        let (store, saved, damaged) = Store::open(state.path());
        damage.extend(damaged);
        let placements = (store, Book::restore(saved));
        let (alarms, damaged) = alarm::open(state.path());
        damage.extend(damaged);
        let (bmc_log, damaged) = bmc::open(state.path());
        damage.extend(damaged);
        let (power, damaged) = power::open(state.path());
        damage.extend(damaged);
        for damage in &damage {
            tracing::error!(damage, "the state directory is damaged");
        }
        Ok(Self {
            boot,
            state,
            listener,
            level,
            keeper,
            identity,
            mqtt,
            spool,
            clock,
            door,
            placements,
            alarms,
            bmc_log,
            power,
            audit,
            inventory,
            damage,
            sandbox,
        })
    }

    /// Gives everything to the tasks that own it from now on, but for the state
    /// directory and its lock.
    fn spawn(self, tasks: &mut Tasks, stop: &CancellationToken, started: Instant) -> StateDir {
        let Self { boot, state, listener, level, keeper, identity, mqtt, spool, clock, .. } = self;
        let (mut door, inventory) = (self.door, self.inventory);
        let (placements, alarms, damage) = (self.placements, self.alarms, self.damage);
        let (audit, auditor) = self.audit;
        let (alarm_client, alarm_inbox) = alarm::client();
        let (alarms_shown, alarms_now) = watch::channel(Arc::new(alarm::Shown::of(&alarms.1)));
        let (settings, reported, lines) = (door.settings(), door.reported(), keeper.lines());
        let (asks, inbox) = mpsc::channel(DOOR_INBOX);
        let (link, link_now) = watch::channel(uplink::Link::default());
        let inventory_now = inventory.subscribe();
        let in_force = settings.borrow().clone();
        let [sampling, placing, racking, alarming, powering, taking, exporting, session] =
            [(); 8].map(|()| watch::channel(in_force.clone()).0);
        let (sampled, connected) = (sampling.subscribe(), session.subscribe());
        let (placed, (planned, planned_now)) = (placing.subscribe(), watch::channel(None));
        let (obeyed, obeyed_now) = watch::channel(None);
        let (ticking, ticking_now) = watch::channel(Ticking::default());
        let (racked, (rack_view, rack_now)) =
            (racking.subscribe(), watch::channel(View::default()));
        let test_cpu = boot.test.cpu_interval_ms.map(|_| Sampler::Cpu);
        let (wanted_mesh, mesh_wanted) = watch::channel(mesh::Wanted::default());
        let (mesh_seen, mesh_now) = watch::channel(mesh::Seen::default());
        let judging = alarming.subscribe();
        let (judged, alarms_known) = (powering.subscribe(), alarms_now.clone());
        let (judges, stages_now) = watch::channel(None);
        let (heard, elsewhere) = watch::channel(Elsewhere::default());
        let node = identity.node.clone();
        let raised =
            power::Raised { node, shown: alarms_now.clone(), elsewhere: elsewhere.clone() };
        let (taken, (intake_view, intake_now)) =
            (taking.subscribe(), watch::channel(intake::View::default()));
        let (exported, (export_view, export_now)) =
            (exporting.subscribe(), watch::channel(export::View::default()));
        let (places, places_inbox) = mpsc::channel(placement::INBOX);
        let placement = placement::Client(places);
        let subsystems: [Box<dyn Subsystem>; 12] = [
            Box::new(door::Agent { board: tasks.board() }),
            Box::new(door::Log { level }),
            Box::new(door::Storage { spool: spool.clone(), dir: state.path().join("spool") }),
            Box::new(door::Sampling { settings: sampling, ticking: ticking_now, test: test_cpu }),
            Box::new(door::Placing {
                settings: placing,
                planned: planned_now,
                placement: placement.clone(),
                obeyed: obeyed_now,
            }),
            Box::new(door::Racking { settings: racking, view: rack_now.clone() }),
            Box::new(door::Meshing {
                incarnation: identity.incarnation.0,
                wanted: wanted_mesh,
                seen: mesh_now.clone(),
                touched: false.into(),
                secrets: secret::Store::of(state.path()),
            }),
            Box::new(door::Alarming { settings: alarming, shown: alarms_now.clone() }),
            Box::new(door::Powering {
                settings: powering,
                judges: stages_now,
                raised: raised.clone(),
            }),
            Box::new(door::Listening { settings: taking, view: intake_now.clone() }),
            Box::new(door::Listening { settings: exporting, view: export_now }),
            // The last: it proves that the node can be reached under all the others.
            Box::new(door::Session::new(session, link_now.clone())),
        ];
        door.attach(subsystems);
        let (hardware, hardware_now) = watch::channel(Arc::new(Hardware::default()));
        let (hardware_asks, hardware_inbox) = mpsc::channel(INVENTORY_INBOX);
        let root = boot.test.root.clone().unwrap_or("/".into());
        let (client, helpers) = helper::client(root.into());

        spawn_owner(tasks, "log", keeper, |keeper| Box::pin(keeper.run()));
        spawn_owner(tasks, "config", (door, inbox), |(door, inbox)| Box::pin(door.run(inbox)));
        spawn_owner(tasks, "audit", auditor, |auditor| Box::pin(auditor.run()));
        spawn_owner(tasks, "helper", helpers, |helpers| Box::pin(helpers.run()));
        let owner = Owner {
            helper: client.clone(),
            spool: spool.clone(),
            state_dir: boot.state_dir.clone(),
            // Nobody is told of a machine that is only played.
            runtimes: (boot.mode == Mode::System && boot.test.root.is_none())
                .then(Runtimes::default),
            runtimes_due: None,
            inventory,
            hardware,
            inbox: hardware_inbox,
            watcher: Watcher::default(),
            baseline: None,
            due: Due::everything(time::Instant::now()),
            neighbours: Vec::new(),
        };
        spawn_owner(tasks, "inventory", owner, |owner| Box::pin(owner.run()));
        // Run by hand it leaves the node's containers alone unless told otherwise.
        let is_told = boot.mode == Mode::System || boot.nri_socket.is_some();
        // A machine that is only played has no cgroups, and nothing of it is root's.
        let is_real = is_told && boot.test.root.is_none();
        let [writer, mover] = ["writer", "mover"].map(|name| {
            let (client, helpers) = helper::writer();
            if is_real {
                spawn_owner(tasks, name, helpers, |helpers| Box::pin(helpers.run()));
            }
            client
        });
        let rebooter = writer.clone();
        let (kubelets, kubelet, owner) = kubelet::new(writer.clone());
        if is_real {
            spawn_owner(tasks, "kubelet", owner, |owner| Box::pin(owner.run()));
        }
        let (room, room_now) = watch::channel(None);
        let (served, serving) = watch::channel(None);
        let sources = placement::Sources {
            inventory: inventory_now.clone(),
            settings: placed.clone(),
            kubelet: kubelet.clone(),
            planned,
            room,
            served,
            spool: spool.clone(),
        };
        if boot.mode == Mode::System && is_real {
            let owner = features::Owner { room: room_now, helper: writer.clone() };
            spawn_owner(tasks, "features", owner, |owner| Box::pin(owner.run()));
        }
        let (owner, targets) = placement::Owner::new(sources, places_inbox, placements);
        spawn_owner(tasks, "placement", owner, |owner| Box::pin(owner.run()));
        let (nri, nri_now) = watch::channel(Nri::default());
        if is_told {
            let wiring = nri::Wiring {
                placement: placement.clone(),
                kubelet: kubelets,
                targets: targets.clone(),
                inventory: inventory_now.clone(),
                status: nri,
                spool: spool.clone(),
            };
            let writer = is_real.then(|| writer.clone());
            let plugin = nri::Plugin::new(boot.nri_socket.clone(), wiring, writer);
            spawn_owner(tasks, "nri", plugin, |plugin| Box::pin(plugin.run()));
        }
        let (enforcement, enforced) = watch::channel(Arc::new(Enforcement::default()));
        if is_real {
            let owner = enforce::Owner::new(enforce::Wiring {
                targets,
                settings: placed,
                placement: placement.clone(),
                inventory: inventory_now.clone(),
                writer,
                mover,
                spool: spool.clone(),
                status: enforcement,
                obeyed,
                state_dir: boot.state_dir.clone(),
                below: boot.test.cgroup.clone(),
            });
            spawn_owner(tasks, "enforce", owner, |owner| Box::pin(owner.run()));
        }
        let rack = Rack {
            settings: racked,
            spool: spool.clone(),
            alarms: alarm_client.clone(),
            clock: clock.clone(),
            view: rack_view,
        };
        spawn_owner(tasks, "rack", rack, |rack| Box::pin(rack.run()));
        // What is slow to answer holds up nobody else who asks.
        let (asker, helpers) = helper::client("/".into());
        let (bmc_view, bmc_now) = watch::channel(None);
        if boot.test.root.is_none() {
            spawn_owner(tasks, "bmc-helper", helpers, |helpers| Box::pin(helpers.run()));
            let owner = bmc::Owner {
                helper: asker.clone(),
                spool: spool.clone(),
                alarms: alarm_client.clone(),
                view: bmc_view,
                told: self.bmc_log,
            };
            spawn_owner(tasks, "bmc", owner, |owner| Box::pin(owner.run()));
        }
        let source = sample::Source {
            settings: sampled,
            board: tasks.board(),
            ticking,
            helper: client.clone(),
            spool: spool.clone(),
            alarms: alarm_client.clone(),
            test_interval: None,
        };
        let watched = spool.clone();
        let (watch, judged_by) = (clock.clone(), alarm_client.clone());
        tasks.spawn("clock", move || watch.clone().watch(watched.clone(), judged_by.clone()));
        tasks.spawn("memory", give_back);
        spawn_samplers(tasks, &source, boot.test.cpu_interval_ms);
        let counts = Arc::new(export::Counts::default());
        let measured = (spool.clone(), link_now.clone(), counts.clone());
        tasks.spawn("sample-self", move || {
            let (spool, link, counts) = measured.clone();
            sample::run_self(spool, link, counts)
        });
        let (mesh_socket, spooled) = (boot::mesh_socket(&boot.socket), spool.clone());
        let test_every = boot.test.cpu_interval_ms.map(|it| Duration::from_millis(it.into()));
        let every = test_every.unwrap_or(mesh::measure::EVERY);
        tasks.spawn("mesh-measure", move || {
            mesh::measure::run(mesh_socket.clone(), every, spooled.clone())
        });
        let handover = mesh::Handover {
            socket: boot::mesh_socket(&boot.socket),
            wanted: mesh_wanted,
            seen: mesh_seen,
            stop: stop.clone(),
            child: (boot.mode == Mode::Standalone).then(|| mesh::Child::new(&boot)),
        };
        let handover = Arc::new(handover);
        tasks.spawn_until_done("mesh", move || mesh::run(handover.clone()));
        let (carrying, carried) = mpsc::channel(relay::MAX_CARRIED);
        let anew = Arc::new(Notify::new());
        let (commands, ordered) = mpsc::channel(command::INBOX);
        let (telling, results) = mpsc::channel(command::MAX_RESULTS);
        let (command_counts, commands_now) = watch::channel(Commands::default());
        let wiring = uplink::Wiring {
            identity: identity.clone(),
            spool: spool.clone(),
            settings: connected,
            reported,
            alarms: alarms_now.clone(),
            door: asks.clone(),
            link,
            stop: stop.clone(),
            sent_today: state.path().join("sent-today"),
            peers: boot.relay.as_ref().map_or(Vec::new(), |relay| relay.peers.clone()),
            carried: Arc::new(Mutex::new(carried)),
            commands,
            results: Arc::new(Mutex::new(results)),
            answer: telling.clone(),
            anew: anew.clone(),
        };
        let peer = boot.relay.clone().map(|config| relay::peer::Server {
            config: Arc::new(config),
            floor: mqtt.floor.clone(),
            identity: identity.clone(),
            carried: carrying,
            link: link_now.clone(),
        });
        let relay = peer.as_ref().map(|peer| (peer.config.clone(), peer.identity.clone()));
        let transport = uplink::Rack { mqtt: mqtt.clone(), relay };
        if let Some(peer) = peer.filter(|peer| peer.config.listen.is_some()) {
            tasks.spawn("relay", move || peer.clone().run());
        }
        // It says goodbye to the broker by itself.
        tasks.spawn_until_done("uplink", move || {
            let (transport, wiring) = (transport.clone(), wiring.clone());
            async { Uplink::new(transport, wiring).await.run().await }
        });
        if let Some(config) = boot.sparkplug.clone() {
            let facade = sparkplug::Facade {
                config,
                mqtt: mqtt.clone(),
                settings: settings.clone(),
                spool: spool.clone(),
                bd_seq: state.path().join("sparkplug-bdseq"),
                stop: stop.clone(),
            };
            // It says goodbye to the broker by itself.
            tasks.spawn_until_done("sparkplug", move || facade.clone().run());
        }
        let own = enrol::Node {
            state: boot.state_dir.clone(),
            fleet: identity.fleet.clone(),
            id: identity.node.clone(),
            key: boot.key.clone(),
        };
        let (no_certificate, certificate_now) = watch::channel(None);
        let token_file = boot.token_file().unwrap_or_else(|why| {
            tracing::error!(why, "no certificate can be asked for");
            None
        });
        let beginner = Mqtt { floor: mqtt.floor.clone(), ..boot.asker(&own.id) };
        let task = enrol::task::Task {
            node: own.clone(),
            first: token_file.map(|token_file| enrol::task::First {
                token_file,
                endpoint: boot.enrol.endpoint.clone(),
                mqtt: beginner,
            }),
            mqtt: mqtt.clone(),
            settings: settings.clone(),
            audit: audit.clone(),
            spool: spool.clone(),
            view: no_certificate,
            anew,
        };
        let (moved, moved_now) = watch::channel(None);
        let watched = machine::Task {
            state: boot.state_dir.clone(),
            root: boot.test.root.clone().unwrap_or("/".into()).into(),
            inventory: inventory_now.clone(),
            audit: audit.clone(),
            view: moved,
        };
        tasks.spawn("machine", move || watched.clone().run());
        tasks.spawn("identity", move || task.clone().run());
        let sources = status::Sources {
            clock: clock.clone(),
            identity,
            own,
            certificate: certificate_now,
            moved: moved_now,
            floor: mqtt.floor.clone(),
            mode: boot.mode,
            state_dir: boot.state_dir.clone(),
            started,
            ready_after: started.elapsed(),
            board: tasks.board(),
            helper: client,
            link: link_now,
            nri: nri_now,
            kubelet,
            mesh: mesh_now.clone(),
            hardware: hardware_now,
            enforced: enforced.clone(),
            audit: audit.state(),
            commands: commands_now,
            alarms: alarms_now.clone(),
            damage,
            sandbox: self.sandbox.view(),
        };
        let sources = Arc::new(sources);
        let owner = intake::Owner::new(intake::Wiring {
            settings: taken,
            spool: spool.clone(),
            clock: clock.clone(),
            socket: boot.socket.with_file_name("otlp.sock"),
            state_dir: boot.state_dir.clone(),
            journal_dir: boot.test.journal.clone().map(PathBuf::from),
            view: intake_view,
        });
        spawn_owner(tasks, "intake", owner, |owner| Box::pin(owner.run()));
        let export = export::Source {
            identity: sources.identity.clone(),
            settings: exported,
            spool: spool.clone(),
            counts,
            view: export_view,
        };
        tasks.spawn("export", move || export::run(export.clone()));
        let poster = (sources.identity.clone(), judging.clone(), alarms_now);
        tasks.spawn("webhook", move || {
            let (identity, settings, shown) = poster.clone();
            alarm::webhook::run(identity, settings, shown)
        });
        let owner = alarm::Owner {
            settings: judging,
            inbox: alarm_inbox,
            sources: sources.clone(),
            spool: spool.clone(),
            shown: alarms_shown,
            store: alarms,
        };
        spawn_owner(tasks, "alarm", owner, |owner| Box::pin(owner.run()));
        let switch = match boot.test.poweroff.clone() {
            Some(program) => power::Switch::Program(program.into()),
            None if boot.mode == Mode::System && boot.test == AgentTest::default() => {
                power::Switch::Helper
            }
            None => power::Switch::Nobody("only the agent of a node switches its machine off"),
        };
        let (asked, helpers) = helper::writer();
        let (gpu_limiter, limiters) = helper::gpu_limiter();
        let (blinker, blinkers) = helper::blinker();
        let told = mesh::alarms::Owner {
            socket: boot::mesh_socket(&boot.socket),
            node: sources.identity.node.clone(),
            settings: judged.clone(),
            shown: alarms_known.clone(),
            heard,
        };
        spawn_owner(tasks, "rack-alarms", told, |told| Box::pin(told.run()));
        let told = mesh::offers::Owner {
            socket: boot::mesh_socket(&boot.socket),
            served: serving,
            mesh: mesh_now,
        };
        spawn_owner(tasks, "mesh-offers", told, |told| Box::pin(told.run()));
        let (power_view, power_now) = watch::channel(Arc::default());
        if boot.test.root.is_none() {
            spawn_owner(tasks, "blinker", blinkers, |helpers| Box::pin(helpers.run()));
            spawn_owner(tasks, "power-helper", helpers, |helpers| Box::pin(helpers.run()));
            spawn_owner(tasks, "gpu-limiter", limiters, |helpers| Box::pin(helpers.run()));
            let owner = power::Owner {
                settings: judged,
                judges,
                raised,
                helper: asked,
                gpu_limiter,
                placement: placement.clone(),
                enforced: enforced.clone(),
                spool: spool.clone(),
                audit: audit.clone(),
                view: power_view,
                switch,
                done: self.power,
            };
            spawn_owner(tasks, "power", owner, |owner| Box::pin(owner.run()));
        }
        let rebooter = match boot.test.reboot.clone() {
            Some(program) => command::Rebooter::Program(program.into()),
            None if boot.mode == Mode::System && boot.test == AgentTest::default() => {
                command::Rebooter::Helper(rebooter)
            }
            None => command::Rebooter::Nobody("only the agent of a node restarts its machine"),
        };
        let wiring = command::Wiring {
            sources: sources.clone(),
            spool: spool.clone(),
            door: asks.clone(),
            audit: audit.clone(),
            floor: mqtt.floor.clone(),
            clock: clock.clone(),
            boot: state.boot(),
            root: boot.test.root.clone().unwrap_or("/".into()).into(),
            inventory: inventory_now.clone(),
            lines: lines.clone(),
            lights: command::Lights { bmc: asker.clone(), nic: blinker },
            rebooter,
            inbox: ordered,
            results: telling,
            counts: command_counts,
        };
        let owner = command::Owner::open(state.path(), wiring);
        spawn_owner(tasks, "command", owner, |owner| Box::pin(owner.run()));
        let access = api::Access {
            sources,
            audit,
            alarms: alarm_client,
            elsewhere,
            spool,
            door: asks,
            settings: settings.clone(),
            inventory: inventory_now.clone(),
            hardware: hardware_asks,
            placement,
            enforced: enforced.clone(),
            rack: rack_now,
            bmc: (asker, bmc_now),
            power: power_now,
            intake: intake_now,
            lines,
            mqtt,
            roles: Arc::new(api::role::Roles::new(&boot.roles)),
        };
        let (listener, socket) = (Arc::new(Mutex::new(Some(listener))), boot.socket.clone());
        tasks.spawn("api", move || serve(listener.clone(), socket.clone(), access.clone()));
        if boot.mode == Mode::Standalone {
            tokio::spawn(async move { greet(&boot, &settings, inventory_now).await });
        }
        state
    }
}

/// What the start and each burst needed, and nothing does any more.
async fn give_back() -> Result<(), String> {
    time::sleep(STARTED).await;
    purlin_drivers::give_back_code();
    loop {
        time::sleep(GIVE_BACK).await;
        purlin_drivers::give_back_memory();
    }
}

/// What is told of segments that wait for a key.
fn sealed_aside(spool: &Path) -> Option<String> {
    let logs = fs::read_dir(spool).into_iter().flatten().flatten();
    let files = logs.filter_map(|log| fs::read_dir(log.path()).ok()).flatten().flatten();
    let aside = files.filter(|file| file.path().extension().is_some_and(|it| it == SEALED));
    let count = aside.count();
    (count > 0).then(|| {
        format!(
            "{count} segments of the spool are sealed with a key that is not there: they are set \
             aside and sent once spool.key_file has it (on a line of its own, behind the new one)"
        )
    })
}

fn spawn_samplers(tasks: &mut Tasks, source: &sample::Source, test_cpu_ms: Option<u32>) {
    for sampler in Sampler::ALL {
        let test_ms = test_cpu_ms.filter(|_| sampler == Sampler::Cpu);
        let source = sample::Source {
            test_interval: test_ms.map(|ms| Duration::from_millis(ms.max(1).into())),
            ..source.clone()
        };
        let name = format!("sample-{}", sampler.name());
        tasks.spawn(&name, move || source.clone().run(sampler));
    }
}

/// A task's work on what it owns.
type Work<T> = for<'a> fn(&'a mut T) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Spawns a task that owns `value`; after a restart it goes on with what it had.
fn spawn_owner<T: Send + 'static>(tasks: &mut Tasks, name: &str, value: T, work: Work<T>) {
    let value = Arc::new(Mutex::new(value));
    tasks.spawn(name, move || {
        let value = value.clone();
        async move {
            work(&mut *value.lock().await).await;
            Ok(())
        }
    });
}

/// Who this node is, and what was damaged.
fn identity(boot: &Boot, state: &StateDir) -> std::io::Result<(Identity, Vec<String>)> {
    let (node, node_damage) = match &boot.node {
        Some(node) => (node.clone(), None),
        None => state.random_node()?,
    };
    let (incarnation, damage) = state.incarnation()?;
    let identity = Identity { fleet: boot.fleet.clone(), node, incarnation };
    Ok((identity, node_damage.into_iter().chain(damage).collect()))
}

/// Standalone and without an endpoint, the embedded broker stands in for the core.
#[cfg(feature = "broker")]
fn stand_in(boot: &mut Boot, identity: &Identity, state: &StateDir) -> Result<(), String> {
    if boot.mode == Mode::Standalone && boot.start.endpoint.is_none() {
        let failed = |error: std::io::Error| format!("can't start the embedded broker: {error}");
        let written = |password: &str| !password.is_empty();
        let username = boot.username.clone().unwrap_or_else(|| identity.node.clone());
        let (password, _) =
            state.read_or_make("broker.password", 0o600, written).map_err(failed)?;
        let endpoint =
            crate::broker::start(boot.broker_port, &username, &password).map_err(failed)?;
        boot.start.endpoint = Some((endpoint, "embedded broker".into()));
        boot.password_file = Some(state.path().join("broker.password"));
    }
    Ok(())
}

/// Serves the local API, on a socket bound anew if this is a restart.
async fn serve(
    listener: Arc<Mutex<Option<UnixListener>>>,
    socket: PathBuf,
    access: api::Access,
) -> Result<(), String> {
    let listener = match listener.lock().await.take() {
        Some(listener) => listener,
        None => api::bind(&socket).map_err(|error| error.to_string())?,
    };
    api::serve(listener, access).await
}

/// Tells who started the agent by hand what it found, where its things are, and
/// what to type next.
async fn greet(
    boot: &Boot,
    settings: &watch::Receiver<Arc<Settings>>,
    mut inventory: watch::Receiver<Arc<Inventory>>,
) {
    // Whatever was read until then is worth telling.
    _ = time::timeout(GREET_AFTER, inventory.changed()).await;
    let endpoint = settings.borrow().endpoint.clone();
    let uplink = match &endpoint.value {
        Some(value) => format!("{value} ({})", endpoint.origin),
        None => "none: telemetry stays in the spool".into(),
    };
    let mut text = format!(
        "\npurlin {VERSION} runs standalone: no {} is here.\n\n  found    {}\n  state    {}\n  \
         socket   {}\n  uplink   {uplink}\n",
        boot::SYSTEM_FILE,
        found(&inventory.borrow()),
        boot.state_dir.display(),
        boot.socket.display(),
    );
    for (n, limit) in status::limitations().into_iter().enumerate() {
        let label = if n == 0 { "may not" } else { "" };
        text.push_str(&format!("  {label:<8} {}: {}\n", limit.what, limit.why));
    }
    let purlin = own_command();
    text.push_str("\nIn a second terminal:\n");
    for (command, what) in NEXT {
        text.push_str(&format!("  {purlin} {command:<15} {what}\n"));
    }
    text.push_str("Ctrl-C ends it; a second start goes on with this one's state.\n\n");
    // A closed terminal is no reason to end.
    _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

/// What to type to run this very executable: its name where the shell finds it,
/// else its path.
fn own_command() -> String {
    let Ok(own) = std::env::current_exe() else { return "purlin".into() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("purlin")).find(|p| p.exists());
    if found.and_then(|found| found.canonicalize().ok()).is_some_and(|found| found == own) {
        return "purlin".into();
    }
    let here = std::env::current_dir().unwrap_or_default();
    own.strip_prefix(here).unwrap_or(&own).display().to_string()
}

/// The machine in a line.
fn found(inventory: &Inventory) -> String {
    let mut parts = Vec::new();
    let mut part = |count: Option<usize>, one: &str, many: &str| match count {
        Some(1) => parts.push(format!("1 {one}")),
        Some(count) => parts.push(format!("{count} {many}")),
        None => parts.push(format!("{many} unknown")),
    };
    let cpus = inventory.cpu.as_ref().and_then(|cpu| cpu.online.as_ref());
    part(cpus.map(|online| online.len()), "CPU", "CPUs");
    part(inventory.numa.as_ref().map(Vec::len), "NUMA node", "NUMA nodes");
    let memory = inventory.memory.as_ref().and_then(|memory| memory.total);
    part(memory.map(|bytes| (bytes >> 20) as usize), "MiB of memory", "MiB of memory");
    part(inventory.pci.as_ref().map(Vec::len), "PCI function", "PCI functions");
    let physical = |nics: &Vec<Nic>| nics.iter().filter(|nic| nic.physical).count();
    part(inventory.nics.as_ref().map(physical), "NIC", "NICs");
    part(inventory.storage.as_ref().map(|it| it.disks.len()), "disk", "disks");
    part(inventory.gpus.as_ref().map(Vec::len), "GPU", "GPUs");
    parts.join(", ")
}
