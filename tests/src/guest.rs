//! A virtual machine under QEMU, emulated in software (TCG) so that it is the same
//! everywhere: a kernel and an initramfs made by `./tests/run vm`, a shell in it
//! over virtio-serial, and QMP for what happens to its hardware.
//!
//! It has no network to the outside. Its console is the log `guest.log` of the lab.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{Lab, Need, Result, ensure, process::Process, wait};

/// What a guest needs to be there, besides its kernel.
pub const NEEDS: [Need; 2] = [Need::Program("qemu-system-x86_64"), Need::Program("swtpm")];

/// A kernel, and what it needs.
#[derive(Debug)]
pub struct Kernel {
    /// The variable that holds its path.
    pub image: &'static str,
    /// The same of its initramfs.
    pub initramfs: &'static str,
    /// What is emulated.
    pub cpu: &'static str,
}

/// This system's own. Debian's 6.1 with `max` aborts a static busybox.
pub const OWN: Kernel =
    Kernel { image: "PURLIN_GUEST_KERNEL", initramfs: "PURLIN_GUEST_INITRAMFS", cpu: "Nehalem" };
/// One that has remote cpuset partitions (6.7 or newer).
pub const NEWER: Kernel = Kernel {
    image: "PURLIN_GUEST_NEWER_KERNEL",
    initramfs: "PURLIN_GUEST_NEWER_INITRAMFS",
    cpu: "max,-cx16",
};

/// How long QEMU and swtpm may take to listen.
const START: Duration = Duration::from_secs(20);
/// From QEMU's start to the shell: about 5 s on an idle machine, 20 s with systemd.
const BOOT: Duration = Duration::from_secs(300);
/// What a command in the guest, or one to QEMU, may take.
const COMMAND: Duration = Duration::from_secs(60);
/// The largest output of a command, in bytes.
const MAX_OUTPUT: usize = 16 << 20;
/// What its kernel is told. `nowatchdog`: an emulated CPU may stand still for longer than a lockup takes.
pub const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet nowatchdog panic=-1 memhp_default_state=online";
/// The bus of whatever names no other. A machine with expander bridges has several.
pub const ROOT_BUS: &str = "pcie.0";

impl Kernel {
    /// That it is there.
    pub fn needs(&self) -> [Need; 2] {
        [Need::Path(self.image), Need::Path(self.initramfs)]
    }
}

/// A running guest. It ends when dropped.
#[derive(Debug)]
pub struct Guest {
    shell: BufReader<UnixStream>,
    qmp: BufReader<UnixStream>,
    qemu_process: Process,
    _tpm: Process,
}

