//! `purlin mesh`: the router, and what it says of itself.

use std::{fs, io, os::unix::fs::MetadataExt, process::ExitCode, time::Duration};

use anstyle::AnsiColor;
use purlin_core::mesh::intercept;
use purlin_daemon::boot::Boot;
use purlin_mesh::{Place, keep};
use purlin_proto::mesh::{
    Endpoint, Endpoints, Offers, PeerState, Peers, Routes, SetAside, Status, Upgraded, Why,
    WhyAsked,
};
use serde::de::DeserializeOwned;

use crate::{
    args::{Global, MeshCommand, SetAsideArgs, WhyArgs},
    client::{Body, Client, DEADLINE},
    exit::{Ended, Exit, Failure},
    output::{Output, Page},
    table::{self, Column::*, Width, pair},
    units, watch,
};

mod ca;
mod offers;
mod tap;

/// The next mesh has 20 s to serve.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(28);

/// `purlin mesh`: the router itself.
pub fn serve(global: &Global, drain: u32) -> ExitCode {
    let found = Client::find_mesh(global).and_then(|client| {
        let boot = Boot::load(global.config.as_deref());
        let boot =
            boot.map_err(|_| Failure::Usage("the agent's own configuration is refused".into()))?;
        let socket = client.socket().to_owned();
        let agents = Client::find(global)?.socket().to_owned();
        let drain = Duration::from_secs(drain.into());
        let clock_unix_s = boot.test.clock_unix_s;
        Ok(Place { dir: boot.mesh_dir(), socket, agents, drain, clock_unix_s })
    });
    match found {
        Ok(place) => purlin_mesh::start(place),
        Err(failure) => failure.report().into(),
    }
}

/// `purlin mesh …`
pub async fn run(command: &MeshCommand, global: &Global, output: &Output) -> Ended {
    let client = Client::find_mesh(global)?;
    match command {
        MeshCommand::Show(every) => {
            watch::show(output, every.every(), async || client.get::<Status>("/v1/status").await)
                .await
        }
        MeshCommand::Routes => {
            watch::show(output, None, async || client.get::<Routes>("/v1/routes").await).await
        }
        MeshCommand::Endpoints(every) => {
            let fetch = async || client.get::<Endpoints>("/v1/endpoints").await;
            watch::show(output, every.every(), fetch).await
        }
        MeshCommand::Offer(args) => offers::offer(args, &client, output).await,
        MeshCommand::Offers(every) => {
            watch::show(output, every.every(), async || client.get::<Offers>("/v1/offers").await)
                .await
        }
        MeshCommand::Tap { count } => tap::run(*count, &client, output).await,
        MeshCommand::Drain(args) => {
            set_aside::<Endpoints>("/v1/drain", args, &client, output).await
        }
        MeshCommand::Break(args) => {
            set_aside::<Endpoints>("/v1/break", args, &client, output).await
        }
        MeshCommand::StepBack(args) => {
            set_aside::<Routes>("/v1/step-back", args, &client, output).await
        }
        MeshCommand::Peers(every) => {
            watch::show(output, every.every(), async || client.get::<Peers>("/v1/peers").await)
                .await
        }
        MeshCommand::Upgrade => {
            let upgraded: Upgraded =
                client.post("/v1/upgrade", Body::default(), UPGRADE_DEADLINE).await?;
            output.show(&upgraded, |width| upgraded.page(width))?;
            Ok(Exit::Ok)
        }
        MeshCommand::Nft { remove } => nft(*remove, global, output),
        MeshCommand::Ca(command) => ca::run(command, output),
        MeshCommand::Why(args) => why(args, &client, output).await,
    }
}

fn nft(remove: bool, global: &Global, output: &Output) -> Ended {
    let text = if remove { intercept::removal() } else { rules(global)? };
    output.text(&text)?;
    Ok(Exit::Ok)
}

