//! A plugin that answers as a test wants, with the agent's own codec: what the real
//! runtime makes of a message of any size.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use prost::Message as _;
use purlin_daemon::nri::codec::{Connection, Decoder, Kind, Message, encode};
use purlin_proto::nri;
use purlin_tests::Result;

/// How long the runtime may be silent before it has told of everything.
const SYNCHRONIZED: Duration = Duration::from_secs(20);

/// A plugin, registered; its thread ends with it.
pub struct Plugin {
    stream: UnixStream,
    told: mpsc::Receiver<Told>,
    answers: Option<JoinHandle<()>>,
}

/// What the runtime told of when the plugin came.
#[derive(Debug, Default)]
pub struct Told {
    /// Bytes of all its messages.
    pub bytes: usize,
    /// In how many messages.
    pub messages: usize,
    /// Pods and containers.
    pub pods: usize,
    pub containers: usize,
}

/// What it answers to CreateContainer.
pub type Adjust = fn(&nri::Container) -> nri::CreateContainerResponse;

impl Plugin {
    /// Registers at `socket`, and answers from now on.
    pub fn register(socket: &Path, adjust: Adjust) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let register = nri::RegisterPluginRequest {
            plugin_name: "purlin-test".into(),
            plugin_idx: "50".into(),
        };
        let call = nri::Call {
            service: "nri.pkg.api.v1alpha1.Runtime".into(),
            method: "RegisterPlugin".into(),
            payload: register.encode_to_vec().into(),
            timeout_nano: 0,
        };
        send(&mut &stream, Connection::Runtime, 1, Kind::Request, &call)?;
        let (tell, told) = mpsc::channel();
        let trunk = stream.try_clone()?;
        let answers = thread::spawn(move || _ = answer_all(trunk, adjust, &tell));
        Ok(Self { stream, told, answers: Some(answers) })
    }

    /// Waits until the runtime has told of everything.
    pub fn synchronized(&self) -> Result<Told> {
        let told = self.told.recv_timeout(SYNCHRONIZED);
        told.map_err(|_| format!("not synchronized within {SYNCHRONIZED:?}").into())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        _ = self.stream.shutdown(Shutdown::Both);
        _ = self.answers.take().map(JoinHandle::join);
    }
}

/// Until the connection ends.
fn answer_all(mut trunk: UnixStream, adjust: Adjust, tell: &mpsc::Sender<Told>) -> Result {
    let (mut decoder, mut buffer, mut told) =
        (Decoder::default(), vec![0; 1 << 16], Told::default());
    loop {
        let mut messages = Vec::new();
        let length = trunk.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        decoder.push(&buffer[..length], &mut messages)?;
        for message in messages.into_iter().filter(|message| message.kind == Kind::Request) {
            let call = nri::Call::decode(&message.payload[..])?;
            let mut synchronized = false;
            let payload = match call.method.as_str() {
                "Configure" => {
                    let events = 1 << (nri::Event::CreateContainer as i32 - 1);
                    nri::ConfigureResponse { events }.encode_to_vec()
                }
                "Synchronize" => {
                    let request = nri::SynchronizeRequest::decode(&call.payload[..])?;
                    told.bytes += call.payload.len();
                    told.messages += 1;
                    told.pods += request.pods.len();
                    told.containers += request.containers.len();
                    synchronized = !request.more;
                    let more = request.more;
                    nri::SynchronizeResponse { more, ..Default::default() }.encode_to_vec()
                }
                "CreateContainer" => {
                    let request = nri::ContainerRequest::decode(&call.payload[..])?;
                    adjust(&request.container.unwrap_or_default()).encode_to_vec()
                }
                _ => Vec::new(),
            };
            let reply = nri::Reply { status: None, payload: payload.into() };
            send(&mut trunk, Connection::Plugin, message.stream, Kind::Response, &reply)?;
            if synchronized {
                tell.send(std::mem::take(&mut told))?;
            }
        }
    }
}

fn send(
    trunk: &mut impl Write,
    connection: Connection,
    stream: u32,
    kind: Kind,
    message: &impl prost::Message,
) -> Result {
    let payload = message.encode_to_vec().into();
    Ok(trunk.write_all(&encode(&Message { connection, stream, kind, payload })?)?)
}
