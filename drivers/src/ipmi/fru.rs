//! FRU information: who made a part, what it is called, its serial number (Platform
//! Management FRU Information Storage Definition 1.0, revision 1.3).

use super::field::{END, field};

/// The largest FRU that is read, in bytes: those in the field have 256 to 4096.
pub const MAX: usize = 8192;
/// Fields of an area at most: the standard has six, and a maker may add some.
const MAX_FIELDS: usize = 16;

const BOARD: [&str; 5] =
    ["board maker", "board name", "board serial", "board part number", "board FRU file"];
const PRODUCT: [&str; 7] =
    ["maker", "product name", "part number", "version", "serial", "asset tag", "FRU file"];
const CHASSIS: [&str; 2] = ["chassis part number", "chassis serial"];

/// Fields by their names, and what is damaged.
pub type Told = (Vec<(String, String)>, Vec<String>);

/// The fields that are not empty, area by area. An area whose checksum is wrong is told
/// as a problem, and so is a header.
pub fn decode(bytes: &[u8]) -> Told {
    let (mut fields, mut problems) = (Vec::new(), Vec::new());
    let Some(header) = bytes.get(..8).filter(|header| is_whole(header) && header[0] & 15 == 1)
    else {
        return (fields, vec!["the common header is damaged".into()]);
    };
    // Where the fields begin within an area: behind what has a fixed place in it.
    let areas: [(&str, u8, usize, &[&str]); 3] = [
        ("chassis", header[2], 3, &CHASSIS),
        ("board", header[3], 6, &BOARD),
        ("product", header[4], 3, &PRODUCT),
    ];
    for (name, offset, begin, names) in areas {
        if offset == 0 {
            continue;
        }
        let from = usize::from(offset) * 8;
        let length = bytes.get(from + 1).map_or(0, |length| usize::from(*length) * 8);
        match bytes.get(from..from + length).filter(|area| !area.is_empty() && is_whole(area)) {
            Some(area) => fields.extend(area_fields(&area[begin..area.len() - 1], name, names)),
            None => problems.push(format!("its {name} area is damaged")),
        }
    }
    (fields, problems)
}

/// All bytes add up to zero.
fn is_whole(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn area_fields(mut bytes: &[u8], area: &str, names: &[&str]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for n in 0..MAX_FIELDS {
        if bytes.first() == Some(&END) {
            break;
        }
        let Some((text, length)) = field(bytes) else { break };
        let name = names.get(n).map_or(format!("{area} extra {}", n + 1), |it| (*it).to_owned());
        if !text.is_empty() {
            fields.push((name, text));
        }
        bytes = &bytes[length..];
    }
    fields
}