/// Of the table on disk, and for the user whose it is.
fn rules(global: &Global) -> Result<String, Failure> {
    let boot = Boot::load(global.config.as_deref());
    let boot =
        boot.map_err(|_| Failure::Usage("the agent's own configuration is refused".into()))?;
    let dir = boot.mesh_dir();
    let failed = |error: io::Error| {
        let dir = dir.display();
        Failure::Failed(match error.kind() {
            io::ErrorKind::NotFound => {
                format!("there is no {dir} yet: a document that has a mesh makes it")
            }
            _ => format!("{dir} can't be read: {error}; try sudo, or as its user"),
        })
    };
    let uid = fs::metadata(&dir).map_err(failed)?.uid();
    let mesh = keep::load(&dir).map_err(failed)?.unwrap_or_default().mesh.unwrap_or_default();
    let table = purlin_mesh::wire::table(0, &mesh);
    let table =
        table.map_err(|_| Failure::Failed("the mesh's table is of another version".into()))?;
    Ok(intercept::rules(&table, uid))
}

impl Page for Upgraded {
    fn page(&self, _: Width) -> String {
        format!(
            "process {} has taken over from {}, which ends what is open there (connections: {})\n",
            self.to, self.from, self.open
        )
    }
}

async fn set_aside<P: Page + DeserializeOwned>(
    path: &str,
    args: &SetAsideArgs,
    client: &Client,
    output: &Output,
) -> Ended {
    let asked = SetAside { name: args.name.clone(), undo: args.undo };
    let page: P = client.post(path, json(&asked)?, DEADLINE).await?;
    output.show(&page, |width| page.page(width))?;
    Ok(Exit::Ok)
}

fn json(asked: &impl serde::Serialize) -> Result<Body, Failure> {
    let bytes = serde_json::to_vec(asked)
        .map_err(|error| Failure::Failed(format!("the question can't be written: {error}")))?;
    Ok(Body { content_type: Some("application/json"), bytes })
}

async fn why(args: &WhyArgs, client: &Client, output: &Output) -> Ended {
    let asked = asked(args)?;
    let why: Why = client.post("/v1/why", json(&asked)?, DEADLINE).await?;
    output.show(&why, |width| why.page(width))?;
    Ok(Exit::Ok)
}

fn asked(args: &WhyArgs) -> Result<WhyAsked, Failure> {
    let rest = args.url.strip_prefix("http://").ok_or_else(|| {
        Failure::Usage(format!("{} is no address of a request: write http://HOST/PATH", args.url))
    })?;
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    let header = |text: &String| {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| Failure::Usage(format!("{text} is no header: write 'NAME: VALUE'")))?;
        Ok((name.trim().to_lowercase(), value.trim().to_owned()))
    };
    Ok(WhyAsked {
        listener: args.listener.clone(),
        method: args.method.clone(),
        host: host.into(),
        path: format!("{slash}{path}"),
        headers: args.headers.iter().map(header).collect::<Result<_, Failure>>()?,
        workload: args.workload.clone(),
    })
}

impl Page for Status {
    fn page(&self, width: Width) -> String {
        let counts = &self.counts;
        let table = match self.generation {
            0 => "none yet: the agent hands one over once its document has a mesh".into(),
            generation => format!("generation {generation}"),
        };
        let open = format!(
            "{} open, {} of them parked, {} in all",
            counts.open, counts.parked, counts.connections
        );
        let [informed, succeeded, redirected, wrong, failed] = counts.answers;
        let requests = format!(
            "{}: {} ok, {redirected} redirected, {wrong} refused, {failed} failed",
            counts.requests,
            informed + succeeded
        );
        let state = if self.draining { "draining" } else { "running" };
        table::sections([
            [
                pair(
                    "mesh",
                    &format!(
                        "{state}, version {}, pid {}, {} workers",
                        self.version, self.pid, self.workers
                    ),
                    width,
                ),
                pair("table", &table, width),
                pair("identity", &identity(self), width),
                pair("connections", &open, width),
                pair("requests", &requests, width),
                workloads(self, width),
                match counts.datagrams {
                    [0, 0] => String::new(),
                    [from, to] => {
                        let datagrams = format!("{from} from clients, {to} to them");
                        pair("datagrams", &datagrams, width)
                    }
                },
            ]
            .concat(),
            listeners(self, width),
            counted(self, width),
            self.problems
                .iter()
                .chain(&self.lapsed)
                .map(|it| table::paint(AnsiColor::Red.on_default(), &pair("wrong", it, width)))
                .collect(),
        ])
    }

