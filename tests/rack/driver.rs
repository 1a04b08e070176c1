//! `purlin driver`, as whoever uses it sees it: against pymodbus on a pty, without an
//! agent.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use purlin_core::rack::serial::{Form, Settings};
use purlin_daemon::rack::{map::SHIPPED, port};
use purlin_tests::{
    Lab, Node, Result, ensure,
    faults::{Disturber, Fault, Random},
    modbus::{lateness, python, units},
    node::Answer,
    process::Process,
    serial::DisturbedLine,
};
use serde_json::{Value, json};

/// Three sensors that are sold as one: input registers in tenths, holding registers in
/// tenths, input registers in hundredths. They say 25.3 °C and 45.5 %.
fn sensors() -> Value {
    json!({
        "1": {"4": {"1": [253, 455]}},
        "2": {"3": {"0": [253, 455]}},
        "3": {"4": {"1": [2530, 4550]}},
    })
}

/// A line with units on it, and a node without an agent beside it.
struct Bench {
    node: Node,
    port: String,
    line: DisturbedLine,
    _units: Process,
}

impl Bench {
    fn start(lab: &Lab, what: &Value) -> Result<Self> {
        let late = lateness(Duration::from_millis(300));
        let line = DisturbedLine::start(Disturber::new(Fault::None, late, Random::new().0))?;
        let state = lab.file("units.json", what.to_string())?;
        let units = units(&state, &[line.device.display().to_string()], lab)?;
        let port = line.driver.display().to_string();
        Ok(Self { node: Node::new(lab, "driver")?, port, line, _units: units })
    }

    fn driver(&self, arguments: &[&str]) -> Result<Answer> {
        self.node.cli_for(60, &[&["driver"], arguments, &["--port", &self.port]].concat())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let answer = self.driver(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_str(&answer.stdout)?)
    }
}

pub fn probe(lab: &Lab) -> Result {
    let bench = Bench::start(lab, &sensors())?;
    let fitting = |address: &str| -> Result<Vec<String>> {
        let probed = bench.json(&["probe", "--address", address])?;
        let maps = probed["maps"].as_array().ok_or("no maps")?;
        ensure!(maps.len() > 3, "{probed}");
        let fits = maps.iter().filter(|it| it["fits"] == true);
        Ok(fits.map(|it| it["map"].as_str().unwrap_or_default().into()).collect())
    };
    ensure!(fitting("2")? == ["md02-holding"], "{:?}", fitting("2")?);
    ensure!(fitting("3")? == ["md02-hundredths"], "{:?}", fitting("3")?);
    // What counts tenths may count hundredths, for all that can be told from here.
    ensure!(fitting("1")? == ["md02-hundredths", "xy-md02"], "{:?}", fitting("1")?);
    let told = bench.driver(&["probe", "--address", "1"])?;
    ensure!(told.code == 2, "{told:?}");
    for words in ["more than one fits", "temperature 25.3 Cel", "temperature 2.53 Cel"] {
        ensure!(told.stdout.contains(words), "{words}: {}", told.stdout);
    }
    let told = bench.driver(&["probe", "--address", "2", "md02-holding"])?;
    ensure!(told.code == 0, "{told:?}");
    Ok(())
}

/// A map of xy-md02's registers for a few addresses: a whole bus takes minutes.
fn sensor_map(lab: &Lab, addresses: &str) -> Result<String> {
    let (_, map) = SHIPPED.iter().find(|(name, _)| *name == "xy-md02").ok_or("no xy-md02")?;
    let map = map.replace("1-247", addresses);
    Ok(lab.file("sensor.toml", map)?.display().to_string())
}

pub fn scan_and_poll(lab: &Lab) -> Result {
    let bench = Bench::start(lab, &sensors())?;
    let map = sensor_map(lab, "1-4")?;
    let found = bench.json(&["scan", &map])?;
    let devices = json!([
        {"address": 1, "fits": true, "doubtful": []},
        {"address": 3, "fits": false, "doubtful": ["temperature", "humidity"]},
    ]);
    ensure!(found["devices"] == devices, "{found}");
    let told = bench.driver(&["scan", &map])?;
    ensure!(told.code == 0 && told.stderr.contains("address 1 answers"), "{told:?}");

    let polled = bench.driver(&["poll", &map, "--address", "1"])?;
    ensure!(polled.code == 0 && polled.stdout.contains("25.3"), "{polled:?}");
    let polled = bench.driver(&["poll", &map, "--address", "3"])?;
    ensure!(polled.code == 2 && polled.stdout.contains("suspect"), "{polled:?}");
    let silent = bench.driver(&["poll", &map, "--address", "9"])?;
    ensure!(silent.code == 2 && silent.stdout.contains("silent: no answer"), "{silent:?}");

    let nobody = sensor_map(lab, "7-8")?;
    let told = bench.driver(&["scan", &nobody])?;
    ensure!(told.code == 2 && told.stdout.contains("check baud rate"), "{told:?}");
    let told = bench.driver(&["scan", "toaster"])?;
    ensure!(told.code == 64 && told.stderr.contains("xy-md02"), "{told:?}");
    Ok(())
}

