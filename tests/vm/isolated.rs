//! Isolated partitions, which need cgroup v2 and Linux 6.7: made, made invalid by a
//! neighbour, told, and made again.

use purlin_tests::{Guest, Lab, Result, ensure, lab::Test, test, wait};

use crate::containers::{SOON, boot, cpus, file, logged, make, path, says, sleeps};

const PARTITION: &str = "cpuset.cpus.partition";

pub fn tests() -> Vec<Test> {
    vec![test("an_isolated_partition_that_a_neighbour_breaks_is_told_and_made_again", 600, kept)]
}

fn kept(lab: &Lab) -> Result {
    let mut guest = boot(lab)?;
    make(&mut guest, "plain", &sleeps(), &[])?;
    let wishes = [("exclusive-cpus", "1"), ("isolated", "true")];
    make(&mut guest, "own", &sleeps(), &wishes)?;
    says(&mut guest, "own", PARTITION, "isolated")?;
    let [own] = cpus(&mut guest, "own")?[..] else { return Err("not one CPU".into()) };
    // The kernel's own list of CPUs that it does not balance.
    let isolated = guest.output("cat /sys/fs/cgroup/cpuset.cpus.isolated")?;
    ensure!(isolated.trim() == own.to_string(), "isolated are {isolated}, not {own}");
    let plain = cpus(&mut guest, "plain")?;
    ensure!(!plain.contains(&own), "plain is on {plain:?}");
    explained(&mut guest, |it| it["in_place"] == true)?;

    // A cgroup of nobody's beside it that takes all there is.
    let greedy = path("greedy", "");
    guest.output(&format!("mkdir {greedy} && echo 0-7 >{greedy}/cpuset.cpus"))?;
    let line = logged(&mut guest, "invalid")?;
    println!("{line}");
    let why = explained(&mut guest, |it| it["in_place"] == false)?;
    println!("told: {why}, {}", file(&mut guest, "own", PARTITION)?);
    wait::until("there is an event of it", SOON, || {
        let events =
            guest.output("purlin queue peek --class event").map_err(|e| format!("{e:?}"))?;
        events.contains("placement.partition_invalid").then_some(()).ok_or(events)
    })?;
    let now = cpus(&mut guest, "own")?;
    ensure!(now == [own], "it has {now:?} without its partition, not {own}");

    guest.output(&format!("rmdir {greedy}"))?;
    says(&mut guest, "own", PARTITION, "isolated")?;
    explained(&mut guest, |it| it["in_place"] == true)?;
    guest.output("purlin oci-runtime delete --force own")?;
    guest.output(&format!("test ! -e {}", path("own", PARTITION))).map(drop)
}

/// Waits for what was read back of it to be so; why it is not in place, if it is not.
fn explained(guest: &mut Guest, is: fn(&serde_json::Value) -> bool) -> Result<String> {
    wait::until("it is told so", SOON, || {
        let told = guest.purlin("numa explain own").map_err(|e| format!("{e:?}"))?;
        let it = &told["containers"][0]["read_back"];
        if is(it) {
            Ok(it["why"].as_str().unwrap_or_default().to_owned())
        } else {
            Err(it.to_string())
        }
    })
}