    fn exit(&self) -> Exit {
        if self.problems.is_empty() && self.lapsed.is_empty() { Exit::Ok } else { Exit::Faults }
    }
}

fn identity(status: &Status) -> String {
    match &status.identity {
        None => "none: this node is in no rack".into(),
        Some(it) => {
            let until = units::time(it.expires_unix_s * 1000);
            let issuer = if it.issuer { ", renews those of others" } else { "" };
            format!("{}, good until {until}{issuer}", it.id)
        }
    }
}

/// Which workloads of this node connections are from, once it made a difference.
fn workloads(status: &Status, width: Width) -> String {
    let asked = status.counts.workloads.iter().filter(|(_, count)| **count > 0);
    let asked = asked.map(|(how, count)| format!("{count} connections {how}"));
    let asked: Vec<_> = asked.collect();
    if status.workloads == 0 && asked.is_empty() {
        return String::new();
    }
    let containers = format!("{} containers are named", status.workloads);
    let all: Vec<_> = [containers].into_iter().chain(asked).collect();
    pair("workloads", &all.join(", "), width)
}

fn listeners(status: &Status, width: Width) -> String {
    let header = [Left("LISTENER"), Left("ADDRESS"), Left("PROTOCOL"), Left("SIDE"), Left("STATE")];
    let row = |it: &purlin_proto::mesh::Listener| {
        vec![
            it.name.clone(),
            it.address.clone(),
            it.protocol.clone(),
            it.zone.as_ref().map_or("egress".into(), |zone| format!("ingress from {zone}")),
            if it.listening { "listening" } else { "not listening" }.into(),
        ]
    };
    table::columns(&header, status.listeners.iter().map(row), width)
}

/// What is only worth a line when there was any.
fn counted(status: &Status, width: Width) -> String {
    let counts = &status.counts;
    let plain = [
        ("slow", counts.slow),
        ("unmatched", counts.unmatched),
        ("over the circuit breaker", counts.broken),
        ("over a rate limit", counts.limited),
        ("allowed by no rule", counts.denied),
        ("retried", counts.retries),
        ("links of other agents passed on", counts.relayed),
        ("UDP: client forgotten for another", counts.displaced),
    ];
    let violations = counts.violations.iter().map(|(why, &count)| (why.as_str(), count));
    let tunnels = counts.tunnels_refused.iter();
    let tunnels = tunnels.map(|(why, &count)| (format!("tunnel: {why}"), count));
    let all = plain.into_iter().chain(violations).map(|(why, count)| (why.to_owned(), count));
    let gossip = counts.gossip_refused.iter();
    let gossip = gossip.map(|(why, &count)| (format!("gossip: {why}"), count));
    let tokens = counts.tokens_refused.iter();
    let tokens = tokens.map(|(why, &count)| (format!("token: {why}"), count));
    // What could be answered is not refused.
    let names = counts.names.iter().filter(|(why, _)| *why != "answered");
    let names = names.map(|(why, &count)| (format!("DNS: {why}"), count));
    let lost = counts.datagrams_lost.iter();
    let lost = lost.map(|(why, &count)| (format!("UDP: {why}"), count));
    let records = counts.records_refused.iter();
    let records = records.map(|(why, &count)| (format!("service record: {why}"), count));
    let all = all
        .chain(tunnels)
        .chain(tokens)
        .chain(gossip)
        .chain(lost)
        .chain(records)
        .chain(names)
        .filter(|(_, count)| *count > 0);
    let rows = all.map(|(why, count)| vec![why, count.to_string()]);
    table::columns(&[Left("REFUSED OR REPEATED"), Right("TIMES")], rows, width)
}