/// What a command in the guest answered.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Guest {
    /// Starts one that has a TPM and a shell, besides what `arguments` of QEMU say.
    /// Returns when the shell answers.
    pub fn boot(lab: &Lab, kernel: &Kernel, arguments: &[String]) -> Result<Self> {
        let tpm = software_tpm(lab)?;
        let qemu = Process::start(&mut qemu(lab, kernel, arguments)?)?;
        let mut qmp = connect(&lab.dir().join("qmp"))?;
        qmp.read_line(&mut String::new())?;
        let mut guest =
            Self { shell: connect(&lab.dir().join("shell"))?, qmp, qemu_process: qemu, _tpm: tpm };
        guest.qmp("qmp_capabilities", json!({}))?;
        guest.shell.get_ref().set_read_timeout(Some(BOOT))?;
        guest.run("true").map_err(|e| format!("the guest is not up within {BOOT:?}: {e:?}"))?;
        guest.shell.get_ref().set_read_timeout(Some(COMMAND))?;
        Ok(guest)
    }

    /// Runs `command`, one line, in a shell of the guest.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        ensure!(!command.contains('\n'), "not one line: {command}");
        self.shell.get_mut().write_all(format!("{command}\n").as_bytes())?;
        let mut head = String::new();
        self.shell.read_line(&mut head).map_err(|e| format!("`{command}` in the guest: {e}"))?;
        let numbers: Vec<usize> = head.split_whitespace().flat_map(str::parse).collect();
        let [code, stdout, stderr] = numbers[..] else {
            return Err(format!("`{command}` in the guest: answered {head:?}").into());
        };
        let code = i32::try_from(code)?;
        Ok(Output { code, stdout: self.text(stdout)?, stderr: self.text(stderr)? })
    }

    /// What `command` prints; fails unless it succeeds.
    pub fn output(&mut self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        ensure!(output.code == 0, "`{command}` in the guest: {output:?}");
        Ok(output.stdout)
    }

    /// What a command of the CLI says as JSON, with all well (0) or faults found (2).
    pub fn purlin(&mut self, arguments: &str) -> Result<Value> {
        let output = self.run(&format!("purlin {arguments} -o json"))?;
        ensure!(matches!(output.code, 0 | 2), "purlin {arguments} in the guest: {output:?}");
        serde_json::from_str(&output.stdout)
            .map_err(|e| format!("purlin {arguments}: {e}: {output:?}").into())
    }

    /// Whether the machine was reset or switched off: QEMU ends then.
    pub fn ended(&self) -> Result<bool> {
        Ok(self.qemu_process.ended()?.is_some())
    }

    /// Why it is not there any more, once it isn't: `guest-shutdown` if it switched itself off,
    /// `guest-reset` if it began anew.
    pub fn why_ended(&mut self) -> Result<String> {
        let mut line = String::new();
        while self.qmp.read_line(&mut line)? > 0 {
            let event: Value = serde_json::from_str(&line)?;
            if event["event"] == "SHUTDOWN" {
                return Ok(event["data"]["reason"].as_str().unwrap_or_default().to_owned());
            }
            line.clear();
        }
        Err("QEMU ended without a word".into())
    }

    /// Sends QEMU a command; what it returns.
    pub fn qmp(&mut self, execute: &str, arguments: Value) -> Result<Value> {
        let command = json!({"execute": execute, "arguments": arguments});
        writeln!(self.qmp.get_mut(), "{command}")?;
        loop {
            let mut line = String::new();
            self.qmp.read_line(&mut line).map_err(|e| format!("{execute} to QEMU: {e}"))?;
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                return Err(format!("{command}: {error}").into());
            }
            // Anything else is an event.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn text(&mut self, length: usize) -> Result<String> {
        ensure!(length <= MAX_OUTPUT, "an output of {length} bytes, over {MAX_OUTPUT}");
        let mut bytes = vec![0; length];
        self.shell.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn qemu(lab: &Lab, kernel: &Kernel, arguments: &[String]) -> Result<Command> {
    let socket = |name: &str| {
        let path = lab.dir().join(name);
        format!("socket,id={name},path={},server=on,wait=off", path.display())
    };
    let log = File::create(lab.dir().join("qemu.log"))?;
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.args(["-accel", "tcg", "-cpu", kernel.cpu]);
    command.arg("-kernel").arg(path(kernel.image)?);
    command.arg("-initrd").arg(path(kernel.initramfs)?);
    command.args(["-append", KERNEL_ARGUMENTS]);
    command.arg("-serial").arg(format!("file:{}", lab.dir().join("guest.log").display()));
    command.args(["-chardev", &socket("qmp"), "-mon", "chardev=qmp,mode=control"]);
    command.args(["-device", &format!("virtio-serial-pci,bus={ROOT_BUS}")]);
    command.args(["-chardev", &socket("shell"), "-device", "virtserialport,chardev=shell"]);
    let tpm = lab.dir().join("tpm");
    command.args(["-chardev", &format!("socket,id=tpm,path={}", tpm.display())]);
    command.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]);
    command.args(arguments);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// A TPM 2.0 in software, listening.
fn software_tpm(lab: &Lab) -> Result<Process> {
    let socket = lab.dir().join("tpm");
    let log = File::create(lab.dir().join("swtpm.log"))?;
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--tpmstate"]);
    command.arg(format!("dir={}", lab.dir().display()));
    command.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let process = Process::start(&mut command)?;
    wait::until("swtpm listens", START, || {
        socket.exists().then_some(()).ok_or_else(|| "no socket".to_owned())
    })?;
    Ok(process)
}

fn connect(socket: &Path) -> Result<BufReader<UnixStream>> {
    let stream = wait::until("QEMU listens (see qemu.log)", START, || {
        UnixStream::connect(socket).map_err(|e| format!("{}: {e}", socket.display()))
    })?;
    stream.set_read_timeout(Some(COMMAND))?;
    Ok(BufReader::new(stream))
}

fn path(variable: &str) -> Result<OsString> {
    env::var_os(variable).ok_or_else(|| format!("{variable} is not set").into())
}