pub fn ports(lab: &Lab) -> Result {
    let mut bench = Bench::start(lab, &sensors())?;
    let poll = ["poll", "xy-md02", "--address", "1"];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    let held = port::open(&bench.line.driver, Settings { baud: 9600, form: Form::DEFAULT })?;
    // Whoever is root is let in nevertheless, but for the lock.
    let told = bench.driver(&poll)?;
    ensure!(told.code == 1 && told.stderr.contains("is it the agent's"), "{told:?}");
    drop(held);
    bench.port = "/dev/serial/by-path/none".into();
    let told = bench.driver(&poll)?;
    ensure!(told.code == 1 && told.stderr.contains("`ls /dev/serial/by-path`"), "{told:?}");
    bench.port = "tcp://127.0.0.1:1".into();
    let told = bench.driver(&poll)?;
    ensure!(told.code == 1 && told.stderr.contains("can't open tcp://127.0.0.1:1"), "{told:?}");
    bench.port = "tcp://127.0.0.1".into();
    let told = bench.driver(&poll)?;
    ensure!(told.code == 1, "{told:?}");
    Ok(())
}

/// From `new` to `try`: one register that is well, one that can't be, one that isn't there.
pub fn new_and_try(lab: &Lab) -> Result {
    let bench = Bench::start(lab, &json!({"5": {"3": {"0": [253, 9]}}}))?;
    let new = bench.node.cli(&["driver", "new", "my-sensor"])?;
    ensure!(new.code == 0, "{new:?}");
    let file = lab.file("my-sensor.toml", &new.stdout)?.display().to_string();
    let checked = bench.node.cli(&["driver", "check", &file])?;
    ensure!(checked.code == 0 && checked.stdout.contains("3 registers"), "{checked:?}");
    let refused = bench.node.cli(&["driver", "new", "My Sensor"])?;
    ensure!(refused.code == 3 && refused.stderr.contains("1 to 48 of a-z"), "{refused:?}");

    let tried = bench.driver(&["try", &file, "--address", "5"])?;
    ensure!(tried.code == 2, "{tried:?}");
    for words in ["00fd", "25.3", "good", "suspect", "illegal data address"] {
        ensure!(tried.stdout.contains(words), "{words}: {}", tried.stdout);
    }
    let tried = bench.json(&["try", &file, "--address", "5"])?;
    let qualities: Vec<_> = (tried["registers"].as_array().into_iter().flatten())
        .map(|it| (it["words"].clone(), it["quality"].clone()))
        .collect();
    let expected =
        [(json!([253]), json!("good")), (json!([9]), json!("suspect")), (json!([]), json!("bad"))];
    ensure!(qualities == expected, "{qualities:?}");
    let nobody = bench.driver(&["try", &file, "--address", "6"])?;
    ensure!(nobody.code == 1 && nobody.stderr.contains("nobody answers"), "{nobody:?}");
    Ok(())
}

/// By a validator that nobody here wrote.
pub fn schema(lab: &Lab) -> Result {
    let node = Node::new(lab, "schema")?;
    let told = node.cli(&["driver", "schema"])?;
    let schema = lab.file("schema.json", &told.stdout)?;
    let files = (SHIPPED.iter())
        .map(|(name, map)| lab.file(&format!("{name}.toml"), map))
        .collect::<Result<Vec<PathBuf>>>()?;
    let script = "import json, sys, tomllib\n\
        from jsonschema import Draft202012Validator as Validator\n\
        schema = json.load(open(sys.argv[1]))\n\
        Validator.check_schema(schema)\n\
        for file in sys.argv[2:]:\n    \
            Validator(schema).validate(tomllib.load(open(file, 'rb')))\n";
    let validate = |files: &[PathBuf]| -> Result<(bool, String)> {
        let output =
            Command::new(python()).args(["-c", script]).arg(&schema).args(files).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (valid, why) = validate(&files)?;
    ensure!(valid, "{why}");
    let first = fs::read_to_string(&files[0])?;
    for (from, to) in [("type = \"u32\"", "type = \"bcd\""), ("baud", "bauds"), ("9600", "300")] {
        let wrong = lab.file("wrong.toml", first.replacen(from, to, 1))?;
        ensure!(!validate(&[wrong])?.0, "{from} may be {to}");
    }
    Ok(())
}

/// Why there is no validator here.
pub fn no_validator() -> Option<String> {
    let import = Command::new(python()).args(["-c", "import jsonschema, tomllib"]).output();
    let here = import.is_ok_and(|output| output.status.success());
    (!here).then(|| "no jsonschema for python3: start it with ./tests/run rack".to_owned())
}
