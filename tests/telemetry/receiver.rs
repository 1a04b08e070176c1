//! The far side of what is posted, which is nobody's of ours: `receiver.py`.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use purlin_tests::{Lab, Result, ensure, process::Process, wait};
use serde_json::Value;

/// For it to listen.
const SOON: Duration = Duration::from_secs(30);

pub fn no_python() -> Option<String> {
    let import = "import opentelemetry.proto.collector.logs.v1.logs_service_pb2, \
                  line_protocol_parser, prometheus_client";
    let tried = Command::new(python()).args(["-c", import]).output();
    let here = tried.is_ok_and(|output| output.status.success());
    (!here).then(|| "no opentelemetry-proto: start it with ./tests/run telemetry".to_owned())
}

/// The Python that `./tests/run` has given the receivers' packages to.
pub fn python() -> OsString {
    env::var_os("PURLIN_RECEIVERS_PYTHON").unwrap_or("python3".into())
}

/// A far side that is not ours.
pub struct Receiver {
    pub process: Process,
    pub port: String,
    mode: PathBuf,
    took: PathBuf,
}

impl Receiver {
    pub fn start(lab: &Lab, mode: &str) -> Result<Self> {
        let (mode, took) = (lab.file("mode", mode)?, lab.dir().join("took"));
        let mut command = Command::new(python());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("telemetry/receiver.py");
        command.arg(script).arg(&mode).stdin(Stdio::null());
        command.stdout(File::create(&took)?).stderr(File::create(lab.dir().join("receiver.log"))?);
        let process = Process::start(&mut command)?;
        let port = wait::until("the receiver listens", SOON, || {
            let took = fs::read_to_string(&took).map_err(|it| it.to_string())?;
            took.lines().next().map(str::to_owned).ok_or_else(|| "not yet".into())
        })?;
        Ok(Self { process, port, mode, took })
    }

    pub fn answers(&self, mode: &str) -> Result {
        Ok(fs::write(&self.mode, mode)?)
    }

    /// Everything that it took, in order.
    pub fn took(&self) -> Result<Vec<Value>> {
        ensure!(self.process.ended()?.is_none(), "the receiver has ended");
        let text = fs::read_to_string(&self.took)?;
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        whole.lines().skip(1).map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
