//! What a log remembers beside its records: how far the core has acknowledged, what
//! was lost for which cause, and the gaps that have not been told yet.
//!
//! Both files are rewritten as a whole and opened anew each time, so that a disk
//! that went away and came back is found again. A damaged cursor means sending from
//! the oldest record again; damaged gaps, holes that are told as damage.

use std::{fs, io, os::unix::fs::FileExt, path::Path};

use prost::Message;
use purlin_core::gap::{Cause, Gap, Gaps};
use purlin_proto::v1;

use crate::state;

/// Every cause, in the order of their counters in the file.
pub const CAUSES: [Cause; 7] = [
    Cause::Full,
    Cause::Expired,
    Cause::Downsampled,
    Cause::Damaged,
    Cause::NotWritten,
    Cause::Refused,
    Cause::Purged,
];
/// The cursor, a counter for each cause, and the CRC-32C of these.
const CURSOR_BYTES: usize = 8 * (1 + CAUSES.len()) + 4;
const GAPS_FILE: &str = "gaps";

/// The file `cursor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to here has arrived.
    pub acked: u64,
    /// Records lost since the directory was made, by [`CAUSES`].
    pub lost: [u64; CAUSES.len()],
}

impl Cursor {
    /// What the file says, if it says anything.
    pub fn read(dir: &Path) -> Option<Self> {
        fs::read(dir.join("cursor")).ok().and_then(|bytes| Self::decode(&bytes))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, crc) = bytes.get(..CURSOR_BYTES)?.split_last_chunk::<4>()?;
        let mut numbers_in = numbers
            .chunks_exact(8)
            .map(|number| u64::from_le_bytes(number.try_into().expect("chunks of eight bytes")));
        let acked = numbers_in.next()?;
        let mut lost = [0; CAUSES.len()];
        lost.fill_with(|| numbers_in.next().unwrap_or_default());
        (crc32c::crc32c(numbers) == u32::from_le_bytes(*crc)).then_some(Self { acked, lost })
    }

    /// Writes it in place. Synced only where something depends on it: a cursor lost
    /// with the power means sending again, never losing.
    pub fn write(&self, dir: &Path, sync: bool) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.extend(self.acked.to_le_bytes());
        bytes.extend(self.lost.iter().flat_map(|lost| lost.to_le_bytes()));
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("cursor"))?;
        file.write_all_at(&bytes, 0)?;
        if sync { file.sync_data() } else { Ok(()) }
    }

    /// Records lost for this cause.
    pub fn lost(&self, cause: Cause) -> u64 {
        self.lost[index(cause)]
    }

    /// Counts what was lost.
    pub fn count(&mut self, gap: &Gap) {
        let lost = &mut self.lost[index(gap.cause)];
        *lost = lost.saturating_add(gap.lost);
    }
}

fn index(cause: Cause) -> usize {
    CAUSES.iter().position(|it| *it == cause).expect("CAUSES has every cause")
}

/// Reads the gaps; none if there is no file or it is damaged.
pub fn read_gaps(dir: &Path) -> Gaps {
    let list = fs::read(dir.join(GAPS_FILE)).ok().and_then(|bytes| {
        let (list, crc) = bytes.split_last_chunk::<4>()?;
        (crc32c::crc32c(list) == u32::from_le_bytes(*crc)).then_some(())?;
        v1::Gaps::decode(list).ok()
    });
    Gaps::from_list(list.unwrap_or_default().gaps.iter().filter_map(gap_of_wire))
}

/// Makes the gaps durable, before what they tell of is removed.
pub fn write_gaps(dir: &Path, gaps: &Gaps) -> io::Result<()> {
    let list = v1::Gaps { gaps: gaps.list().iter().map(gap_to_wire).collect() };
    let mut bytes = list.encode_to_vec();
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    state::replace(&dir.join(GAPS_FILE), 0o644, &bytes)
}

/// As it is sent.
pub fn gap_to_wire(gap: &Gap) -> v1::Gap {
    let cause = match gap.cause {
        Cause::Full => v1::Cause::Full,
        Cause::Expired => v1::Cause::Expired,
        Cause::Downsampled => v1::Cause::Downsampled,
        Cause::Damaged => v1::Cause::Damaged,
        Cause::NotWritten => v1::Cause::NotWritten,
        Cause::Refused => v1::Cause::Refused,
        Cause::Purged => v1::Cause::Purged,
    };
    let Gap { first, last, lost, .. } = *gap;
    v1::Gap { first_seq: first, last_seq: last, lost, cause: cause.into() }
}

/// As it was read; `None` for a cause that is not known here.
pub fn gap_of_wire(gap: &v1::Gap) -> Option<Gap> {
    let cause = match gap.cause() {
        v1::Cause::Unspecified => return None,
        v1::Cause::Full => Cause::Full,
        v1::Cause::Expired => Cause::Expired,
        v1::Cause::Downsampled => Cause::Downsampled,
        v1::Cause::Damaged => Cause::Damaged,
        v1::Cause::NotWritten => Cause::NotWritten,
        v1::Cause::Refused => Cause::Refused,
        v1::Cause::Purged => Cause::Purged,
    };
    Some(Gap { first: gap.first_seq, last: gap.last_seq, lost: gap.lost, cause })
}
