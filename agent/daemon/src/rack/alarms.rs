//! The alarms that register maps bring along: limits of numbers, and flags that are set.

use std::collections::BTreeMap;

use purlin_core::{
    alarm::{
        Condition, id,
        rule::{self, Draft, Notice, Rule},
    },
    rack::{
        config,
        register::{Quality, Value},
    },
};

use super::{
    bus::{Bus, Turned},
    map::Map,
};

/// What the ids of flags' alarms begin with.
const FLAG: &str = "flag";
/// The same of a number's: the side of its limit on which it is.
const HIGH: &str = "high";
const LOW: &str = "low";

/// The rules of one register, for whichever device; the error holds every reason.
pub fn rules(metric: &str, drafts: Vec<Draft>, page: &str) -> Result<Vec<Rule>, Vec<String>> {
    if drafts.iter().any(|draft| !draft.metric.is_empty() || !draft.attributes.is_empty()) {
        return Err(vec!["alarm: its metric is the register's".into()]);
    }
    if metric.is_empty() && !drafts.is_empty() {
        return Err(vec!["alarm: only a number with a metric has limits".into()]);
    }
    let named = drafts.into_iter().map(|draft| {
        let name = if draft.above.is_some() { HIGH } else { LOW };
        let page = if draft.page.is_empty() { page.into() } else { draft.page.clone() };
        (name.to_owned(), Draft { metric: metric.into(), page, ..draft })
    });
    let count = named.len();
    let named: BTreeMap<String, Draft> = named.collect();
    if named.len() < count {
        return Err(vec!["alarm: two on the same side".into()]);
    }
    let mut refusals = Vec::new();
    let rules = rule::check(&named, &mut refusals);
    let line = |it: purlin_core::settings::Refusal| {
        let path = it.path.trim_start_matches("alarms.rules.").to_owned();
        format!("alarm: {path}: {} (may be {})", it.value, it.limit)
    };
    if refusals.is_empty() { Ok(rules) } else { Err(refusals.into_iter().map(line).collect()) }
}

/// The rules of all devices that are configured.
pub fn of_buses(buses: &[config::Bus]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (bus, device) in buses.iter().flat_map(|bus| bus.devices.iter().map(move |it| (bus, it))) {
        let Some(Ok(map)) = Map::shipped(&device.map) else { continue };
        for (register, of_register) in map.rules {
            let subject = format!("{}/{}/{register}", bus.name, device.name);
            let attributes = BTreeMap::from([("hw.id".to_owned(), subject)]);
            let mine = |rule| Rule { attributes: attributes.clone(), ..rule };
            rules.extend(of_register.into_iter().map(mine));
        }
    }
    rules
}

/// Which flags that were just read are set and are alarms, and which are not.
pub fn flags(bus: &Bus, turned: &Turned, name: &str) -> Vec<Condition> {
    let device = &bus.devices()[turned.device];
    let mut conditions = Vec::new();
    for &index in &turned.registers {
        let (register, reading) =
            (&device.map.registers[index], &bus.readings(turned.device)[index]);
        let Some(alarms) = device.map.flag_alarms.get(&register.name) else { continue };
        let Some(Value::Flags(set)) = &reading.value else { continue };
        if reading.quality(register) != Quality::Good {
            continue;
        }
        conditions.extend(alarms.iter().map(|(flag, severity)| {
            let page = device.map.page.clone();
            Condition {
                id: id(FLAG, &format!("{name}/{}/{flag}", device.name)),
                text: format!("{name}/{} says: {flag}", device.name),
                notice: Notice { severity: *severity, page, ..Notice::default() },
                bad: set.contains(flag),
            }
        }));
    }
    conditions
}