impl Page for Routes {
    fn page(&self, width: Width) -> String {
        let header = [
            Left("ROUTE"),
            Right("RULE"),
            Left("LISTENERS"),
            Left("HOSTS"),
            Left("MATCHES"),
            Left("TO"),
        ];
        let row = |it: &purlin_proto::mesh::Route| {
            let hosts =
                if it.hostnames.is_empty() { "any".into() } else { it.hostnames.join(", ") };
            vec![
                it.route.clone(),
                it.rule.to_string(),
                it.listeners.join(", "),
                hosts,
                it.matches.clone(),
                it.to.clone(),
            ]
        };
        match self.routes.is_empty() {
            true => "no route: the document in force has none\n".into(),
            false => table::columns(&header, self.routes.iter().map(row), width),
        }
    }
}

impl Page for Endpoints {
    fn page(&self, width: Width) -> String {
        match self.endpoints.is_empty() {
            true => "no endpoint: the document in force has none\n".into(),
            false => endpoints(&self.endpoints, width),
        }
    }
}

impl Page for Peers {
    fn page(&self, width: Width) -> String {
        let header =
            [Left("NODE"), Whole("TUNNEL"), Left("STATE"), Right("FOR"), Right("CLOCK AHEAD")];
        let row = |it: &purlin_proto::mesh::Peer| {
            let state = match it.state {
                PeerState::Unknown => "not heard of",
                PeerState::Up => "up",
                PeerState::Down => "down",
                PeerState::Own => "this one",
            };
            vec![
                it.node.clone(),
                it.address.clone(),
                state.into(),
                it.since_ms.map_or(String::new(), units::duration),
                it.clock_off_s.map_or(String::new(), |it| format!("{it} s")),
            ]
        };
        match self.peers.is_empty() {
            true => "no other node: the document in force names no peers\n".into(),
            false => table::columns(&header, self.peers.iter().map(row), width),
        }
    }
}

fn endpoints(all: &[Endpoint], width: Width) -> String {
    let header = [
        Left("SERVICE"),
        Whole("ENDPOINT"),
        Left("IN"),
        Left("FROM"),
        Right("WEIGHT"),
        Right("ACTIVE"),
        Right("LATENCY"),
        Right("REQUESTS"),
        Right("FAILED"),
        Left("STATE"),
    ];
    let row = |it: &Endpoint| {
        vec![
            it.service.clone(),
            it.address.clone(),
            it.locality.clone(),
            it.origin.clone(),
            it.weight.to_string(),
            it.active.to_string(),
            it.latency_ms.map_or("unknown".into(), |ms| format!("{ms:.1} ms")),
            it.requests.to_string(),
            it.failures.to_string(),
            state(it),
        ]
    };
    table::columns(&header, all.iter().map(row), width)
}

fn state(it: &Endpoint) -> String {
    match (it.healthy, it.ejected) {
        (Some(false), _) => {
            format!("unhealthy: {}", it.trouble.as_deref().unwrap_or("not well for long enough"))
        }
        (_, true) => "left out".into(),
        _ if it.drained => "drained by hand".into(),
        _ if it.away => "its node is down".into(),
        (Some(true), _) => "healthy".into(),
        (None, _) => String::new(),
    }
}

impl Page for Why {
    fn page(&self, width: Width) -> String {
        let header = [Left("PASSED OVER"), Right("RULE"), Left("BECAUSE")];
        let row = |it: &purlin_proto::mesh::Passed| {
            vec![it.route.clone(), it.rule.to_string(), it.because.clone()]
        };
        let route = match &self.route {
            Some((route, rule)) => format!("{route}, rule {rule}"),
            None => "none".into(),
        };
        table::sections([
            [
                pair("listener", &self.listener, width),
                pair("route", &route, width),
                pair("request", &self.outcome, width),
            ]
            .concat(),
            table::columns(&header, self.passed_over.iter().map(row), width),
            endpoints(&self.endpoints, width),
        ])
    }
}
