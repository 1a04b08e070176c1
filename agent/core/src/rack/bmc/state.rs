//! What a sensor's states are called, and how bad each is.
//!
//! Source: IPMI 2.0 specification, tables 42-2 (generic event/reading types) and 42-3
//! (sensor types). Only what a rack's BMCs use is named; a state without a name is shown
//! by its number and is no alarm.

use crate::alarm::rule::Severity;

/// Event/reading type of what has thresholds.
pub const THRESHOLD: u8 = 0x01;
/// Event/reading type of what has its sensor type's own states.
const SPECIFIC: u8 = 0x6f;

type State = (&'static str, Option<Severity>);

const INFO: Option<Severity> = Some(Severity::Info);
const WARNING: Option<Severity> = Some(Severity::Warning);
const CRITICAL: Option<Severity> = Some(Severity::Critical);

const THRESHOLDS: [State; 6] = [
    ("below lower non-critical", WARNING),
    ("below lower critical", CRITICAL),
    ("below lower non-recoverable", CRITICAL),
    ("above upper non-critical", WARNING),
    ("above upper critical", CRITICAL),
    ("above upper non-recoverable", CRITICAL),
];

/// What a state is called.
pub fn word(kind: u8, reading_type: u8, bit: u8) -> Option<&'static str> {
    of(kind, reading_type).get(usize::from(bit)).map(|state| state.0)
}

/// How bad a state is; `None` if it is none, or nobody knows.
pub fn severity(kind: u8, reading_type: u8, bit: u8) -> Option<Severity> {
    of(kind, reading_type).get(usize::from(bit)).and_then(|state| state.1)
}

fn of(kind: u8, reading_type: u8) -> &'static [State] {
    match (reading_type, kind) {
        (THRESHOLD, _) => &THRESHOLDS,
        (0x03, _) => &[("not asserted", None), ("asserted", None)],
        (0x04, _) => &[("no predictive failure", None), ("predictive failure", WARNING)],
        (0x05, _) => &[("limit not exceeded", None), ("limit exceeded", WARNING)],
        (0x06, _) => &[("performance met", None), ("performance lags", WARNING)],
        (0x07, _) => &[
            ("OK", None),
            ("non-critical", WARNING),
            ("critical", CRITICAL),
            ("non-recoverable", CRITICAL),
            ("less than non-critical", WARNING),
            ("critical, from less", CRITICAL),
            ("non-recoverable, from less", CRITICAL),
        ],
        (0x08, _) => &[("absent", None), ("present", None)],
        (0x09, _) => &[("disabled", None), ("enabled", None)],
        (0x0b, _) => &[
            ("fully redundant", None),
            ("redundancy lost", CRITICAL),
            ("redundancy degraded", WARNING),
            ("not redundant", WARNING),
            ("not redundant, too few", WARNING),
            ("not redundant, insufficient", CRITICAL),
            ("redundancy degraded from full", WARNING),
            ("redundancy degraded from none", WARNING),
        ],
        (SPECIFIC, kind) => specific(kind),
        _ => &[],
    }
}

fn specific(kind: u8) -> &'static [State] {
    match kind {
        // Physical security.
        0x05 => &[
            ("chassis open", WARNING),
            ("drive bay open", WARNING),
            ("I/O card area open", WARNING),
            ("processor area open", WARNING),
            ("LAN leash lost", WARNING),
            ("unauthorized dock", WARNING),
            ("fan area open", WARNING),
        ],
        // Processor.
        0x07 => &[
            ("internal error", CRITICAL),
            ("thermal trip", CRITICAL),
            ("self-test failed", CRITICAL),
            ("hangs at startup", CRITICAL),
            ("startup failed", CRITICAL),
            ("configuration error", CRITICAL),
            ("uncorrectable complex error", CRITICAL),
            ("present", None),
            ("disabled", WARNING),
            ("terminator present", None),
            ("throttled", WARNING),
            ("machine check", CRITICAL),
            ("correctable machine check", WARNING),
        ],
        // Power supply.
        0x08 => &[
            ("present", None),
            ("failed", CRITICAL),
            ("predictive failure", WARNING),
            ("input lost", CRITICAL),
            ("input lost or out of range", CRITICAL),
            ("input out of range", WARNING),
            ("configuration error", WARNING),
            ("standby", None),
        ],
        // Power unit.
        0x09 => &[
            ("off", None),
            ("power cycled", INFO),
            ("240 VA power down", CRITICAL),
            ("interlock power down", CRITICAL),
            ("AC lost", CRITICAL),
            ("soft power control failed", WARNING),
            ("failed", CRITICAL),
            ("predictive failure", WARNING),
        ],
        // Memory.
        0x0c => &[
            ("correctable error", WARNING),
            ("uncorrectable error", CRITICAL),
            ("parity error", CRITICAL),
            ("scrub failed", WARNING),
            ("disabled", WARNING),
            ("too many correctable errors", CRITICAL),
            ("present", None),
            ("configuration error", WARNING),
            ("spare", None),
            ("throttled", WARNING),
            ("overheated", CRITICAL),
        ],
        // Drive slot.
        0x0d => &[
            ("present", None),
            ("drive fault", CRITICAL),
            ("predictive failure", WARNING),
            ("hot spare", None),
            ("consistency check", None),
            ("in a critical array", CRITICAL),
            ("in a failed array", CRITICAL),
            ("rebuilding", WARNING),
            ("rebuild aborted", WARNING),
        ],
        // Event logging.
        0x10 => &[
            ("correctable memory errors no longer logged", WARNING),
            ("an event no longer logged", WARNING),
            ("log cleared", None),
            ("all events no longer logged", WARNING),
            ("log full", WARNING),
            ("log almost full", INFO),
        ],
        // Critical interrupt.
        0x13 => &[
            ("front panel NMI", WARNING),
            ("bus timeout", CRITICAL),
            ("I/O channel check", CRITICAL),
            ("software NMI", WARNING),
            ("PERR", CRITICAL),
            ("SERR", CRITICAL),
            ("EISA fail-safe timeout", CRITICAL),
            ("bus correctable error", WARNING),
            ("bus uncorrectable error", CRITICAL),
            ("fatal NMI", CRITICAL),
            ("bus fatal error", CRITICAL),
            ("bus degraded", WARNING),
        ],
        // Watchdog 2.
        0x23 => &[
            ("expired", WARNING),
            ("hard reset", WARNING),
            ("power down", WARNING),
            ("power cycle", WARNING),
        ],
        // Battery.
        0x29 => &[("low", WARNING), ("failed", CRITICAL), ("present", None)],
        _ => &[],
    }
}
