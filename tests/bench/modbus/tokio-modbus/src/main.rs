//! Reads like anybody would: PORT READS TIMEOUT_S. Prints how many reads were right,
//! wrong and failed. A register's value tells its address.

use std::{env, error::Error, time::Duration};

use tokio::time::timeout;
use tokio_modbus::prelude::*;
use tokio_serial::SerialStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [port, reads, wait] = words.as_slice() else { return Err("PORT READS TIMEOUT_S".into()) };
    let wait = Duration::from_secs_f64(wait.parse()?);
    let port = SerialStream::open(&tokio_serial::new(port, 19_200))?;
    let mut client = rtu::attach_slave(port, Slave(17));
    let (mut right, mut wrong, mut failed) = (0, 0, 0);
    let mut state = u64::from(std::process::id());
    let mut below = |limit: u64| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit) as u16
    };
    for _ in 0..reads.parse::<u32>()? {
        let (start, count) = (below(100), 1 + below(8));
        match timeout(wait, client.read_holding_registers(start, count)).await {
            Ok(Ok(Ok(values))) => {
                let expected =
                    (start..start + count).map(|at| at.wrapping_mul(257).wrapping_add(11));
                if values.into_iter().eq(expected) { right += 1 } else { wrong += 1 }
            }
            _ => failed += 1,
        }
    }
    println!("{right} {wrong} {failed}");
    Ok(())
}
