//! The command line: what may be typed, and the help that teaches it.
//!
//! Help, man pages and completions all come from this tree. It says what was typed;
//! the commands decide what is meant. Nothing here reads a file or the environment.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
    value_parser,
};
use clap_complete::Shell;
use hex::FromHex;
use purlin_core::{
    identity::Class,
    inventory::Part,
    settings::{Endpoint, Impossible, Webhook},
};
use purlin_daemon::{clock::Floor, enrol::Store, mqtt::Mqtt};
use purlin_proto::api::AuditHead;

use crate::{
    exit::CODES,
    output::{Color, Format},
};

/// Heading of the options that every command takes.
const GLOBAL: &str = "Everywhere";

/// Keeps one edge node doing what it was last told
///
/// Purlin runs on a node (`purlin agent`) and keeps it doing what it was last told, on
/// the hardware it really has, with or without the cloud. All the other commands ask
/// that agent, or read the hardware and the disk themselves when it is dead.
///
/// Standing in front of a rack: start with `purlin status`.
#[derive(Debug, Parser)]
#[command(name = "purlin", version, after_help = CODES)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = GLOBAL)]
pub struct Global {
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Format,
    /// The agent's own file [default: /etc/purlin/purlin.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The agent's socket, whatever its file says
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent, until a signal ends it
    ///
    /// With /etc/purlin/purlin.toml it runs as the node's service. Without, it runs
    /// standalone: under your own directories, with a broker of its own, and without
    /// root. It says what it found, what it may not do, and what to type next.
    #[command(after_help = "\
Examples:
  purlin agent                           try it out on this machine
  purlin agent --config ./purlin.toml    with a file of your own")]
    Agent,

    /// Tell how the agent is, and what is wrong
    ///
    /// The whole agent on one screen: who it is, its uplink, its queue, its tasks, what
    /// it may not do, and last what is wrong, with the next step. Exits 2 if anything
    /// is wrong.
    #[command(after_help = "\
Examples:
  purlin status                          is this node well?
  purlin status -w                       keep looking
  purlin status -v                       with every task and every bound
  purlin status -o json | jq .faults     what is wrong, for a program")]
    Status(StatusArgs),

    /// Watch the node on one screen: load, memory, disks, NICs, temperatures, queue, alarms
    ///
    /// Fits 80 columns and 24 lines and needs nothing but a serial console. Each line has
    /// the last hours beside it, from the node's own history, and its newest minute. q or
    /// Ctrl-C ends it. JSON and YAML are printed once.
    #[command(after_help = "\
Examples:
  purlin top                             what is this node doing?
  purlin top --since 24h                 and since yesterday?
  purlin top --once                      a page for a report")]
    Top(TopArgs),

    /// Show the hardware, with or without an agent
    ///
    /// Reads the machine (or a dump of one) itself and asks nobody, so that it works
    /// when nothing else does. What could not be read is listed on standard error:
    /// unknown is never the same as absent.
    #[command(after_help = "\
Examples:
  purlin hw list                         every device on a line
  purlin hw tree                         what sits on which NUMA node
  purlin hw show cpu                     all about the processors
  purlin hw gather                       take this machine along in a file
  purlin hw tree --root box.tar.gz       a machine that somebody took along")]
    Hw(HwArgs),

    /// Show what can be placed where, and try it out
    ///
    /// A workload's CPUs, memory and devices belong on the same NUMA node, or as near to
    /// each other as there is room. Nothing here changes anything, and no agent is asked.
    #[command(after_help = "\
Examples:
  purlin numa map                        what each node has
  purlin numa what-if app.toml           where would it go, and why?")]
    Numa(NumaArgs),

    /// Stand in for runc or crun, and pin what they create
    ///
    /// For podman, docker and containerd without NRI: asks the agent where a new container
    /// goes, puts its CPUs and memory nodes into the container's specification, and becomes
    /// the real runtime. Everything else is passed on as it is. While the agent is dead the
    /// last plan on disk holds. A link to purlin that is called runc or crun does the same.
    /// A container asks by annotations: --annotation purlin.dev/exclusive-cpus=2
    #[command(after_help = "\
Examples:
  podman --runtime /usr/libexec/purlin/crun run IMAGE
  purlin oci-runtime run -b BUNDLE box   by hand, by runc or crun
  purlin oci-runtime --runtime /opt/bin/youki state box")]
    OciRuntime {
        /// The real runtime [default: runc or crun on the PATH]
        #[arg(long, value_name = "PATH")]
        runtime: Option<PathBuf>,
        /// What the runtime is called with
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<std::ffi::OsString>,
    },

    /// Route traffic between services, or look at how that is done
    ///
    /// Without a command it is the router itself, and runs until a signal ends it; the
    /// node's service, or a standalone agent, starts it. The commands ask that router and
    /// need no agent.
    #[command(after_help = "\
Examples:
  purlin mesh show                       does it listen, and what was refused?
  purlin mesh routes                     which requests go where?
  purlin mesh endpoints -w               how are they doing?
  purlin mesh why http://shop.rack/cart  what would become of this request?")]
    Mesh(MeshArgs),

    /// Show what a person must know of, and say that you do
    ///
    /// A reading beyond its limit is an alarm, as `alarms.rules` of the configuration and
    /// the rack's register maps have it, and so is every fault of the agent. What swings
    /// around a limit is one alarm. It is cleared by itself when its cause is gone, unless
    /// it is latched.
    #[command(subcommand)]
    Alarm(AlarmCommand),

    /// This node as such: get it a certificate, or make it forget
    #[command(subcommand)]
    Node(NodeCommand),

    /// Show what was done to this node, and prove that the record is whole
    ///
    /// Changes over the agent's socket, what became of documents and commands, and what the
    /// agent did by itself. Each line is chained to the one before, and each file of them
    /// ends with a line that the node's key has signed.
    #[command(subcommand)]
    Audit(AuditCommand),

    /// Show what the rack's buses say: power supplies, UPS, sensors
    ///
    /// The agent reads the devices that `rack.buses` of the configuration names. A reading
    /// is good, stale (overdue), suspect (not possible) or bad (none); only good ones are
    /// sent to the cloud.
    #[command(subcommand)]
    Rack(RackCommand),
    /// Show what the node does when power or cooling fails, and where it stands
    ///
    /// The stages are those of `power.stages` of the configuration: each begins when an
    /// alarm is raised that it names, and what it does is taken back when that is over.
    /// `power.rehearse` tells all of it and does nothing.
    #[command(subcommand, display_order = 25)]
    Power(PowerCommand),

    /// Try devices and register maps out, without an agent
    ///
    /// Opens the port itself, so that a bus which the agent reads is busy.
    #[command(subcommand)]
    Driver(DriverCommand),

    /// Show, read, carry away or remove what waits on disk for the cloud
    ///
    /// Everything the agent measures goes to disk first, and stays there until the cloud
    /// has acknowledged it, or until the queue is full and the oldest goes.
    #[command(subcommand)]
    Queue(QueueCommand),

    /// Show what was measured here in the last day
    ///
    /// From the node's own history, a value a minute, with or without a cloud.
    #[command(subcommand)]
    Metrics(MetricsCommand),

    /// Show or test the way to the cloud
    ///
    /// The uplink is an MQTT connection from the agent to a broker. Nothing on the node
    /// waits for it.
    #[command(subcommand)]
    Link(LinkCommand),

    /// Show, compare or change the configuration
    ///
    /// Every setting has one owner: what the agent needs to start is in its own file,
    /// all the rest is in the document it was last given, by the cloud or by `apply`.
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Make keys, sign documents, and push them to a fleet
    ///
    /// The operator's side: it talks to the fleet's broker and not to an agent. What it
    /// shows is what the nodes report.
    #[command(subcommand)]
    Fleet(FleetCommand),

    /// Show what the agent has written about itself lately
    ///
    /// These are the lines that the agent keeps in memory, oldest first. Where systemd
    /// runs it, `journalctl -u purlind` has more.
    #[command(after_help = "\
Examples:
  purlin log                             what it says
  purlin log -w                          and go on")]
    Log(Watch),

    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  purlin completions bash > ~/.local/share/bash-completion/completions/purlin
  purlin completions fish > ~/.config/fish/completions/purlin.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write a man page for every command
    #[command(after_help = "\
Examples:
  purlin man ~/.local/share/man/man1 && man purlin-status")]
    Man {
        /// Where to; an existing directory
        dir: PathBuf,
    },
}

