//! What the mesh starts from when nobody is there to tell it anything: the last table, what
//! nodes offered last, and which containers this one had, a file each.
//!
//! ```text
//! magic "PURLMSH" | version 1        8 bytes
//! CRC-32C of the payload             u32
//! payload, a protobuf message        to the end of the file
//! ```

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use prost::Message;
use purlin_proto::v1;

const MAGIC: [u8; 8] = *b"PURLMSH\x01";
const HEADER_BYTES: usize = 12;
/// The table: purlin.v1.MeshTable.
pub const TABLE: &str = "table";
/// What nodes offer: purlin.v1.KeptRecords.
pub const RECORDS: &str = "records";
/// The node's containers: purlin.v1.KeptWorkloads.
pub const WORKLOADS: &str = "workloads";
/// Many times a document's limit.
pub const MAX_BYTES: usize = 4 << 20;

/// The table in a directory; `None` if there was never one.
pub fn load(dir: &Path) -> io::Result<Option<v1::MeshTable>> {
    read(dir, TABLE)
}

/// A message in a directory; `None` if there was never one.
pub fn read<M: Message + Default>(dir: &Path, name: &str) -> io::Result<Option<M>> {
    let path = dir.join(name);
    let damaged = |why: &str| {
        let what = format!("{}: {why}; it is made anew from what others say", path.display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let bytes = match contents(&path, (MAX_BYTES + HEADER_BYTES) as u64) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(damaged("too large"));
        }
        Err(error) => return Err(error),
    };
    let (header, payload) =
        bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| damaged("cut short"))?;
    let is_whole = header[..8] == MAGIC && header[8..] == crc32c::crc32c(payload).to_le_bytes();
    let message = is_whole.then(|| M::decode(payload).ok()).flatten();
    message.map(Some).ok_or_else(|| damaged("damaged, or of another version"))
}

/// What a file holds that is no longer than `most` bytes; `None` if it isn't there.
pub fn contents(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => {
            let what = format!("over the limit of {most} bytes");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, what))
        }
        false => Ok(Some(bytes)),
    }
}

/// Makes a table durable in place of the one before.
pub fn store(dir: &Path, table: &v1::MeshTable) -> io::Result<()> {
    write(dir, TABLE, table)
}

/// Makes a message durable in place of the one before.
pub fn write(dir: &Path, name: &str, message: &impl Message) -> io::Result<()> {
    let payload = message.encode_to_vec();
    let bytes = [&MAGIC[..], &crc32c::crc32c(&payload).to_le_bytes(), &payload].concat();
    replace(&dir.join(name), 0o600, &bytes)
}

/// Puts a file in place of another so that after a power cut either the old or
/// the new one is there, whole.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path()).expect("nothing yet"), None);
        let table = v1::MeshTable { generation: 7, incarnation: 1, ..Default::default() };
        store(dir.path(), &table).expect("a write");
        assert_eq!(load(dir.path()).expect("a whole one"), Some(table));
        let path = dir.path().join(TABLE);
        let whole = fs::read(&path).expect("the file");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("a write");
            assert!(load(dir.path()).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).expect("a write");
            assert!(load(dir.path()).is_err(), "cut at {at}");
        }
    }
}
