//! Whether a document may be tried on this node, with *every* reason why not: what it
//! says of itself, its values, and what the node's own hardware doesn't have.

use prost::{Message, bytes::Bytes};
use purlin_core::{
    alarm::rule,
    inventory::Inventory,
    power::config as power,
    rack::config as rack,
    settings::{
        self, Desired, Draft, ExportDraft, IntakeDraft, QuotaDraft, Reader, Refusal, Settings,
        Start, spool::ClassDraft,
    },
};
use purlin_proto::v1;
use ring::digest;

use super::{Identity, Subsystems, VERSION};
use crate::{
    document::{self, Format},
    rack::map::SHIPPED,
    workload,
};

/// A document that may be tried.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its canonical encoding.
    pub document: Bytes,
    /// Its values.
    pub desired: Desired,
}

/// Checks a document whole.
pub fn judge(
    bytes: &[u8],
    format: Format,
    identity: &Identity,
    start: &Start,
    subsystems: &Subsystems,
    machine: &Inventory,
) -> Result<Judged, Vec<Refusal>> {
    let (document, desired) = read(format, bytes, Some(identity))?;
    let settings = Settings::resolve(start, Some(&desired));
    let missing = subsystems.iter().flat_map(|it| it.check(&settings, machine));
    let missing: Vec<_> = missing.collect();
    if !missing.is_empty() {
        return Err(document::bounded(missing));
    }
    Ok(Judged { document: document.encode_to_vec().into(), desired })
}

/// The values of a document in the ledger's encoding.
pub fn decode(document: &[u8], identity: &Identity) -> Result<Desired, Vec<Refusal>> {
    read(Format::Protobuf, document, Some(identity)).map(|(_, values)| values)
}

/// Reads a document and checks its values; every reason is told, of either kind. Without
/// an identity, as the node would that it names.
pub fn read(
    format: Format,
    bytes: &[u8],
    identity: Option<&Identity>,
) -> Result<(v1::Desired, Desired), Vec<Refusal>> {
    let (desired, mut refusals) =
        document::parse::<v1::Desired>(document::descriptor("Desired"), format, bytes);
    let mesh = match desired.mesh.as_ref().map(|it| (it, purlin_mesh::wire::table(0, it))) {
        None => None,
        Some((it, Ok(table))) => Some(settings::Mesh { table, bytes: it.encode_to_vec() }),
        Some((_, Err(impossible))) => {
            refusals.extend(impossible);
            None
        }
    };
    let node = identity.map_or(desired.node.as_str(), |identity| &identity.node);
    let maps = SHIPPED.map(|(name, _)| name);
    let reader = Reader { node, agent: VERSION, maps: &maps };
    match settings::check(&draft(&desired, mesh), &reader) {
        Ok(values) if refusals.is_empty() => return Ok((desired, values)),
        Ok(_) => {}
        Err(impossible) => refusals.extend(impossible),
    }
    Err(document::bounded(refusals))
}

fn class_draft(class: v1::SpoolClass) -> ClassDraft {
    let v1::SpoolClass { cap_mib, when_full, ttl_h } = class;
    ClassDraft { cap_mib, when_full, ttl_h }
}

/// From the wire to the core's own type.
fn draft(desired: &v1::Desired, mesh: Option<settings::Mesh>) -> Draft {
    let desired = desired.clone();
    let sampling = desired.sampling.unwrap_or_default();
    let spool = desired.spool.unwrap_or_default();
    let uplink = desired.uplink.unwrap_or_default();
    let alarms = desired.alarms.unwrap_or_default();
    let v1::Export { openmetrics_port, otlp } = desired.export.unwrap_or_default();
    Draft {
        node: desired.node,
        version: desired.version,
        least_agent: desired.least_agent,
        interval_s: sampling.interval_s,
        interval_s_by_sampler: sampling.interval_s_by_sampler.into_iter().collect(),
        log_level: desired.log.and_then(|log| log.level),
        spool_cap_mib: spool.cap_mib,
        commit_window_s: spool.commit_window_s,
        spool_class: spool.class.into_iter().map(|(name, it)| (name, class_draft(it))).collect(),
        endpoint: uplink.endpoint,
        fallbacks: uplink.fallbacks,
        rate_kib_s: uplink.rate_kib_s,
        placement: desired.placement.map(workload::placement).unwrap_or_default(),
        alarm_rules: alarms.rules.into_iter().map(|(name, it)| (name, rule_draft(it))).collect(),
        alarm_webhook: alarms.webhook,
        rack: desired.rack.unwrap_or_default().buses.into_iter().map(bus).collect(),
        power: desired.power.map(power).unwrap_or_default(),
        intake: desired.intake.map(intake).unwrap_or_default(),
        export: ExportDraft { openmetrics_port, otlp },
        mesh,
    }
}

fn power(power: v1::Power) -> power::Draft {
    let stage = |it: v1::PowerStage| power::StageDraft {
        name: it.name,
        when: it.when,
        cap_w: it.cap_w,
        cap_gpu_w: it.cap_gpu_w,
        shed_below: it.shed_below,
        shed: it.shed,
        flush: it.flush,
        shutdown: it.shutdown,
    };
    let v1::Power { rehearse, recover_s, stages } = power;
    power::Draft { rehearse, recover_s, stages: stages.into_iter().map(stage).collect() }
}

fn intake(intake: v1::Intake) -> IntakeDraft {
    let quota = |it: v1::IntakeQuota| QuotaDraft { kib_s: it.kib_s, mib_day: it.mib_day };
    let own = intake.quota_by_source.into_iter().map(|(source, it)| (source, quota(it)));
    IntakeDraft {
        otlp_socket: intake.otlp_socket,
        otlp_port: intake.otlp_port,
        journal: intake.journal,
        journal_units: intake.journal_units,
        journal_priority: intake.journal_priority,
        quota: intake.quota.map(quota).unwrap_or_default(),
        quota_by_source: own.collect(),
    }
}

/// A rule, from the wire to the core's own type.
pub fn rule_draft(rule: v1::AlarmRule) -> rule::Draft {
    let v1::AlarmRule { metric, above, below, clear, hold_s, clear_hold_s, .. } = rule;
    let v1::AlarmRule { attributes, severity, latched, remedy, page, .. } = rule;
    rule::Draft {
        metric,
        attributes: attributes.into_iter().collect(),
        above,
        below,
        clear,
        hold_s,
        clear_hold_s,
        severity,
        latched,
        remedy,
        page,
    }
}

fn bus((name, bus): (String, v1::Bus)) -> (String, rack::Draft) {
    let v1::Bus { port, baud, form, devices, role } = bus;
    let devices = devices.into_iter().map(|(name, device)| (name, (device.address, device.map)));
    (name, rack::Draft { port, baud, form, role, devices: devices.collect() })
}

/// What a document is known by.
pub fn sha256(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref())
}