/// Watching.
#[derive(Clone, Copy, Debug, Args)]
pub struct Watch {
    /// Go on looking, every so many seconds (2), until Ctrl-C
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "2", value_parser = value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

impl Watch {
    /// Between two looks, if there is to be more than one.
    pub fn every(self) -> Option<Duration> {
        self.watch.map(Duration::from_secs)
    }
}

/// `purlin status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show every task, and everything that has a bound
    #[arg(short, long)]
    pub verbose: bool,
    /// Watching.
    #[command(flatten)]
    pub watch: Watch,
}

/// `purlin top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// How far back its lines go: 30min, 6h, at most 24h
    #[arg(long, value_name = "TIME", default_value = "3h", value_parser = since)]
    pub since: Duration,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "5",
          value_parser = value_parser!(u64).range(1..=3600))]
    pub every: u64,
    /// Print one page and end
    #[arg(long)]
    pub once: bool,
}

/// `purlin mesh`
#[derive(Debug, Args)]
pub struct MeshArgs {
    /// Without a command: seconds that TCP connections, WebSockets and tunnels may go on
    /// after another mesh has taken over, before they are cut
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub drain: u32,
    /// What to show.
    #[command(subcommand)]
    pub command: Option<MeshCommand>,
}

/// `purlin mesh …`
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Show whether it listens, what it counted, and what is wrong
    ///
    /// Exits 2 if anything is wrong.
    #[command(after_help = "\
Examples:
  purlin mesh show -w                    watch the requests come in")]
    Show(Watch),
    /// List every route, rule and match
    #[command(after_help = "\
Examples:
  purlin mesh routes -o json | jq -r '.routes[].route' | uniq")]
    Routes,
    /// List every endpoint: requests under way, latency, failures
    #[command(after_help = "\
Examples:
  purlin mesh endpoints -w=1             which one is slow?")]
    Endpoints(Watch),
    /// Offer an endpoint on this node to the rack, by hand
    ///
    /// Beside those of the document and of containers with the annotation
    /// purlin.dev/services=SERVICE=PORT. It is added where the document's
    /// `mesh.services.endpoints_from` names this node, on this node and, by its signed record,
    /// on the others. It stays until it is undone.
    #[command(after_help = "\
Examples:
  purlin mesh offer shop 127.0.0.1:8080
  purlin mesh offer --undo shop 127.0.0.1:8080")]
    Offer(OfferArgs),
    /// List what the rack's nodes offer, and what of it is not used here and why
    #[command(after_help = "\
Examples:
  purlin mesh offers -o json | jq '.offers[] | select(.unused)'")]
    Offers(Watch),
    /// Show HTTP requests as they go through
    #[command(after_help = "\
Examples:
  purlin mesh tap                        until Ctrl-C
  purlin mesh tap -n 10 -o json | jq .endpoint")]
    Tap {
        /// End after so many
        #[arg(short = 'n', long, value_name = "N")]
        count: Option<u64>,
    },
    /// Send nothing new to an endpoint: what is under way there goes on
    ///
    /// Until it is undone, or the mesh is started anew. Where all of a service's endpoints
    /// are set aside, all are asked all the same.
    #[command(after_help = "\
Examples:
  purlin mesh drain n2/10.0.0.5:8080
  purlin mesh drain --undo n2/10.0.0.5:8080")]
    Drain(SetAsideArgs),
    /// Open a service's circuit breaker: its requests are answered with 503
    ///
    /// Until it is undone, or the mesh is started anew.
    #[command(after_help = "\
Examples:
  purlin mesh break shop
  purlin mesh break --undo shop")]
    Break(SetAsideArgs),
    /// Send nothing more to the new backend of a route, or let it in again
    ///
    /// For rules with a `step_back`, which do so by themselves when the new backend fails
    /// more often than the others. It holds over restarts and upgrades, until it is undone
    /// or a document changes the rule's backends.
    #[command(after_help = "\
Examples:
  purlin mesh step-back shop
  purlin mesh step-back --undo shop      it is mended: let it in again")]
    StepBack(SetAsideArgs),
    /// List the nodes of the rack, and which of them are there
    #[command(after_help = "\
Examples:
  purlin mesh peers -w                   watch them come and go")]
    Peers(Watch),
    /// Start another mesh, that takes over from the one that runs
    ///
    /// It is started from the executable that is installed now, and gets the listening
    /// sockets and the idle connections: no connection attempt is refused, and no HTTP
    /// request broken. The old one answers what is under way and closes; TCP connections,
    /// WebSockets and tunnels go on there until `--drain` is over, and are cut then. If
    /// the new one doesn't serve within 20 s, the old one goes on.
    #[command(after_help = "\
Examples:
  systemctl reload purlin-mesh           the same, on a node")]
    Upgrade,
    /// Print the rules by which the kernel hands connections to the mesh, for `nft -f -`
    ///
    /// Of the table that the mesh has on its disk: what `intercept` of its listeners says.
    /// Loaded, they stand in place of those before. Nothing of the mesh's own user is taken.
    #[command(after_help = "\
Examples:
  systemctl enable --now purlin-intercept.service purlin-intercept.path
  purlin mesh nft | sudo nft -f -            the same by hand, once
  purlin mesh nft --remove | sudo nft -f -   and away again")]
    Nft {
        /// Print what takes them away, whether there are any or not
        #[arg(long)]
        remove: bool,
    },
    /// Make certificates of a rack, and take nodes out of it
    ///
    /// A rack has a root, which is carried away, and two nodes with an issuer, which renew
    /// the certificates of all at half of their life, without anything outside the rack.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Tell which route and endpoint a request would take, and why
    ///
    /// Nothing is sent. Every rule that is tried before the one that matches is listed
    /// with what it wants otherwise.
    #[command(after_help = "\
Examples:
  purlin mesh why http://shop.rack/cart
  purlin mesh why -X POST -H 'x-canary: 1' http://shop.rack/cart
  purlin mesh why --as workload/shop/checkout http://payments.rack/
  purlin mesh why --listener plant http://shop.rack/")]
    Why(WhyArgs),
}

/// `purlin mesh why`
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The request's address, e.g. `http://shop.rack/cart?id=7`
    pub url: String,
    /// Its method
    #[arg(short = 'X', long, default_value = "GET")]
    pub method: String,
    /// A header of it, e.g. 'x-canary: 1'; may be given again
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// The listener it comes in at, where there are more than one for HTTP
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// The workload of this node that asks, e.g. workload/shop/checkout, container/checkout,
    /// unit/checkout.service; left out: one that nobody knows
    #[arg(long = "as", value_name = "WORKLOAD")]
    pub workload: Option<String>,
}

/// `purlin hw`
#[derive(Debug, Args)]
pub struct HwArgs {
    /// Read a dump of a machine instead of this one: a directory with its `proc` and
    /// `sys`, or a tar of one (plain, .gz, .xz or .zst)
    #[arg(long, global = true, value_name = "DIR|TAR")]
    pub root: Option<PathBuf>,
    /// What to show.
    #[command(subcommand)]
    pub command: HwCommand,
}

/// `purlin hw …`
#[derive(Debug, Subcommand)]
pub enum HwCommand {
    /// List every device on a line
    ///
    /// PCI functions, virtual interfaces and sensors are counted: `show` has each of them.
    #[command(after_help = "\
Examples:
  purlin hw list                         is it all there?
  purlin hw list -o json | jq .storage   the disks, for a program")]
    List,
    /// Show everything that is known of one part, or of all
    ///
    /// What this machine does not tell reads `unknown`, and never 0.
    #[command(after_help = "\
Examples:
  purlin hw show storage                 models, serial numbers, firmware
  sudo purlin hw show platform           with the serial number of the machine")]
    Show {
        /// The part
        #[arg(value_parser = part())]
        part: Option<Part>,
    },
    /// Compare the hardware with what was accepted, or two machines
    ///
    /// Temperatures, counters, link state and all else that changes by itself is not
    /// compared, and neither is what one side could not read. Exits 2 if anything
    /// differs. Without a running agent it reads the machine and the state directory.
    #[command(after_help = "\
Examples:
  purlin hw diff                         is it still what was accepted?
  purlin hw diff before.json             what changed since `hw list -o json`?
  purlin hw diff ./node1 ./node2         two machines copied into directories")]
    Diff(DiffArgs),
    /// List what happened to the hardware in the last day: what came, went and changed
    ///
    /// From the history of the agent, which must run.
    #[command(after_help = "\
Examples:
  purlin hw changes --since 2h           what did the last visitor unplug?")]
    Changes {
        /// How far back: 90s, 30min, 6h, at most 24h
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = since)]
        since: Duration,
    },
    /// Accept the hardware as it is now, so that `diff` compares with it
    ///
    /// The agent keeps it. What a node was made of when it was first seen is accepted
    /// without being asked.
    #[command(after_help = "\
