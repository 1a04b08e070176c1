//! The mesh's part of a document, as a setting: what it comes to, line by line, and the
//! bytes that the mesh itself is handed.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt::Debug;

use super::{Origin, Setting};
use crate::mesh::{
    hashed::hash,
    jwt::Issuer,
    model::{Listener, Route, Service},
    table::{Key, Table},
};

/// A mesh that a document asks for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// What it is.
    pub table: Table,
    /// The same as it came (`purlin.v1.Mesh`): it is passed on, and not read here.
    pub bytes: Vec<u8>,
}

/// A line for each listener, service, route and peer, and for what holds for all of them.
pub(super) fn rows(
    setting: &Setting<Option<Mesh>>,
) -> impl Iterator<Item = (String, String, &Origin)> {
    setting.value.iter().flat_map(|mesh| {
        let table = &mesh.table;
        let listeners =
            table.listeners.iter().map(|it| row("listeners", &it.name, listener(it), it));
        let services = table.services.iter().map(|it| row("services", &it.name, service(it), it));
        let routes = table.routes.iter().map(|it| row("routes", &it.name, route(it), it));
        let peers = table.peers.iter().map(|it| row("peers", &it.node, it.address.to_string(), it));
        let issuers =
            table.jwt_issuers.iter().map(|it| row("jwt_issuers", &it.name, issuer(it), it));
        let rows = listeners.chain(services).chain(routes).chain(peers).chain(issuers);
        let rows = rows.chain(whole(table));
        rows.map(|(path, value)| (path, value, &setting.origin))
    })
}

/// What has no name of its own, where it was asked for.
fn whole(table: &Table) -> impl Iterator<Item = (String, String)> {
    let name = |key: &Key| match key {
        Key::Secret(name) => format!("secret:{name}"),
        Key::Plain(_) => "a key".into(),
    };
    let keys: Vec<_> = table.discovery_keys.iter().map(name).collect();
    let rack = &table.rack;
    let days = table.grace_s / 86_400;
    let told = [
        ("rack_networks", (!rack.is_empty()).then(|| marked(rack.len().to_string(), rack))),
        ("discovery_keys", (!keys.is_empty()).then(|| keys.join(", "))),
        ("openmetrics_port", table.openmetrics_port.map(|it| it.to_string())),
        ("access_log", table.access_log.then(|| "true".into())),
        ("certificate_grace_days", Some(days.to_string())),
    ];
    told.into_iter().filter_map(|(name, value)| Some((format!("mesh.{name}"), value?)))
}

/// A line says the least; its mark changes with anything of what it stands for.
fn row(kind: &str, name: &str, value: String, whole: &impl Debug) -> (String, String) {
    (format!("mesh.{kind}.{name}"), marked(value, whole))
}

fn marked(value: String, whole: &impl Debug) -> String {
    let mark = hash(format!("{whole:?}").as_bytes()) as u32;
    format!("{value} ({mark:08x})")
}

fn listener(it: &Listener) -> String {
    let side = it.zone.as_ref().map_or("egress".into(), |zone| format!("ingress from {zone}"));
    format!("{} at {}, {side}", it.protocol.name(), it.address)
}

fn issuer(it: &Issuer) -> String {
    format!("{}, keys: {}", it.issuer, it.keys.len())
}

fn service(it: &Service) -> String {
    format!("endpoints: {}, {}", it.endpoints.len(), it.policy.name())
}

fn route(it: &Route) -> String {
    let names: Vec<_> = it.hostnames.iter().map(ToString::to_string).collect();
    let names = if names.is_empty() { "any host".into() } else { names.join(" ") };
    format!(
        "{} for {names} at {}, rules: {}",
        it.kind.name(),
        it.listeners.join(" "),
        it.rules.len()
    )
}
