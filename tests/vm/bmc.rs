//! A BMC that somebody else made up: openipmi's simulator, which QEMU gives to the guest
//! as a real one's registers. What the agent reads there is what the simulator was told,
//! and what its log says is an alarm until it is over.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use purlin_tests::{
    Guest, Lab, Need, Result, broker::free_port, ensure, guest::OWN, lab::Test, process::Process,
    test, wait,
};
use serde_json::Value;

/// Sensor records, and what its sensors, log and FRU are (tests/vm/ipmi).
const RECORDS: &str = "vm/ipmi/bmc.sdrs";
const SETUP: &str = include_str!("ipmi/bmc.emu");
/// For the first look: a BMC's registers are bytes, and the CPU is emulated.
const READY: Duration = Duration::from_secs(120);
/// For a look, and what is held before it counts as over.
const LOOK: Duration = Duration::from_secs(90);

pub fn tests() -> Vec<Test> {
    let needs = [Need::Program("ipmi_sim"), Need::Program("sdrcomp")];
    vec![
        test("a_bmc_is_read_and_what_it_says_is_an_alarm_until_it_is_over", 600, read)
            .needs(&needs),
    ]
}

/// A simulated BMC. It ends when dropped.
pub struct Bmc {
    port: u16,
    sensors: std::path::PathBuf,
    _process: Process,
}

impl Bmc {
    pub fn start(lab: &Lab) -> Result<Self> {
        let state = lab.dir().join("state/ipmi_sim/bench");
        fs::create_dir_all(&state)?;
        let records = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDS);
        let compiled = state.join("sdr.20.main");
        let done = Command::new("sdrcomp").arg("-o").arg(&compiled).arg(&records).output()?;
        // It says what is wrong and ends well.
        ensure!(compiled.exists(), "sdrcomp: {done:?}");
        let sensors = lab.dir().join("sensors");
        fs::create_dir_all(&sensors)?;
        let port = free_port()?;
        let lan =
            format!("name \"bench\"\nset_working_mc 0x20\nserial 15 127.0.0.1 {port} codec VM\n");
        let lan = lab.file("lan.conf", lan)?;
        let setup = format!("define SENSORS \"{}\"\n{SETUP}", sensors.display());
        let setup = lab.file("bmc.emu", setup)?;
        let bmc_log = fs::File::create(lab.dir().join("bmc.log"))?;
        let mut command = Command::new("ipmi_sim");
        command.arg("-n").arg("-c").arg(lan).arg("-f").arg(setup);
        command.arg("-s").arg(lab.dir().join("state"));
        command.stdin(Stdio::null()).stdout(bmc_log.try_clone()?).stderr(bmc_log);
        for (sensor, value) in [("inlet", 24), ("ps1-12v", 176), ("fan1", 52), ("ps1-status", 1)] {
            fs::write(sensors.join(sensor), value.to_string())?;
        }
        Ok(Self { port, sensors, _process: Process::start(&mut command)? })
    }

    /// What a sensor reads from now on.
    pub fn set(&self, sensor: &str, value: u8) -> Result {
        Ok(fs::write(self.sensors.join(sensor), value.to_string())?)
    }

    /// What QEMU is told for a guest to have it.
    pub fn words(&self) -> [(&'static str, String); 3] {
        [
            ("-chardev", format!("socket,id=ipmi,host=127.0.0.1,port={},reconnect=2", self.port)),
            ("-device", "ipmi-bmc-extern,id=bmc,chardev=ipmi".into()),
            ("-device", "isa-ipmi-kcs,bmc=bmc".into()),
        ]
    }

    /// A small guest that has it.
    fn guest(&self, lab: &Lab) -> Result<Guest> {
        let small = [("-machine", "q35"), ("-smp", "1"), ("-m", "512M")];
        let small = small.map(|(option, value)| (option, value.to_owned()));
        let words = small.into_iter().chain(self.words());
        let words: Vec<_> = words.flat_map(|(option, value)| [option.to_owned(), value]).collect();
        Guest::boot(lab, &OWN, &words)
    }
}