Examples:
  purlin hw diff; sudo purlin hw accept  after a repair")]
    Accept,
    /// Draw what sits on which NUMA node
    ///
    /// From the outside in: packages, nodes, caches, cores, and the devices of each node.
    #[command(after_help = "\
Examples:
  purlin hw tree                         which GPU is next to which NIC?")]
    Tree,
    /// Draw a picture of the machine, in SVG
    ///
    /// Packages, NUMA nodes, caches and cores as boxes in boxes, and each device at the
    /// node it sits on. Any browser shows and prints it.
    #[command(after_help = "\
Examples:
  purlin hw draw machine.svg             a picture to hang on the rack
  purlin hw draw --root box.tar.gz > box.svg")]
    Draw(ToFile),
    /// Write the topology as hwloc's XML, for lstopo and what else reads it
    #[command(after_help = "\
Examples:
  purlin hw xml machine.xml && lstopo -i machine.xml
  purlin hw xml --root box.tar.gz | lstopo-no-graphics -i -")]
    Xml(ToFile),
    /// Write a dump: every file that was read of this machine, in a .tar.gz
    ///
    /// Whoever gets it sees with --root what was seen here, and nothing of his own
    /// machine. It has no keys, no files of yours and no content of any disk; but serial
    /// numbers, MAC addresses and the host's name are in it. Root can read more of them
    /// than you. What no file tells is in purlin/inventory.json, as it was read here.
    #[command(after_help = "\
Examples:
  sudo purlin hw gather                  purlin-<host>-<date>.tar.gz, right here
  purlin hw gather - | ssh desk 'cat > rack7.tar.gz'
  purlin hw list --root rack7.tar.gz     and read it anywhere")]
    Gather {
        /// Where to; `-` is standard output, without it `purlin-<host>-<date>.tar.gz` here
        file: Option<PathBuf>,
        /// Write over a file that is there
        #[arg(short, long)]
        force: bool,
    },
    /// Count packages, cores, caches, nodes and devices, to compare with other readers
    ///
    /// Once as hwloc counts, once (`sysfs_…`, `kernel_…`) what the kernel shows.
    #[command(after_help = "\
Examples:
  purlin hw counts -o json | jq .cores   how many cores may be used?")]
    Counts,
    /// Show which GPUs and virtual functions a container can be given
    ///
    /// With `-o json`, as specifications of the Container Device Interface: each of
    /// `specs` is the content of one file that a container runtime reads.
    #[command(after_help = "\
Examples:
  purlin hw cdi                          by what names can a container ask?
  purlin hw cdi -o json | jq '.specs[0]'
  sudo purlin hw cdi --write             where no service keeps them in /run/cdi")]
    Cdi {
        /// Write them for container runtimes, each over its older self if it changed, and
        /// take back those without devices [default directory: /run/cdi]
        #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "/run/cdi")]
        write: Option<PathBuf>,
    },
}

/// Where a document goes that is a file of its own.
#[derive(Debug, Args)]
pub struct ToFile {
    /// Where to, over what is there [default: standard output, as `-`]
    pub file: Option<PathBuf>,
}

/// `purlin hw diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Before: a file of `hw list -o json` (its name ends in .json), or a dump
    pub before: Option<PathBuf>,
    /// After: the same [default: this machine]
    pub after: Option<PathBuf>,
}

/// `purlin numa`
#[derive(Debug, Args)]
pub struct NumaArgs {
    /// Read a dump of a machine instead of this one: a directory with its `proc` and
    /// `sys`, or a tar of one (plain, .gz, .xz or .zst)
    #[arg(long, global = true, value_name = "DIR|TAR")]
    pub root: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: NumaCommand,
}

/// `purlin numa …`
#[derive(Debug, Subcommand)]
pub enum NumaCommand {
    /// Show what each NUMA node has, who has what of it, and how far it is
    #[command(after_help = "\
Examples:
  purlin numa map                        where is there a GPU beside a NIC?
  purlin numa map --svg map.svg          who has which CPU, as a picture
  purlin numa map --root box.tar.gz      on a machine that sent its dump")]
    Map {
        /// Write a picture of it to FILE instead; `-` is standard output
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Tell where a workload would go now, and why
    ///
    /// It is asked beside all that runs here; with --root or --empty, on the empty machine.
    ///
    /// The file says what it asks for. All of it may be left out:
    ///
    ///   exclusive_cpus = 4          CPUs for itself alone
    ///   full_cores = true           whole cores, and nobody on their other threads
    ///   shared_millicpus = 500      or a part of what all share
    ///   memory_mib = 2048
    ///   hugepages_mib = { "2M" = 512 }
    ///   devices = { gpu = 1, nic = 1 }
    ///   near = "switch"             its devices: below a switch, root or node
    ///   policy = "optimal"          or none, best-effort, restricted, single-numa-node
    ///   far_memory = true           memory may be on a node without CPUs
    ///
    /// Exits 2 if there is no place for it, and says what is short where.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  purlin numa what-if app.toml
  echo 'exclusive_cpus = 4' | purlin numa what-if - --root box.tar.gz"
    )]
    WhatIf {
        /// The workload; `-` is standard input
        file: PathBuf,
        /// As if nothing else ran on this machine
        #[arg(long)]
        empty: bool,
        /// How it is written.
        #[command(flatten)]
        written: Written,
    },
    /// Tell where a container is and why, or list all that are known
    ///
    /// Without a running agent it reads the state directory.
    #[command(after_help = "\
Examples:
  purlin numa explain                    who is where?
  purlin numa explain shop/db-0/postgres why is it there?
  purlin numa explain 3f9a               by the beginning of its id")]
    Explain {
        /// Its name, its pod's, NAMESPACE/POD/NAME, or the beginning of its id
        workload: Option<String>,
    },
    /// Tell which containers would have to move so that a workload fits
    ///
    /// The file is that of what-if. Nothing is moved unless --apply is given; memory
    /// follows a container to its new node while it runs.
    #[command(after_help = "\
Examples:
  purlin numa repack app.toml            would moving others make room?
  purlin numa repack app.toml --budget-mib 4096 --apply")]
    Repack {
        /// The workload; `-` is standard input
        file: PathBuf,
        /// Memory that may have to follow, in MiB
        #[arg(long, default_value_t = 1024, value_name = "MIB")]
        budget_mib: u64,
        /// Move them
        #[arg(long)]
        apply: bool,
        /// How it is written.
        #[command(flatten)]
        written: Written,
    },
    /// Give every container's cpuset back, until `resume`
    ///
    /// All of them may then run on every CPU. It outlives a restart of the agent.
    #[command(after_help = "\
Examples:
  purlin numa pause                      is it the pinning?")]
    Pause,
    /// Take every container's cpuset again
    #[command(after_help = "\
Examples:
  purlin numa resume")]
    Resume,
}

