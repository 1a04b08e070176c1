//! Hardware that QEMU makes up, read from inside the guest: what a machine for
//! tests has none of, and what can be plugged in and out at will.

#![forbid(unsafe_code)]

mod machine;

use std::process::ExitCode;

use purlin_tests::{Lab, Result, guest, test};

fn main() -> ExitCode {
    let tests = [test("explore", 300, explore)];
    purlin_tests::run(tests.into_iter().map(|test| test.needs(&guest::NEEDS)))
}

fn explore(lab: &Lab) -> Result {
    let began = std::time::Instant::now();
    let mut guest = machine::boot(lab)?;
    println!("up after {:?}", began.elapsed());
    for line in std::fs::read_to_string("/tmp/vmtry/explore")?.lines() {
        println!("## {line}");
        if let Some(qmp) = line.strip_prefix("qmp ") {
            let (command, arguments) = qmp.split_once(' ').unwrap_or((qmp, "{}"));
            println!("{:?}", guest.qmp(command, serde_json::from_str(arguments)?));
        } else {
            let o = guest.run(line)?;
            println!("{}\n{}{}", o.code, o.stdout, o.stderr);
        }
    }
    Ok(())
}
