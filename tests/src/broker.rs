//! A real mosquitto on loopback, which can be killed and started again.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use purlin_daemon::{
    clock::Floor,
    enrol::Store,
    mqtt::{Connection, Mqtt, Transport as _},
};

use crate::{
    Lab, Result,
    process::{self, Process},
    wait,
};

/// How long mosquitto may take to listen.
const START: Duration = Duration::from_secs(10);

/// A mosquitto of our own. It keeps nothing across a kill.
#[derive(Debug)]
pub struct Broker {
    port: u16,
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    /// Who our own clients say they are.
    user: Option<(String, String)>,
}

impl Broker {
    /// A session of the agent's own client.
    pub async fn session(&self, name: &str) -> Result<Connection> {
        let mqtt = Mqtt {
            client_id: name.into(),
            username: name.into(),
            password_file: None,
            trust_anchors: None,
            certificate: None,
            enrolled: None,
            key: Store::Own,
            floor: Floor::default(),
            proxy: None,
            mesh: None,
        };
        let endpoint = self.endpoint().parse().map_err(|_| "no endpoint")?;
        Ok(mqtt.connect(&endpoint).await?)
    }

    /// Time on a CPU since it started.
    pub fn cpu_time(&self) -> Result<Duration> {
        let process = self.process.as_ref().ok_or("the broker does not run")?;
        process::cpu_time(&[process.pid().as_raw().cast_unsigned()])
    }

    /// Lets our own clients say who they are.
    #[must_use]
    pub fn as_user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Starts one that lets everyone in.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, "")
    }

    /// Starts one with more lines in its configuration file.
    pub fn start_with(lab: &Lab, lines: &str) -> Result<Self> {
        let mut broker = Self::absent(lab, lines)?;
        broker.restart()?;
        Ok(broker)
    }

    /// One that has a port and isn't there yet.
    pub fn absent(lab: &Lab, lines: &str) -> Result<Self> {
        let port = free_port()?;
        // As root it would otherwise become a user who can't read our directory.
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?
            .map_or_else(|| "root".to_owned(), |user| user.name);
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser {user}\n\
             log_dest stderr\n{lines}\n"
        );
        let name = format!("mosquitto-{port}");
        let config = lab.file(&format!("{name}.conf"), config)?;
        Ok(Self {
            port,
            config,
            log: lab.dir().join(format!("{name}.log")),
            process: None,
            user: None,
        })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address for an agent.
    pub fn endpoint(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result {
        self.process.take().map_or(Ok(()), |process| process.kill())
    }

    /// Starts it, again on the same port, and waits until it listens.
    pub fn restart(&mut self) -> Result {
        self.kill()?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&self.config).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::start(&mut command)?);
        let port = self.port;
        wait::until("mosquitto listens", START, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|e| e.to_string())
        })
    }

    /// The same broker for another user's clients.
    pub fn seen_by(&self, name: &str, password: &str) -> Self {
        let (config, log) = (self.config.clone(), self.log.clone());
        let other = Self { port: self.port, config, log, process: None, user: None };
        other.as_user(name, password)
    }

    /// Publishes a retained message at QoS 1; an empty one wipes what is retained.
    pub fn retain(&self, topic: &str, payload: &[u8]) -> Result {
        self.publish(topic, payload, &["-r"])
    }

    /// Publishes a message at QoS 1, with further words for `mosquitto_pub`.
    pub fn publish(&self, topic: &str, payload: &[u8], more: &[&str]) -> Result {
        let mut command = self.client("mosquitto_pub", topic);
        // -s: what stands on standard input; -n: nothing at all.
        let content = if payload.is_empty() { "-n" } else { "-s" };
        command.args(more);
        let mut child = command.args(["-q", "1", content]).stdin(Stdio::piped()).spawn()?;
        child.stdin.take().ok_or("no standard input")?.write_all(payload)?;
        let status = child.wait()?;
        crate::ensure!(status.success(), "mosquitto_pub to {topic}: {status}");
        Ok(())
    }

    /// What is retained on `topic`, if anything arrives within a second or so.
    pub fn retained(&self, topic: &str) -> Result<Option<Vec<u8>>> {
        let mut command = self.client("mosquitto_sub", topic);
        // %x: the payload in hexadecimal.
        let output = command.args(["-C", "1", "-W", "2", "-F", "%x"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let text = text.trim();
        if text.is_empty() { Ok(None) } else { unhex(text).map(Some) }
    }

    /// A subscriber that prints `topic payload-in-hexadecimal` for each message and
    /// ends by itself.
    pub fn listener(&self, topic: &str, listen: Duration) -> Command {
        let mut command = Command::new("timeout");
        let seconds = listen.as_secs().to_string();
        command.args(["-k", "1", &(listen.as_secs() + 5).to_string(), "mosquitto_sub", "-V", "5"]);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1", "-t", topic]);
        command.args(["-W", &seconds, "-F", "%t %x"]).stdin(Stdio::null());
        command
    }

    fn client(&self, program: &str, topic: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "10", program, "-V", "5", "-h", "127.0.0.1"]);
        command.args(["-p", &self.port.to_string(), "-t", topic]);
        if let Some((name, password)) = &self.user {
            command.args(["-u", name, "-P", password]);
        }
        command
    }
}

/// A port of loopback that nobody listens at now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Bytes from hexadecimal digits.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
