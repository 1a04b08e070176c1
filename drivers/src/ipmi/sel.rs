//! Entries of the system event log (specification, 32).

use purlin_core::rack::bmc::Event;

/// Bytes of an entry.
pub const LENGTH: usize = 16;
/// The record type whose form is the specification's.
const SYSTEM_EVENT: u8 = 0x02;

/// Reads an entry. One that only its maker understands has its record type as its kind.
pub fn decode(entry: &[u8; LENGTH]) -> Event {
    let [r0, r1, form, t0, t1, t2, t3, _, _, _, kind, sensor, how, data, _, _] = *entry;
    let record = u16::from_le_bytes([r0, r1]);
    // From 0xe0 on there is no time in it.
    let unix_s = if form < 0xe0 { u32::from_le_bytes([t0, t1, t2, t3]) } else { 0 };
    if form != SYSTEM_EVENT {
        return Event { record, unix_s, kind: form, asserted: true, ..Event::default() };
    }
    Event {
        record,
        unix_s,
        sensor,
        kind,
        reading_type: how & 0x7f,
        asserted: how & 0x80 == 0,
        offset: data & 0x0f,
    }
}