/// `purlin node …`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Get this node a certificate, over the broker or by files that are carried
    ///
    /// The key is made here and never leaves. The agent takes the certificate up at its
    /// next attempt to connect, without a restart, where its file names no other
    /// (uplink.client_certificate), and asks for the next one by itself when half to two
    /// thirds of its time are over. By files it is renewed as it was got: the old one stays
    /// in use until the new one is accepted. `purlin status` tells when a third of its time
    /// is left.
    ///
    /// With --token-file it asks at the broker, at enrol.endpoint or uplink.endpoint of the
    /// agent's file. The agent does so by itself where its file names the token
    /// (enrol.token_file).
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "\
Examples:
  purlin node enrol --token-file n1.token
  purlin node enrol request n1.csr       by files; then: purlin fleet certify"
    )]
    Enrol {
        /// By files.
        #[command(subcommand)]
        command: Option<EnrolCommand>,
        /// File of a one-time token of `purlin fleet token make`; - for standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Let the node be on this machine, where its state was made on another one
    ///
    /// A node whose state wakes up on another board or on other disks runs on as it last did,
    /// and says so (`identity-moved`). Say this where the board or the disk was replaced, or
    /// the disks moved, and the old machine is out of service. Where it still runs, this is a
    /// copy: `purlin node reset --all`, and a machine id of its own.
    #[command(after_help = "\
Examples:
  purlin node accept                     the board was replaced")]
    Accept,
    /// Empty the state directory; the agent must be stopped
    ///
    /// Before a node goes elsewhere, or where two have one identity because a disk or an
    /// image was copied with its state. The agent's own file and the certificates that it
    /// names are not touched, nor is the mesh's directory. The numbers of records begin
    /// anew under another incarnation, so that the core takes none for an old one.
    #[command(after_help = "\
Examples:
  systemctl stop purlind && purlin node reset --keep-identity
  purlin node reset --all --yes          a copy becomes a node of its own")]
    Reset {
        /// What.
        #[command(flatten)]
        what: ResetWhat,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

/// `purlin node enrol …`
#[derive(Debug, Subcommand)]
pub enum EnrolCommand {
    /// Write a request for a certificate
    #[command(after_help = "\
Examples:
  purlin node enrol request n1.csr       then: purlin fleet certify")]
    Request {
        /// Where to
        out: PathBuf,
    },
    /// Take the certificate, with those that vouch for it behind it
    #[command(after_help = "\
Examples:
  purlin node enrol accept n1.pem")]
    Accept {
        /// PEM
        certificate: PathBuf,
    },
}

/// One of both.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ResetWhat {
    /// Keep the node's id, the keys that it believes, how far their documents have come, and
    /// the audit log
    #[arg(long)]
    pub keep_identity: bool,
    /// Keep nothing
    #[arg(long)]
    pub all: bool,
}

/// `purlin audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what was done, the newest last
    ///
    /// Without a running agent it reads the state directory.
    #[command(after_help = "\
Examples:
  purlin audit list                      the last actions
  purlin audit list -n 1000 -o json      all of them, for a program")]
    List {
        /// So many at most, the newest
        #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
        count: usize,
    },
    /// Verify that no line was changed, removed or cut off
    ///
    /// The running agent knows where its log ends. Whoever can write the node's disk can
    /// make a whole new log all the same, so give what the node has reported to the core
    /// (`purlin fleet status -o json`), or what an earlier `verify` printed. Exits 2 if the
    /// log is not what was written.
    #[command(after_help = "\
Examples:
  purlin audit verify                    is it whole?
  purlin audit verify --anchor 412:9f2c… does it go on from what was told?")]
    Verify {
        /// Number and SHA-256 of a line that was told before
        #[arg(long, value_name = "NUMBER:SHA256", value_parser = anchor)]
        anchor: Vec<AuditHead>,
    },
}

fn anchor(text: &str) -> Result<AuditHead, String> {
    let wrong = || "is not NUMBER:SHA256, as purlin audit verify prints it".to_owned();
    let (number, sha256) = text.split_once(':').ok_or_else(wrong)?;
    let is_sha256 = <[u8; 32]>::from_hex(sha256).is_ok();
    let number = number.parse().ok().filter(|_| is_sha256).ok_or_else(wrong)?;
    Ok(AuditHead { number, sha256: sha256.to_ascii_lowercase() })
}

