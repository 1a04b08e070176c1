//! Through NRI.

use purlin_proto::nri;
use purlin_tests::{Lab, Result, Test, ensure, test};

use crate::{
    containerd::{Containerd, Line, NEEDS},
    cri::CpuLimit,
    plugin::{Plugin, Told},
};

/// Each against both lines of containerd.
pub fn tests() -> impl IntoIterator<Item = Test> {
    [
        test("nri::containerd_1::a_reply_of_any_size_is_taken", 60, |lab| sizes(lab, Line::One)),
        test("nri::containerd_2::a_reply_of_any_size_is_taken", 60, |lab| sizes(lab, Line::Two)),
        test("nri::containerd_1::three_megabytes_are_synchronized", 60, |lab| {
            three_megabytes(lab, Line::One)
        }),
        test("nri::containerd_2::three_megabytes_are_synchronized", 60, |lab| {
            three_megabytes(lab, Line::Two)
        }),
        test("nri::containerd_2::six_megabytes_are_synchronized_in_parts", 60, six_megabytes),
    ]
    .map(|test| test.needs(&NEEDS))
}

const FILL: &str = "purlin.dev/fill";

/// Replies of 100 B, 5 KB, 200 KB and 3 MB: each pins, and arrives whole.
fn sizes(lab: &Lab, line: Line) -> Result {
    /// The name of a container is the size of what is said about it.
    fn adjust(container: &nri::Container) -> nri::CreateContainerResponse {
        let fill = "x".repeat(container.name.parse().unwrap_or(0));
        let cpu = nri::LinuxCpu { cpus: "1".into(), mems: "0".into(), ..Default::default() };
        let resources = nri::LinuxResources { cpu: Some(cpu), ..Default::default() };
        let adjust = nri::ContainerAdjustment {
            annotations: [(FILL.into(), fill)].into(),
            linux: Some(nri::LinuxContainerAdjustment { resources: Some(resources) }),
            ..Default::default()
        };
        nri::CreateContainerResponse { adjust: Some(adjust), update: Vec::new() }
    }
    let containerd = Containerd::start(lab, line)?;
    let plugin = Plugin::register(&containerd.nri_socket(), adjust)?;
    plugin.synchronized()?;
    let pod = containerd.pod("sizes", &[]);
    let pod_id = containerd.cri.run_pod(&pod)?;
    for size in [50_usize, 100, 4_000, 4_096, 5_000, 8_192, 200_000, 3_000_000, 4_190_000] {
        let id = containerd.cri.create(&pod, &pod_id, &size.to_string(), CpuLimit(1))?;
        containerd.cri.start(&id)?;
        let cpus = containerd.cpuset(&id, "cpuset.cpus")?;
        ensure!(cpus == "1", "with {size} B: cpuset.cpus is {cpus}");
        let spec = containerd.spec(&id)?;
        let length = spec["annotations"][FILL].as_str().map_or(0, str::len);
        ensure!(length == size, "{length} of {size} B have arrived");
        containerd.cri.remove(&id)?;
    }
    Ok(())
}

/// Pods whose annotations are so many bytes together, in one message.
fn three_megabytes(lab: &Lab, line: Line) -> Result {
    let told = told_of(lab, line, 3_000_000)?;
    ensure!(told.bytes > 3_000_000 && told.messages == 1, "{told:?}");
    Ok(())
}

/// More than fits one message: only NRI 0.8 and later divides it.
fn six_megabytes(lab: &Lab) -> Result {
    let told = told_of(lab, Line::Two, 6_000_000)?;
    ensure!(told.bytes > 6_000_000 && told.messages > 1, "{told:?}");
    Ok(())
}

fn told_of(lab: &Lab, line: Line, bytes: usize) -> Result<Told> {
    const PODS: usize = 12;
    let containerd = Containerd::start(lab, line)?;
    let fill = "x".repeat(bytes / PODS);
    let annotations = [(FILL, fill.as_str())];
    let names: Vec<String> = (0..PODS).map(|at| format!("pod-{at}")).collect();
    for name in &names {
        containerd.cri.run_pod(&containerd.pod(name, &annotations))?;
    }
    let plugin = Plugin::register(&containerd.nri_socket(), |_| Default::default())?;
    let told = plugin.synchronized()?;
    ensure!(told.pods == PODS, "{told:?}");
    println!("{told:?}");
    Ok(told)
}
