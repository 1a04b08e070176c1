//! A mesh of this agent's own, standalone: a process that outlives an agent that is
//! killed, and is found again by its socket.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::boot::Boot;

/// How it is started.
#[derive(Debug)]
pub struct Child {
    boot_socket: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
}

impl Child {
    /// Not started yet.
    pub fn new(boot: &Boot) -> Self {
        Self {
            boot_socket: boot.socket.clone(),
            state_dir: boot.state_dir.clone(),
            log: boot.mesh_dir().join("log"),
        }
    }

    /// Starts it, in a group of its own: neither Ctrl-C nor the agent's death ends it.
    pub fn start(&self) -> io::Result<()> {
        fs::create_dir_all(self.log.parent().unwrap_or(&self.state_dir))?;
        let log = File::create(&self.log)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["mesh", "--socket"])
            .arg(&self.boot_socket)
            .env("PURLIN_STATE_DIR", &self.state_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        // Whoever is there when it ends reaps it.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// The last line that it wrote.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }
}