/// `purlin alarm …`
#[derive(Debug, Subcommand)]
pub enum AlarmCommand {
    /// List the alarms that are raised, each with what to do
    ///
    /// Exits 2 if there is one that nobody silenced. Without a running agent it reads the
    /// state directory.
    #[command(after_help = "\
Examples:
  purlin alarm list                      what is wrong?
  purlin alarm list -w                   keep looking")]
    List(Watch),
    /// List those that were cleared, the newest first
    ///
    /// With --since everything that happened to alarms, raised, acknowledged and cleared,
    /// from the node's own history.
    #[command(after_help = "\
Examples:
  purlin alarm history                   what was wrong last night?
  purlin alarm history --since 6h        in which order did it come?")]
    History {
        /// How far back: 90s, 30min, 6h, at most 24h
        #[arg(long, value_name = "TIME", value_parser = since)]
        since: Option<Duration>,
    },
    /// Say that you know of one
    ///
    /// A latched alarm whose cause is gone is cleared by it.
    #[command(after_help = "\
Examples:
  purlin alarm ack high.shelf.psu1.inlet_temperature --reason 'fan ordered'")]
    Ack {
        /// Its id, as `purlin alarm list` has it
        id: String,
        /// Why, for whoever reads it later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Hear no more of one for a while
    ///
    /// It is still raised and listed, but posted to no webhook, and `alarm list` does not
    /// exit 2 for it. Without a running agent nothing can be silenced.
    #[command(after_help = "\
Examples:
  purlin alarm silence fault.hardware-drift --for 2h --reason 'swapping disks'")]
    Silence {
        /// Its id, as `purlin alarm list` has it
        id: String,
        /// For how long, up to 30 days
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Duration,
        /// Why, for whoever reads it later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Clear one whose reading will not come again
    ///
    /// What was taken out tells nothing any more, and its alarm would stay.
    #[command(after_help = "\
Examples:
  purlin alarm clear high.shelf.psu6.inlet_temperature --reason 'PSU 6 removed'")]
    Clear {
        /// Its id, as `purlin alarm list` has it
        id: String,
        /// Why, for whoever reads it later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// `purlin rack …`
#[derive(Debug, Subcommand)]
pub enum RackCommand {
    /// Show each reading of each device, and how far it may be believed
    ///
    /// The BMC's sensors, parts and latest log entries come last.     /// Exits 2 if a bus is not open, a device silent, or a reading anything but good.
    #[command(after_help = "\
Examples:
  purlin rack show                       what does the rack say?
  purlin rack show -w                    keep looking
  purlin rack show -o json | jq .buses   for a program")]
    Show(Watch),
    /// Let the chassis be found: the BMC lets its light blink
    #[command(after_help = "\
Examples:
  purlin rack identify                   for 60 seconds
  purlin rack identify 0                 no more")]
    Identify {
        /// For so many seconds, 0 to 255
        #[arg(default_value_t = 60, value_name = "SECONDS")]
        seconds: u8,
    },
}

/// `purlin power …`
#[derive(Debug, Subcommand)]
pub enum PowerCommand {
    /// Show the stages, which of them are in force, and what for
    ///
    /// Exits 2 while one is in force, or something of it could not be done.
    #[command(after_help = "\
Examples:
  purlin power show                      where does it stand?
  purlin power show -w                   keep looking")]
    Show(Watch),
}

/// `purlin driver …`
#[derive(Debug, Subcommand)]
pub enum DriverCommand {
    /// List the register maps that there are
    #[command(after_help = "\
Examples:
  purlin driver list                     what can be configured?")]
    List,
    /// Check a register map in a file of your own
    ///
    /// Prints every reason why it is none (exit 3), or what it would read, and by which
    /// requests.
    #[command(after_help = "\
Examples:
  purlin driver check sensor.toml        is it a map?")]
    Check {
        /// The map, in TOML
        file: PathBuf,
    },
    /// Begin a register map: prints one with a comment to every key, for you to change
    #[command(after_help = "\
Examples:
  purlin driver new my-sensor > my-sensor.toml
  purlin driver check my-sensor.toml")]
    New {
        /// What the map will be called
        name: String,
    },
    /// Print the JSON Schema of register maps, for an editor that completes and checks them
    ///
    /// It tells what may stand where; `check` tells whether a map is good as a whole.
    #[command(after_help = "\
Examples:
  purlin driver schema > map.schema.json
  #:schema ./map.schema.json             first line of a map (taplo)")]
    Schema,
    /// Try a map of your own on one device: each register by itself, with the words it said
    ///
    /// Nothing is installed, and the agent needs not run. A register that is refused does
    /// not hide the others. Exits 2 if anything is not good.
    #[command(after_help = "\
Examples:
  purlin driver try my-sensor.toml --port /dev/ttyUSB0 --address 1
  purlin driver try my-sensor.toml --port tcp://10.0.0.7:502 --address 1 -o json")]
    Try {
        /// The map, in TOML
        file: PathBuf,
        /// The device's address
        #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=247))]
        address: u8,
        /// Where it is.
        #[command(flatten)]
        at: At,
    },
    /// Find out what a device is: asks it by every map, and tells which fit
    ///
    /// A map fits if all that it has is read, and can be. Where two fit, look-alikes that
    /// count differently, both are shown with what they read, for you to compare. Exits 2
    /// unless just one fits.
    #[command(after_help = "\
Examples:
  purlin driver probe --port /dev/ttyUSB0 --address 1
  purlin driver probe xy-md02 md02-holding --port /dev/ttyUSB0 --address 1")]
    Probe {
        /// Maps' names, or files [default: every map that has the address]
        maps: Vec<String>,
        /// The device's address
        #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=247))]
        address: u8,
        /// Where it is.
        #[command(flatten)]
        at: At,
    },
    /// Read all of one device, once
    ///
    /// Exits 2 if a reading is anything but good.
    #[command(after_help = "\
Examples:
  purlin driver poll orv3-psu --port /dev/ttyUSB0 --address 200
  purlin driver poll ./sensor.toml --port /dev/ttyUSB0 --address 1 --form 8E1
  purlin driver poll apc-smart-ups --port tcp://10.0.0.7:502 --address 1")]
    Poll {
        /// A map's name, or a file with one
        map: String,
        /// The device's address
        #[arg(long, value_name = "N", value_parser = value_parser!(u8).range(1..=247))]
        address: u8,
        /// Where it is.
        #[command(flatten)]
        at: At,
    },
    /// Ask every address which a map names, and tell who answers as the map has it
    #[command(after_help = "\
Examples:
  purlin driver scan orv3-psu --port /dev/ttyUSB0
  purlin driver scan xy-md02 --port /dev/ttyUSB0 --baud 19200")]
    Scan {
        /// A map's name, or a file with one
        map: String,
        /// Where to look.
        #[command(flatten)]
        at: At,
    },
}

/// A bus, for a command that opens it itself.
#[derive(Clone, Debug, Args)]
pub struct At {
    /// A serial port, or tcp://HOST:PORT of a gateway
    #[arg(long, value_name = "PORT")]
    pub port: String,
    /// Bits a second [default: as the map says]
    #[arg(long, value_name = "BAUD")]
    pub baud: Option<u32>,
    /// Data bits, parity, stop bits [default: as the map says]
    #[arg(long, value_name = "8E1")]
    pub form: Option<String>,
}

/// `purlin queue …`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Show each class of records: how many wait, how much disk they take, what was lost
    ///
    /// FULL IN is when the log reaches its cap at today's rate if nothing is sent, and what
    /// is downsampled is thinned from then on; DROPS IN is when the first record goes.
    /// Without a running agent it reads the state directory.
    #[command(after_help = "\
Examples:
  purlin queue show                      does anything wait?
  purlin queue show -w                   is it getting less?")]
    Show(Watch),
    /// Show what the records say that wait, oldest first
    ///
    /// Without a running agent it reads the state directory, and no agent starts on it
    /// meanwhile.
    #[command(after_help = "\
Examples:
  purlin queue peek                      what waits, of each class?
  purlin queue peek --class metric -n 1 --values
  purlin queue peek --class event --newest -o json | jq -r '.records[].text'")]
    Peek(PeekArgs),
    /// Write everything that waits into a file, for a node that can reach the core
    ///
    /// For the technician with a USB stick; works with the agent dead too. Nothing is
    /// removed from this node, and should it reach the core after all, the core knows
    /// each record by its number. The file is there once it is whole and synced. Whoever
    /// has it can read it, also where the spool itself is sealed.
    #[command(after_help = "\
Examples:
  purlin queue export /media/stick/edge-07.purlin
  purlin queue import /media/stick/edge-07.purlin     on the other node")]
    Export {
        /// Where to; it must not exist yet
        file: PathBuf,
    },
    /// Hand another node's export to this node's agent, which sends it on
    ///
    /// Everything of the file is checked first. What was imported before is left out,
    /// so that it may be done again. It waits in class relay and is published under
    /// this node's relay/ topics, with the identity that it came with.
    #[command(after_help = "\
Examples:
  purlin queue import edge-07.purlin
  purlin queue import --partial edge-07.purlin   what is whole of a damaged one")]
    Import {
        /// A file of `purlin queue export`
        file: PathBuf,
        /// Take what is whole of a damaged file, up to the damage
        #[arg(long)]
        partial: bool,
    },
    /// Remove everything that waits of one class, for good
    ///
    /// It asks first. The core is told which numbers are gone, and that a person did it.
    #[command(after_help = "\
Examples:
  purlin queue purge --class log         asks
  purlin queue purge --class log --yes   doesn't")]
    Purge {
        /// The class: alarm, event, metric, log or relay
        #[arg(long, value_parser = class)]
        class: Class,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

/// `purlin metrics …`
#[derive(Debug, Subcommand)]
pub enum MetricsCommand {
    /// List the names of what is measured
    #[command(after_help = "\
Examples:
  purlin metrics list                    what can be shown?")]
    List,
    /// Plot one series, or a line for each of several
    ///
    /// Counters are shown as rates a second. As JSON every minute's value is told.
    #[command(after_help = "\
Examples:
  purlin metrics show system.cpu.load_average.1m --since 6h
  purlin metrics show system.network --since 30min
  purlin metrics show hw.temperature -o json | jq '.series[].points[-1]'")]
    Show {
        /// Its name, or how several begin
        #[arg(value_parser = metric_name)]
        name: String,
        /// How far back: 90s, 30min, 6h, at most 24h
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = since)]
        since: Duration,
    },
}

fn metric_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match !name.is_empty() && name.chars().all(plain) {
        true => Ok(name.to_owned()),
        false => Err("letters, digits, '.', '_' and '-'".into()),
    }
}

fn since(text: &str) -> Result<Duration, String> {
    let since = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let day = Duration::from_secs(24 * 3600);
    match (Duration::from_secs(60)..=day).contains(&since) {
        true => Ok(since),
        false => Err("1min to 24h: that is what is kept".into()),
    }
}

/// `purlin queue peek`
#[derive(Debug, Args)]
pub struct PeekArgs {
    /// Of this class alone: alarm, event, metric or log
    #[arg(long, value_parser = own_class)]
    pub class: Option<Class>,
    /// Begin at this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "newest")]
    pub from: Option<u64>,
    /// So many of each class
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub count: usize,
    /// The newest instead of the oldest
    #[arg(long)]
    pub newest: bool,
    /// Each value of a sample in a line of its own
    #[arg(long)]
    pub values: bool,
}

fn class(name: &str) -> Result<Class, String> {
    class_of(&Class::ALL, name)
}

fn own_class(name: &str) -> Result<Class, String> {
    class_of(&Class::OWN, name)
}

fn class_of(all: &[Class], name: &str) -> Result<Class, String> {
    all.iter().copied().find(|it| it.name() == name).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|it| it.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

/// `purlin link …`
#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Show where the uplink stands
    #[command(after_help = "\
Examples:
  purlin link show                       is it up, and if not, why?
  purlin link show -w=1                  watch it come back")]
    Show(Watch),
    /// Try the way to the broker, step by step
    ///
    /// The agent makes one attempt and tells what came of each step, and what to do about
    /// the one that failed. Exits 1 if one did.
    #[command(after_help = "\
Examples:
  purlin link test                       which step fails?")]
    Test,
}

/// `purlin config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every setting in force, where its value came from, and the trial under way
    ///
    /// Without a running agent it reads the state directory.
    #[command(after_help = "\
Examples:
  purlin config show                     what applies, and who said so?
  purlin config show --gen 3             the document of generation 3")]
    Show {
        /// Show the document of this generation instead
        #[arg(long = "gen", value_name = "N")]
        generation: Option<u64>,
    },
    /// Show what a document would change, and what that disturbs; nothing is applied
    ///
    /// It is checked as a whole, also against the hardware of this node, as it would be
    /// if it were tried. A part whose settings change is disturbed in nothing; or it
    /// reloads, so that connections or tables are made anew; or what was kept is lost; or
    /// workloads move. What exactly stands below. While there is a session with the core,
    /// any change makes it anew, to prove that the node can still be reached.
    #[command(after_help = "\
Examples:
  purlin config plan new.toml            what would it do?")]
    Plan {
        /// The document; `-` is standard input
        file: PathBuf,
        /// What it is written in.
        #[command(flatten)]
        written: Written,
    },
    /// Put a document in force on trial: undone by itself unless you confirm it in time
    ///
    /// For work on what may cut you off. Nothing that was not confirmed survives: not
    /// the time, not a restart of the agent, not a power cut. A document that failed its
    /// trial is not tried again unless you insist.
    #[command(after_help = "\
Examples:
  purlin config try new.toml --for 10m   then look around, and:
  purlin config confirm                  keep it
  purlin config revert                   or undo it now")]
    Try {
        /// The document; `-` is standard input
        file: PathBuf,
        /// What it is written in.
        #[command(flatten)]
        written: Written,
        /// How long it may take to confirm it, 5s to 1day
        #[arg(long = "for", value_name = "TIME", default_value = "5m",
              value_parser = humantime::parse_duration)]
        timeout: Duration,
        /// How.
        #[command(flatten)]
        manner: Manner,
    },
    /// Put a document in force, and keep it once all is well
    ///
    /// As `try`, and confirmed by this very command when every part of the agent runs on
    /// it and the uplink is back. If that takes over a minute, or if this command does
    /// not live to see it, all is undone.
    #[command(after_help = "\
