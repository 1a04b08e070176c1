//! A client of the CRI, as small as these tests need one: gRPC calls over a Unix
//! socket, each on a connection of its own. Field numbers are those of
//! `k8s.io/cri-api`, `pkg/apis/runtime/v1/api.proto`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2, header::HeaderMap};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::{
    Message,
    bytes::{BufMut, Bytes},
};
use purlin_tests::Result;
use tokio::{net::UnixStream, runtime, time};

/// What any call may take, on a busy machine.
const CALL: Duration = Duration::from_secs(30);
/// Of the host's network namespace: no CNI is needed.
const NODE: i32 = 2;

/// The way to one runtime.
pub struct Cri {
    socket: PathBuf,
    runtime: runtime::Runtime,
}

/// A pod to run.
pub struct Pod<'a> {
    /// Its name, and its uid.
    pub name: &'a str,
    /// The cgroup that its containers' are below.
    pub cgroup: &'a str,
    /// Annotations.
    pub annotations: &'a [(&'a str, &'a str)],
}

impl Cri {
    /// Of the runtime at `socket`.
    pub fn at(socket: PathBuf) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket, runtime })
    }

    /// Whether it answers.
    pub fn version(&self) -> Result<String> {
        let answer: Version = self.call("RuntimeService/Version", &Nothing {})?;
        Ok(format!("{} {}", answer.name, answer.version))
    }

    /// Whether it has the image that all of these tests use.
    pub fn has_image(&self) -> Result<bool> {
        let image = Some(Image { name: super::IMAGE.into() });
        let answer: ImageStatus = self.call("ImageService/ImageStatus", &ImageStatus { image })?;
        Ok(answer.image.is_some())
    }

    /// Runs a pod in the host's network; its id.
    pub fn run_pod(&self, pod: &Pod) -> Result<String> {
        let request = RunPodSandbox { config: Some(pod.config()) };
        let answer: Id = self.call("RuntimeService/RunPodSandbox", &request)?;
        Ok(answer.id)
    }

    /// Creates a container that sleeps; its id.
    pub fn create(&self, pod: &Pod, pod_id: &str, name: &str, cpu: CpuLimit) -> Result<String> {
        let config = ContainerConfig {
            metadata: Some(Metadata { name: name.into(), ..Metadata::default() }),
            image: Some(Image { name: super::IMAGE.into() }),
            command: vec!["/bin/sleep".into(), "3600".into()],
            linux: Some(LinuxContainer {
                resources: Some(LinuxResources {
                    cpu_period: 100_000,
                    cpu_quota: i64::from(cpu.0) * 100_000,
                    cpu_shares: i64::from(cpu.0) * 1024,
                }),
            }),
        };
        let request = CreateContainer {
            pod: pod_id.into(),
            config: Some(config),
            pod_config: Some(pod.config()),
        };
        let answer: Id = self.call("RuntimeService/CreateContainer", &request)?;
        Ok(answer.id)
    }

    /// Starts a container.
    pub fn start(&self, id: &str) -> Result {
        self.call::<Nothing>("RuntimeService/StartContainer", &Id { id: id.into() }).map(drop)
    }

    /// Stops a container at once, and removes it.
    pub fn remove(&self, id: &str) -> Result {
        self.call::<Nothing>("RuntimeService/StopContainer", &Stop { id: id.into(), timeout: 0 })?;
        self.call::<Nothing>("RuntimeService/RemoveContainer", &Id { id: id.into() }).map(drop)
    }

    /// Sets a container's CPU limit again, as kubelet does to resize it.
    pub fn resize(&self, id: &str, cpu: CpuLimit) -> Result {
        let linux = LinuxResources {
            cpu_period: 100_000,
            cpu_quota: i64::from(cpu.0) * 100_000,
            cpu_shares: i64::from(cpu.0) * 1024,
        };
        let request = UpdateResources { id: id.into(), linux: Some(linux) };
        self.call::<Nothing>("RuntimeService/UpdateContainerResources", &request).map(drop)
    }

    /// Stops and removes every pod, and so every container.
    pub fn remove_all(&self) -> Result {
        let pods: Pods = self.call("RuntimeService/ListPodSandbox", &Nothing {})?;
        for pod in pods.items {
            self.call::<Nothing>("RuntimeService/StopPodSandbox", &pod)?;
            self.call::<Nothing>("RuntimeService/RemovePodSandbox", &pod)?;
        }
        Ok(())
    }

    fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A> {
        let message = request.encode_to_vec();
        let mut body = vec![0];
        body.put_u32(message.len() as u32);
        body.extend(message);
        let answered = async {
            match time::timeout(CALL, self.exchange(method, body)).await {
                Ok(answered) => answered,
                Err(_) => Err(format!("no answer within {CALL:?}")),
            }
        };
        let answer = self.runtime.block_on(answered).map_err(|e| format!("{method}: {e}"))?;
        Ok(A::decode(answer.get(5..).unwrap_or_default())?)
    }

    async fn exchange(&self, method: &str, body: Vec<u8>) -> std::result::Result<Bytes, String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(text)?;
        let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut client, connection) = connected.map_err(text)?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://runtime/runtime.v1.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .map_err(text)?;
        let answer = client.send_request(request).await.map_err(text)?;
        succeeded(answer.headers())?;
        let answer = answer.into_body().collect().await.map_err(text)?;
        succeeded(answer.trailers().unwrap_or(&HeaderMap::new()))?;
        Ok(answer.to_bytes())
    }
}

/// A container's limit in whole CPUs.
#[derive(Clone, Copy)]
pub struct CpuLimit(pub u32);

impl Pod<'_> {
    fn config(&self) -> PodConfig {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let namespaces = Some(Namespaces { network: NODE });
        PodConfig {
            metadata: Some(Metadata {
                name: self.name.into(),
                uid: self.name.into(),
                namespace: "default".into(),
            }),
            annotations: self.annotations.iter().map(owned).collect(),
            linux: Some(LinuxPod {
                cgroup_parent: self.cgroup.into(),
                security: Some(Security { namespaces }),
            }),
        }
    }
}

/// Fails with gRPC's own message, in the headers or in the trailers.
fn succeeded(fields: &HeaderMap) -> std::result::Result<(), String> {
    let field = |name| fields.get(name).and_then(|value| value.to_str().ok());
    match field("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err(format!("code {code}: {}", field("grpc-message").unwrap_or_default())),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// Answers and requests whose first field is an id.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

/// The request, and the answer: with an image if there is one.
#[derive(Clone, PartialEq, Message)]
struct ImageStatus {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Pods {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Id>,
}

#[derive(Clone, PartialEq, Message)]
struct Stop {
    #[prost(string, tag = "1")]
    id: String,
    /// Seconds.
    #[prost(int64, tag = "2")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PodConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(btree_map = "string, string", tag = "7")]
    annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPod>,
}

/// Of a pod, and of a container, which has only a name.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxPod {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<Security>,
}

#[derive(Clone, PartialEq, Message)]
struct Security {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pod_config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxContainer {
    #[prost(message, optional, tag = "1")]
    resources: Option<LinuxResources>,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxResources {
    /// Microseconds.
    #[prost(int64, tag = "1")]
    cpu_period: i64,
    /// Microseconds in each period.
    #[prost(int64, tag = "2")]
    cpu_quota: i64,
    #[prost(int64, tag = "3")]
    cpu_shares: i64,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateResources {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    linux: Option<LinuxResources>,
}