fn read(lab: &Lab) -> Result {
    let bmc = Bmc::start(lab)?;
    let mut guest = bmc.guest(lab)?;
    guest.output("purlin agent >/tmp/agent.log 2>&1 &")?;
    let shown = wait::until("the BMC is read", READY, || {
        let rack = guest.purlin("rack show").map_err(|e| format!("{e:?}"))?;
        match rack["bmc"]["sensors"].as_array().is_some_and(|it| it.len() >= 4) {
            true => Ok(rack["bmc"].clone()),
            false => Err(rack.to_string()),
        }
    })?;
    let sensor = |name: &str| {
        let all = shown["sensors"].as_array().into_iter().flatten();
        let found = all.clone().find(|it| it["name"] == name);
        found.cloned().ok_or_else(|| format!("no {name}: {shown}"))
    };
    for (name, value, unit) in
        [("Inlet Temp", 24.0, "Cel"), ("PS1 12V", 11.96, "V"), ("Fan 1", 5200.0, "rpm")]
    {
        let it = sensor(name)?;
        ensure!(it["value"] == value && it["unit"] == unit, "{it}");
    }
    ensure!(sensor("Inlet Temp")?["limits"][4] == 45.0, "{shown}");
    ensure!(sensor("PS1 Status")?["states"] == serde_json::json!(["present"]), "{shown}");
    ensure!(shown["problems"] == serde_json::json!([]), "{shown}");
    let serial = serde_json::json!(["board serial", "C-0003"]);
    let fields = shown["parts"][0]["fields"].as_array().into_iter().flatten();
    ensure!(fields.clone().any(|it| *it == serial), "{shown}");

    bmc.set("inlet", 52)?;
    bmc.set("ps1-status", 0b1001)?;
    let texts = ["Inlet Temp is 52 Cel: above upper critical, 45 Cel", "PS1 Status: input lost"];
    wait::until("both alarms are raised", LOOK, || {
        let raised = alarms(&mut guest, "list", "raised")?;
        let all = texts.iter().all(|text| raised.iter().any(|it| it.contains(text)));
        if all { Ok(()) } else { Err(format!("{raised:?}")) }
    })?;
    bmc.set("inlet", 24)?;
    bmc.set("ps1-status", 1)?;
    wait::until("both are cleared", LOOK, || {
        let raised = alarms(&mut guest, "list", "raised")?;
        let history = alarms(&mut guest, "history", "history")?;
        let over = texts.iter().all(|text| history.iter().any(|it| it.contains(text)));
        if over && raised.is_empty() { Ok(()) } else { Err(format!("{raised:?} {history:?}")) }
    })?;
    // What began and what is over stands in the log, in order, and was told once.
    let log = guest.purlin("rack show")?["bmc"]["events"].clone();
    let lines: Vec<&str> =
        log.as_array().into_iter().flatten().filter_map(|it| it["text"].as_str()).collect();
    let (on, off) =
        ("Inlet Temp: above upper critical, going high", "PS1 Status: input lost, over");
    for text in [on, &format!("{on}, over"), "PS1 Status: input lost", off] {
        ensure!(lines.iter().filter(|it| **it == text).count() == 1, "{text}: {lines:?}");
    }

    // The simulator's BMC has no light.
    let found = guest.run("purlin rack identify 5")?;
    ensure!(found.code != 0 && found.stderr.contains("the BMC"), "{found:?}");
    Ok(())
}

/// Texts of alarms, by a command and what it lists.
fn alarms(
    guest: &mut Guest,
    command: &str,
    which: &str,
) -> std::result::Result<Vec<String>, String> {
    let all = guest.purlin(&format!("alarm {command}")).map_err(|e| format!("{e:?}"))?;
    let text = |it: &Value| it["text"].as_str().map(str::to_owned);
    let all = all[which].as_array().into_iter().flatten().filter_map(text);
    Ok(all.filter(|it| it.starts_with("the BMC says")).collect())
}