Examples:
  purlin config plan new.toml && purlin config apply new.toml
  purlin config apply - --format json < new.json
  purlin config apply hot.toml --override 2h --reason 'a fan is being replaced'")]
    Apply {
        /// The document; `-` is standard input
        file: PathBuf,
        /// What it is written in.
        #[command(flatten)]
        written: Written,
        /// How.
        #[command(flatten)]
        manner: Manner,
    },
    /// Keep the document on trial
    #[command(after_help = "\
Examples:
  purlin config confirm                  I can still reach it: keep it")]
    Confirm {
        /// Even though not all is well
        #[arg(long)]
        anyway: bool,
    },
    /// Undo the document on trial now
    ///
    /// Without a trial, an earlier document is put back as any other is put in force:
    /// `purlin config export --gen N > earlier.toml`, then `apply` it.
    #[command(after_help = "\
Examples:
  purlin config revert                   this was not it")]
    Revert,
    /// Show what the document in force changed
    #[command(after_help = "\
Examples:
  purlin config diff                     in force, against the one before")]
    Diff,
    /// Show what became of the documents this node was offered, newest first
    ///
    /// Without a running agent it reads the state directory.
    #[command(after_help = "\
Examples:
  purlin config history                  who changed what, and what was refused?")]
    History,
    /// Print a document that is or was in force, as TOML (or with -o: YAML, JSON)
    ///
    /// What it prints can be tried or applied as it is. Without a running agent it reads
    /// the state directory.
    #[command(after_help = "\
Examples:
  purlin config export > now.toml
  purlin config export --gen 3 -o yaml   how was it two changes ago?")]
    Export {
        /// Of this generation [default: the one in force]
        #[arg(long = "gen", value_name = "N")]
        generation: Option<u64>,
    },
    /// Print the JSON Schema of documents, for an editor that completes and checks them
    ///
    /// Every field with what it is, its limits and its default.
    #[command(after_help = "\
Examples:
  purlin config schema > desired.schema.json
  #:schema ./desired.schema.json         first line of a TOML document (taplo)")]
    Schema,
    /// Print the agent's own file, with every key, its default and what it is for
    #[command(after_help = "\
Examples:
  purlin config default > purlin.toml")]
    Default,
}

/// `purlin mesh drain` and `purlin mesh break`
#[derive(Debug, Args)]
pub struct SetAsideArgs {
    /// An endpoint or a service as `purlin mesh endpoints` has it, or a route
    pub name: String,
    /// Take it back
    #[arg(long)]
    pub undo: bool,
}

/// `purlin mesh offer`
#[derive(Debug, Args)]
pub struct OfferArgs {
    /// The service's name, as the document has it
    pub service: String,
    /// IP:PORT on this node
    pub address: String,
    /// Share of the requests relative to the other endpoints' 100
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub weight: Option<u32>,
    /// Take it back
    #[arg(long)]
    pub undo: bool,
}

/// `purlin mesh ca …`
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make the root of a rack, in a directory
    #[command(after_help = "\
Examples:
  purlin mesh ca make rack7 keys         keep `keys` where no node can read it")]
    Make {
        /// The rack's id: lower-case letters, digits, '-', '_' and '.'
        rack: String,
        /// Where to; made if it isn't there
        dir: PathBuf,
    },
    /// Make what a node needs: copy it to `identity` in its mesh's directory
    #[command(after_help = "\
