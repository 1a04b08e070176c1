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
    settings::Refusal,
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
pub fn rules(metric: &str, drafts: Vec<Draft>, page: &str) -> Result<Vec<Rule>, Vec<Refusal>> {
    let refusal = |value: &str, limit: &str, hint: &str| {
        let (value, limit) = (value.into(), limit.into());
        Err(vec![Refusal { path: "alarm".into(), value, limit, hint: hint.into() }])
    };
    if let Some(other) = drafts.iter().find(|it| !it.metric.is_empty() || !it.attributes.is_empty())
    {
        return refusal(&other.metric, "no metric and no attributes", "they are the register's");
    }
    if metric.is_empty() && !drafts.is_empty() {
        return refusal("", "for a number with a metric", "flags have flag_alarms");
    }
    let named = drafts.into_iter().map(|draft| {
        let name = if draft.above.is_some() { HIGH } else { LOW };
        let page = if draft.page.is_empty() { page.into() } else { draft.page.clone() };
        (name.to_owned(), Draft { metric: metric.into(), page, ..draft })
    });
    let count = named.len();
    let named: BTreeMap<String, Draft> = named.collect();
    if named.len() < count {
        return refusal("two on one side", "one above and one below", "the nearer one is enough");
    }
    let mut refusals = Vec::new();
    let rules = rule::check(&named, &mut refusals);
    for refusal in &mut refusals {
        refusal.path = refusal.path.replacen("alarms.rules", "alarm", 1);
    }
    if refusals.is_empty() { Ok(rules) } else { Err(refusals) }
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
                // Two registers may have a flag of the same name.
                id: id(FLAG, &format!("{name}/{}/{}/{flag}", device.name, register.name)),
                text: format!("{name}/{} says in {}: {flag}", device.name, register.name),
                notice: Notice { severity: *severity, page, ..Notice::default() },
                bad: set.contains(flag),
            }
        }));
    }
    conditions
}