Examples:
  purlin mesh ca node keys n1 --issuer   two nodes of a rack have an issuer
  purlin mesh ca node keys n3
  install -o purlin-mesh -m 600 -Dt /var/lib/purlin-mesh/identity keys/n3/*")]
    Node {
        /// The directory of `make`
        dir: PathBuf,
        /// The node's id
        node: String,
        /// With an issuer, which renews the certificates of others
        #[arg(long)]
        issuer: bool,
        /// Days that its certificate is good, and each that follows
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=90))]
        days: u64,
    },
    /// Take a node out of the rack, with all that its issuer vouches for
    ///
    /// Adds it to the list in the directory. The list has to come to one node of the rack,
    /// which hands it to the others. What the node is given afterwards is good again.
    #[command(after_help = "\
Examples:
  purlin mesh ca revoke keys n3
  install -o purlin-mesh -m 600 keys/revoked /var/lib/purlin-mesh/identity/")]
    Revoke {
        /// The directory of `make`
        dir: PathBuf,
        /// The node's id
        node: String,
    },
}

/// `purlin fleet …`
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Make the keys of a fleet, in a directory
    ///
    /// Root keys, of which several together sign which other keys count, and a key each
    /// for documents, commands, reboots and technicians. Every node is given the key set.
    #[command(after_help = "\
Examples:
  purlin fleet keygen keys --fleet site7             2 of 3 roots
  purlin fleet keygen keys --roots 1 --threshold 1   to try it out")]
    Keygen(KeygenArgs),
    /// Make the authority that vouches for nodes to the broker, in a directory
    #[command(after_help = "\
Examples:
  purlin fleet authority ca --fleet site7")]
    Authority(AuthorityArgs),
    /// Make a certificate out of a node's request
    ///
    /// Of the request only the node's id and its key count. The broker lets in whoever
    /// has a certificate of the authority: look that the request is from that node.
    #[command(after_help = "\
Examples:
  purlin fleet certify n1.csr n1.pem --authority ca --node n1 --for 90days")]
    Certify(CertifyArgs),
    /// Hand out one-time tokens, each of which lets a node ask for its first certificate
    ///
    /// A token is a secret: who has it gets a certificate for the node that it names, once.
    /// Bring it to the node as a file or a credential of systemd's (enrol.token_file), or
    /// type `purlin node enrol` there. Requests are answered by `purlin fleet enrol`.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Answer what nodes ask for over the broker, until it is told to end
    ///
    /// A node gets its first certificate by a token, and each next one by the key of the one
    /// before, with nobody's help. What is made and what is refused, and why, is told in a
    /// line each. A node whose id stands in the file `denied` of the authority's directory
    /// gets none any more. docs/broker.md has the broker's side.
    #[command(after_help = "\
Examples:
  purlin fleet enrol --authority ca --broker mqtts://core --ca core.pem
  purlin fleet enrol --authority ca --broker mqtt://core --for 90days -o json")]
    Enrol(Box<ServeArgs>),
    /// Replace the keys that sign: what was signed with the old ones is refused
    ///
    /// Enough root keys must be in the directory. The new key set goes along with the
    /// next document that is pushed. A new epoch lets versions start anew.
    #[command(after_help = "\
Examples:
  purlin fleet rotate keys               a key was lost
  purlin fleet rotate keys --step-epoch  the cloud was rebuilt: count anew")]
    Rotate(RotateArgs),
    /// Sign a document, for whoever publishes it
    #[command(after_help = "\
Examples:
  purlin fleet sign night.toml --keys keys --node 'edge-*' night.cose")]
    Sign(SignArgs),
    /// Give a document to nodes, and wait for what becomes of it on each
    ///
    /// It is published retained for one node after the other, first to a few canaries,
    /// and to no further node once too many have refused or reverted it. Exits 1 unless
    /// all of them have confirmed it.
    #[command(after_help = "\
Examples:
  purlin fleet push new.toml --nodes 'edge-*' --keys keys --broker mqtts://core
  purlin fleet push new.toml --nodes n1,n2 --canary 0 --broker mqtt://core")]
    Push(Box<PushArgs>),
    /// Have nodes do something once, and wait for what comes of it on each
    ///
    /// It is signed for each node, published, and carried out once: what comes again is
    /// answered with what came of it the first time, also after a crash. Every command
    /// has a result. Nodes take commands only if they were given the fleet's keys
    /// (trust.keys), and a reboot only by the key of role reboot. Exits 1 unless all of
    /// them are done, 2 if doctor found faults.
    ///
    /// restart TASK     end one of the agent's tasks and start it anew (`purlin status`)
    /// drain            wait until the core has all that waits on the node
    /// doctor           tell everything that is wrong
    /// support-bundle   status, configuration, inventory, log and audit log, into the
    ///                  node's spool; with --save also into DIR here
    /// identify NIC     make a port's light blink; without NIC that of the chassis
    /// reboot           restart the machine, and say so when it is up again
    #[command(
        verbatim_doc_comment,
        after_help = "\
Examples:
  purlin fleet command n1 restart inventory --keys keys --broker mqtts://core
  purlin fleet command 'edge-*' doctor --keys keys --broker mqtts://core -o json
  purlin fleet command n1 identify eth2 --keys keys --broker mqtts://core
  purlin fleet command n1 support-bundle --save . --keys k --broker mqtts://core"
    )]
    Command(Box<CommandArgs>),
    /// Show what each node of a fleet runs on
    #[command(after_help = "\
Examples:
  purlin fleet status --broker mqtts://core.example --fleet site7")]
    Status(FleetStatusArgs),
    /// Go on showing what each node of a fleet runs on
    #[command(after_help = "\
Examples:
  purlin fleet watch --broker mqtts://core.example --nodes 'edge-*'")]
    Watch(FleetStatusArgs),
    /// Take what nodes measured off the broker, and hand it on to what you already run
    ///
    /// It decodes batches, drops what comes a second time, keeps the order of each node,
    /// marks what is missing, and acknowledges to the broker only what the far side has
    /// taken. When the far side is away, the broker queues and nothing is lost. It runs
    /// until it is told to stop (SIGTERM), and goes on where it was: give each copy a
    /// name and a state directory of its own. docs/fleet.md has partitions and standbys.
    #[command(after_help = "\
Examples:
  purlin fleet collect --broker mqtts://core --state /var/lib/collect \\
      --to otlp=http://127.0.0.1:4318
  purlin fleet collect --broker mqtt://core --fleet site7 --state s \\
      --to 'influx=http://db:8086/api/v2/write?org=o&bucket=b'
  purlin fleet collect --broker mqtt://core --partition 1/2 --state s \\
      --to jsonl=/srv/purlin")]
    Collect(Box<CollectArgs>),
}

/// `purlin fleet authority`
#[derive(Debug, Args)]
pub struct AuthorityArgs {
    /// Where to; made if it isn't there
    pub dir: PathBuf,
    /// The fleet
    #[arg(long, default_value = "default")]
    pub fleet: String,
}

/// `purlin fleet certify`
#[derive(Debug, Args)]
pub struct CertifyArgs {
    /// What the node asked with
    pub request: PathBuf,
    /// Where the certificate goes
    pub out: PathBuf,
    /// The directory of `authority`
    #[arg(long, value_name = "DIR")]
    pub authority: PathBuf,
    /// Refuse the request of any other node
    #[arg(long, value_name = "ID", value_parser = level)]
    pub node: Option<String>,
    /// How long it holds
    #[arg(long = "for", value_name = "TIME", default_value = "365days",
          value_parser = humantime::parse_duration)]
    pub lasts: Duration,
}

/// `purlin fleet token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Hand one out; it is written to standard output, in one line
    #[command(after_help = "\
Examples:
  purlin fleet token make --authority ca --node n1 > n1.token
  purlin fleet token make --authority ca --node 'edge-*' --for 2h")]
    Make {
        /// The directory of `authority`
        #[arg(long, value_name = "DIR")]
        authority: PathBuf,
        /// Whom it is for: a node's id; or a prefix and a star, for one node that has never had
        /// a certificate
        #[arg(long, value_name = "ID")]
        node: String,
        /// How long it can be used
        #[arg(long = "for", value_name = "TIME", default_value = "7days",
              value_parser = humantime::parse_duration)]
        lasts: Duration,
    },
    /// Show those that were handed out, and who used them
    #[command(after_help = "\
Examples:
  purlin fleet token list --authority ca")]
    List {
        /// The directory of `authority`
        #[arg(long, value_name = "DIR")]
        authority: PathBuf,
    },
    /// Take one back
    #[command(after_help = "\
Examples:
  purlin fleet token revoke --authority ca 0f1e2d3c4b5a6978")]
    Revoke {
        /// The directory of `authority`
        #[arg(long, value_name = "DIR")]
        authority: PathBuf,
        /// The token, as `list` shows it
        id: String,
    },
}

/// `purlin fleet enrol`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The broker.
    #[command(flatten)]
    pub login: Login,
    /// The directory of `authority`
    #[arg(long, value_name = "DIR")]
    pub authority: PathBuf,
    /// How long a certificate holds
    #[arg(long = "for", value_name = "TIME", default_value = "365days",
          value_parser = humantime::parse_duration)]
    pub lasts: Duration,
}

/// `purlin fleet keygen`
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// Where to; made if it isn't there
    pub dir: PathBuf,
    /// The fleet
    #[arg(long, default_value = "default")]
    pub fleet: String,
    /// Root keys, at most 16
    #[arg(long, value_name = "N", default_value = "3", value_parser = count(1, 16))]
    pub roots: usize,
    /// So many of them must sign a key set
    #[arg(long, value_name = "K", default_value = "2", value_parser = count(1, 16))]
    pub threshold: usize,
}

/// `purlin fleet rotate`
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The directory of `keygen`
    pub dir: PathBuf,
    /// Start a new epoch: versions count anew
    #[arg(long)]
    pub step_epoch: bool,
    /// Replace the root keys too
    #[arg(long)]
    pub roots: bool,
}

/// What a signature says.
#[derive(Debug, Args)]
pub struct Signing {
    /// Number of the document, over the one before [default: its own, else the time]
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// Nodes refuse it after so long
    #[arg(long, value_name = "TIME", default_value = "30days",
          value_parser = humantime::parse_duration)]
    pub expires: Duration,
    /// Only on nodes that report this SHA-256 of their active document
    #[arg(long, value_name = "HEX", value_parser = hex)]
    pub base: Option<Sha256>,
}

/// `purlin fleet sign`
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The document; `-` is standard input
    pub file: PathBuf,
    /// Where to
    pub out: PathBuf,
    /// The directory of `keygen`
    #[arg(long, value_name = "DIR")]
    pub keys: PathBuf,
    /// A node id, a prefix and a star (edge-*), or * for all
    #[arg(long, value_name = "NODES")]
    pub node: String,
    /// What it is written in.
    #[command(flatten)]
    pub written: Written,
    /// What is signed.
    #[command(flatten)]
    pub signing: Signing,
}

/// `purlin fleet push`
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The document; `-` is standard input
    pub file: PathBuf,
    /// Node ids, prefixes with a star (edge-*), or * for every node that has reported
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true)]
    pub nodes: Vec<String>,
    /// Sign it, with the keys in this directory of `keygen`
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// So many nodes first, and the others only if all of them confirm it
    #[arg(long, value_name = "N", default_value = "1", value_parser = count(0, 100_000))]
    pub canary: usize,
    /// Stop once so many of the others have failed
    #[arg(long, value_name = "N", default_value = "3", value_parser = count(1, 100_000))]
    pub max_failures: usize,
    /// How long each node may take
    #[arg(long, value_name = "TIME", default_value = "10m",
          value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// What it is written in.
    #[command(flatten)]
    pub written: Written,
    /// What is signed.
    #[command(flatten)]
    pub signing: Signing,
    /// The broker.
    #[command(flatten)]
    pub at: Broker,
}

/// What `purlin fleet command` has nodes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the command's own help says it")]
pub enum Order {
    Restart,
    Drain,
    Doctor,
    SupportBundle,
    Identify,
    Reboot,
}

/// `purlin fleet command`
#[derive(Debug, Args)]
pub struct CommandArgs {
    /// Node ids, prefixes with a star (edge-*), or * for every node that has reported
    #[arg(value_parser = selectors)]
    pub nodes: Selectors,
    /// What they do
    #[arg(value_name = "WHAT", hide_possible_values = true)]
    pub order: Order,
    /// The task to restart, or the NIC whose light blinks
    #[arg(value_name = "TASK|NIC")]
    pub of: Option<String>,
    /// Sign it, with the keys in this directory of `keygen`
    #[arg(long, value_name = "DIR")]
    pub keys: PathBuf,
    /// Nodes refuse it after so long, at most a day
    #[arg(long, value_name = "TIME", default_value = "10m",
          value_parser = humantime::parse_duration)]
    pub expires: Duration,
    /// How long each node may take
    #[arg(long, value_name = "TIME", default_value = "2m",
          value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// How long the light blinks, at most 5m
    #[arg(long = "for", value_name = "TIME", default_value = "30s",
          value_parser = humantime::parse_duration)]
    pub blinks: Duration,
    /// Write support bundles to this directory, as NODE.tar.gz
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// The broker.
    #[command(flatten)]
    pub at: Broker,
}

/// `purlin fleet status`
#[derive(Debug, Args)]
pub struct FleetStatusArgs {
    /// Node ids, prefixes with a star (edge-*), or *
    #[arg(long, value_name = "NODES", value_delimiter = ',', default_value = "*")]
    pub nodes: Vec<String>,
    /// The broker.
    #[command(flatten)]
    pub at: Broker,
}

/// `purlin fleet collect`
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// The broker.
    #[command(flatten)]
    pub login: Login,
    /// Where to: otlp=http://HOST:PORT, influx=http://HOST:PORT/PATH?QUERY (the whole
    /// write URL, precision ns) or jsonl=DIR
    #[arg(long, value_name = "KIND=WHERE")]
    pub to: Destination,
    /// Directory that keeps what was seen, the dictionaries, and what was set aside
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// File of a token that the far side asks for, read at the start
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A fleet; several times for several [default: all of them]
    #[arg(long, value_name = "FLEET", value_parser = level)]
    pub fleet: Vec<String>,
    /// A node; several times for several. The broker sends no others [default: all]
    #[arg(long, value_name = "NODE", value_parser = level)]
    pub node: Vec<String>,
    /// The K-th of N parts of the nodes, by the hash of their id. Each copy is sent
    /// everything and keeps its part
    #[arg(long, value_name = "K/N", default_value = "1/1")]
    pub partition: Partition,
    /// Share the messages with other copies of this name (a shared subscription): any of
    /// them may get any message, so no order is kept and no holes are looked for
    #[arg(long, value_name = "NAME", value_parser = level)]
    pub share: Option<String>,
    /// Name of this copy: the broker's session is kept under it [default: from --partition]
    #[arg(long, value_name = "NAME", value_parser = level)]
    pub name: Option<String>,
    /// How long the broker queues for this copy while it is away
    #[arg(long, value_name = "TIME", default_value = "7d",
          value_parser = humantime::parse_duration)]
    pub session: Duration,
    /// Messages that the broker sends ahead of our acknowledgements
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = value_parser!(u16).range(1..=4096))]
    pub ahead: u16,
    /// A number that is missing for so long, while nothing of the past came, is a hole
    #[arg(long, value_name = "TIME", default_value = "15m",
          value_parser = humantime::parse_duration)]
    pub hole_after: Duration,
    /// How often to say how it goes
    #[arg(long, value_name = "TIME", default_value = "10s",
          value_parser = humantime::parse_duration)]
    pub every: Duration,
}

/// Where what was collected goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A receiver of OTLP over HTTP.
    Otlp(Webhook),
    /// InfluxDB's write API, or what speaks it.
    Influx(Webhook),
    /// A directory of JSON lines.
    Jsonl(PathBuf),
}

impl FromStr for Destination {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let url = |url: &str| {
            url.parse::<Webhook>().map_err(|it| format!("may be {}; {}", it.limit, it.hint))
        };
        match text.split_once('=') {
            Some(("otlp", to)) => Ok(Self::Otlp(url(to)?)),
            Some(("influx", to)) => Ok(Self::Influx(url(to)?)),
            Some(("jsonl", dir)) if !dir.is_empty() => Ok(Self::Jsonl(dir.into())),
            _ => Err("may be otlp=http://HOST:PORT, influx=http://HOST:PORT/api/v2/write?… or \
                      jsonl=DIR"
                .into()),
        }
    }
}

/// The K-th of N parts.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    /// From 1.
    pub part: u64,
    /// How many there are.
    pub of: u64,
}

impl FromStr for Partition {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(part, of)| Some(Self { part: part.parse().ok()?, of: of.parse().ok()? }));
        let possible = parsed.filter(|it| (1..=1024).contains(&it.of) && it.part >= 1);
        possible
            .filter(|it| it.part <= it.of)
            .ok_or_else(|| "may be K/N, N up to 1024 and K from 1 to N: 1/2 and 2/2".into())
    }
}

fn level(text: &str) -> Result<String, String> {
    match purlin_proto::topic::is_level(text) {
        true => Ok(text.into()),
        false => Err("may be 1 to 64 letters, digits, -, _ or .".into()),
    }
}

/// The fleet's broker, the fleet, and what it takes to be let in.
#[derive(Debug, Args)]
pub struct Broker {
    /// The broker.
    #[command(flatten)]
    pub login: Login,
    /// The fleet
    #[arg(long, default_value = "default")]
    pub fleet: String,
}

/// A broker, and what it takes to be let in.
#[derive(Debug, Args)]
pub struct Login {
    /// `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`
    #[arg(long, value_name = "URL", value_parser = endpoint)]
    pub broker: Endpoint,
    /// User name
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// File that holds the password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the certificate authorities that mqtts:// trusts
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// PEM file of our own certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

impl Login {
    /// Who we are to the broker; without a user name the client id stands for it.
    pub fn mqtt(&self, client_id: String) -> Mqtt {
        Mqtt {
            username: self.username.clone().unwrap_or_else(|| client_id.clone()),
            client_id,
            password_file: self.password_file.clone(),
            trust_anchors: self.ca.clone(),
            certificate: self.cert.clone(),
            enrolled: None,
            key: self.key.clone().map_or(Store::Own, Store::File),
            proxy: None,
            floor: Floor::default(),
            mesh: None,
        }
    }
}

fn count(least: u64, most: u64) -> impl TypedValueParser<Value = usize> {
    value_parser!(u64).range(least..=most).map(|n| n as usize)
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    text.parse().map_err(|why: Impossible| format!("may be {}; {}", why.limit, why.hint))
}

/// A digest. (clap takes a `Vec` for an option that is given several times.)
#[derive(Clone, Debug)]
pub struct Sha256(pub Vec<u8>);

fn hex(text: &str) -> Result<Sha256, String> {
    let sha256 = <[u8; 32]>::from_hex(text).map_err(|_| "64 hexadecimal digits")?;
    Ok(Sha256(sha256.into()))
}

/// Which nodes; the same as [`Sha256`] for clap.
#[derive(Clone, Debug)]
pub struct Selectors(pub Vec<String>);

fn selectors(text: &str) -> Result<Selectors, std::convert::Infallible> {
    Ok(Selectors(text.split(',').map(str::to_owned).collect()))
}

/// How a document is to be tried.
#[derive(Clone, Debug, Args)]
pub struct Manner {
    /// Even if it has failed its trial before
    #[arg(long)]
    pub force: bool,
    /// Hold it for so long over whatever the core wants, 1s to 30days; then the core's
    /// own document comes back by itself
    #[arg(long = "override", value_name = "TIME", requires = "reason",
          value_parser = humantime::parse_duration)]
    pub over: Option<Duration>,
    /// Why; the core is told
    #[arg(long, value_name = "TEXT", requires = "over")]
    pub reason: Option<String>,
}

/// How a document is written.
#[derive(Clone, Copy, Debug, Args)]
pub struct Written {
    /// What the document is written in [default: by its extension, TOML for `-`]
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    pub format: Option<Language>,
}

/// What a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// .toml
    Toml,
    /// .yaml, .yml
    Yaml,
    /// .json
    Json,
    /// .binpb, .pb
    Protobuf,
}

fn part() -> impl TypedValueParser<Value = Part> {
    let named = |name: String| Part::ALL.into_iter().find(|part| part.name() == name);
    PossibleValuesParser::new(Part::ALL.map(Part::name))
        .map(move |name| named(name).expect("clap lets only the names of parts through"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_examples_of_80_columns() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.lines().all(|line| line.len() <= 80), "{name}: {examples}");
            assert!(command.get_about().is_some(), "{name}");
            let leaf = !command.has_subcommands() && !command.is_hide_set();
            assert!(!leaf || examples.starts_with("Examples:"), "{name}: {examples}");
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn watch_takes_seconds_only_after_an_equals_sign() {
        let watch = |words: &[&str]| {
            let words = ["purlin", "log"].iter().chain(words);
            match Cli::try_parse_from(words).map(|cli| cli.command) {
                Ok(Command::Log(watch)) => Some(watch.every().map(|every| every.as_secs())),
                _ => None,
            }
        };
        assert_eq!(watch(&[]), Some(None));
        assert_eq!(watch(&["-w"]), Some(Some(2)));
        assert_eq!(watch(&["-w=5"]), Some(Some(5)));
        assert_eq!(watch(&["--watch=5"]), Some(Some(5)));
        assert_eq!(watch(&["-w=0"]), None);
        assert_eq!(watch(&["-w", "5"]), None);
    }

    #[test]
    fn every_part_can_be_named() {
        for part in Part::ALL {
            let cli = Cli::try_parse_from(["purlin", "hw", "show", part.name()]);
            let shown = cli.map(|cli| match cli.command {
                Command::Hw(HwArgs { command: HwCommand::Show { part }, .. }) => part,
                _ => None,
            });
            assert_eq!(shown.ok().flatten(), Some(part));
        }
    }
}
