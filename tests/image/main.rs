//! The package in a clean root: installed, started as the unit would start it,
//! asked, removed.
//!
//! There is no service manager in a chroot, so what systemd itself does (the
//! sandbox, the watchdog) is not shown here; the unit is only checked and scored.

#![forbid(unsafe_code)]

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::Signal,
    unistd::{Gid, Uid},
};
use purlin_proto::api::{MeshState, Mode};
use purlin_tests::{Lab, Need, Node, Result, ensure, process::Process, test};

/// `systemd-analyze security`: 10 is a bare unit. As an own user without
/// capabilities, but with the network and `/proc`, the agent was 1.8; the mesh, without
/// `/proc` and with one capability, 1.4.
const MOST_EXPOSED: [(&str, f64); 3] =
    [("purlind.service", 2.0), ("purlin-mesh.service", 1.5), ("purlin-intercept.service", 2.0)];

/// For whatever has to start, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What the package brings besides the binary.
const FILES: [&str; 19] = [
    "etc/purlin/purlin.toml",
    "usr/lib/systemd/system/purlind.service",
    "usr/lib/systemd/system/purlin-mesh.service",
    "usr/lib/systemd/system/purlin-intercept.service",
    "usr/lib/systemd/system/purlin-intercept.path",
    "usr/lib/systemd/system/purlin-intercept-reload.service",
    "usr/lib/systemd/system/purlin-helper.socket",
    "usr/lib/systemd/system/purlin-helper@.service",
    "usr/lib/systemd/system/purlin-gpu.socket",
    "usr/lib/systemd/system/purlin-gpu@.service",
    "usr/lib/systemd/system/purlin-nic.socket",
    "usr/lib/systemd/system/purlin-nic@.service",
    "usr/lib/systemd/system/purlin-cdi.path",
    "usr/lib/systemd/system/purlin-cdi.service",
    "usr/lib/sysusers.d/purlin.conf",
    "usr/lib/tmpfiles.d/purlin.conf",
    "usr/lib/udev/rules.d/60-purlin.rules",
    "usr/share/man/man1/purlin-status.1.gz",
    "usr/share/bash-completion/completions/purlin",
];

/// Enters the root in a mount namespace of the command's own, so that nothing
/// stays mounted.
const ENTER: &str = r#"mount -t proc proc "$0/proc" && mount --rbind /sys "$0/sys" &&
    mount --rbind /dev "$0/dev" && exec chroot "$@""#;

fn main() -> ExitCode {
    let needs = [
        Need::Root,
        Need::Path("PURLIN_DEB"),
        Need::Path("PURLIN_ROOT"),
        Need::Program("unshare"),
        Need::Program("systemd-analyze"),
    ];
    let tests = [
        test("the_unit_is_valid_and_locked_down", 60, unit),
        test("the_package_starts_in_a_clean_root_and_leaves_it_clean", 120, package),
    ];
    purlin_tests::run(tests.into_iter().map(|test| test.needs(&needs)))
}

fn unit(lab: &Lab) -> Result {
    let root = installed(lab)?;
    for (name, most) in MOST_EXPOSED {
        let unit = root.join("usr/lib/systemd/system").join(name);
        let option = format!("--root={}", root.display());
        run(Command::new("systemd-analyze").args(["verify", "--man=no", &option]).arg(&unit))?;
        let security = ["security", "--offline=true", "--no-pager"];
        let output = run(Command::new("systemd-analyze").args(security).arg(&unit))?;
        let score: f64 = output
            .lines()
            .find_map(|line| line.split_once("Overall exposure level for "))
            .and_then(|(_, rest)| rest.split_whitespace().nth(1))
            .ok_or("no overall exposure level")?
            .parse()?;
        println!("{name}: exposure {score} of 10");
        ensure!(score <= most, "{name}: exposure {score}, at most {most}");
    }
    Ok(())
}

fn package(lab: &Lab) -> Result {
    let root = installed(lab)?;
    for file in FILES {
        ensure!(root.join(file).exists(), "the package has no {file}");
    }
    let enabled = format!("--root={}", root.display());
    for unit in ["purlind.service", "purlin-mesh.service"] {
        run(Command::new("systemctl").args([&enabled, "is-enabled", unit]))?;
    }

    let user = as_the_unit_would(&root)?;
    let mut node = inside(lab, &root, &["--userspec=purlin:purlin"])?;
    let technician = inside(lab, &root, &[])?;
    node.launch()?;
    let status = purlin_tests::wait::until("purlin status", SOON, || {
        technician.status().map_err(|e| format!("{e:?}"))
    })?;
    ensure!(status.mode == Mode::System, "mode {:?}", status.mode);
    ensure!(status.state_dir == "/var/lib/purlin", "{}", status.state_dir);
    ensure!(status.faults.is_empty(), "faults: {:?}", status.faults);
    let owner = fs::metadata(format!("/proc/{}", node.pid()?))?;
    ensure!(owner.uid() == user.as_raw(), "not its own user");
    println!("clean root: ready after {} ms", status.ready_after_ms);
    mesh(lab, &root, &node)?;
    node.stop()?;

    run(Command::new("chroot").arg(&root).args(["dpkg", "--purge", "purlin"]))?;
    for left in
        ["usr/bin/purlin", "etc/purlin/purlin.toml", "var/lib/purlin", "var/lib/purlin-mesh"]
    {
        ensure!(!root.join(left).exists(), "{left} is left after a purge");
    }
    Ok(())
}

/// The mesh as its own user takes a table from the agent, and from nobody else's.
fn mesh(lab: &Lab, root: &Path, technician: &Node) -> Result {
    let folder = root.join("run/purlin-mesh");
    let mut mesh = inside(lab, root, &["--userspec=purlin-mesh:purlin-mesh"])?;
    mesh.set("HOME", "/");
    let log = fs::File::create(lab.dir().join("mesh.log"))?;
    let process = Process::start(mesh.command(&[]).arg("mesh").stdout(Stdio::null()).stderr(log))?;
    let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let document = format!(
        "[[mesh.listeners]]\nname = \"web\"\naddress = \"{at}\"\n\
         [[mesh.routes]]\nname = \"old\"\nlisteners = [\"web\"]\n\
         rules = [{{ request_redirect = {{ hostname = \"new\" }} }}]\n"
    );
    fs::write(root.join("mesh.toml"), document)?;
    purlin_tests::wait::until("the mesh has its socket", SOON, || {
        fs::metadata(folder.join("mesh.sock")).map(drop).map_err(|e| e.to_string())
    })?;
    let applied = technician.cli(&["config", "apply", "/mesh.toml"])?;
    ensure!(applied.code == 0, "{applied:?}");
    let seen = technician.status()?.mesh;
    ensure!((seen.state, seen.generation) == (MeshState::Up, 1), "{seen:?}");
    ensure!(TcpStream::connect(at).is_ok(), "it listens at {at}");
    let owner = fs::metadata(format!("/proc/{}", process.pid()))?.uid();
    ensure!(owner == fs::metadata(&folder)?.uid() && owner != 0, "not its own user: {owner}");
    process.signal(Signal::SIGTERM)?;
    ensure!(process.wait(SOON)?.0.success(), "it ends well");
    Ok(())
}

/// A clean root with the package installed.
fn installed(lab: &Lab) -> Result<PathBuf> {
    let root = lab.dir().join("root");
    fs::create_dir(&root)?;
    run(Command::new("tar").arg("-xf").arg(path("PURLIN_ROOT")).arg("-C").arg(&root))?;
    fs::copy(path("PURLIN_DEB"), root.join("purlin.deb"))?;
    run(Command::new("chroot").arg(&root).args(["dpkg", "--install", "/purlin.deb"]))?;
    Ok(root)
}

/// The directories of `StateDirectory=`, `RuntimeDirectory=` and tmpfiles.d; the owner
/// of the unit's own.
fn as_the_unit_would(root: &Path) -> Result<Uid> {
    let passwd = fs::read_to_string(root.join("etc/passwd"))?;
    let ids = |user: &str| -> Result<(Uid, Gid)> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(user));
        let line = line.ok_or_else(|| format!("no user {user}"))?;
        let ids: Vec<u32> = line.split(':').skip(2).take(2).flat_map(str::parse).collect();
        let &[uid, gid] = ids.as_slice() else { return Err(format!("{line}: no ids").into()) };
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    };
    for user in ["purlin", "purlin-mesh"] {
        let (uid, gid) = ids(user)?;
        for folder in ["var/lib", "run"].map(|parent| root.join(parent).join(user)) {
            fs::create_dir_all(&folder)?;
            chown(&folder, Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
    }
    let tmpfiles = format!("--root={}", root.display());
    run(Command::new("systemd-tmpfiles").args([&tmpfiles, "--create", "purlin.conf"]))?;
    let cdi = fs::metadata(root.join("run/cdi"))?;
    let mode = cdi.mode() & 0o7777;
    // Who writes there says what a runtime starts as root.
    ensure!(mode == 0o755 && cdi.uid() == 0, "run/cdi: mode {mode:o}, owner {}", cdi.uid());
    Ok(ids("purlin")?.0)
}

/// The installed binary, run inside the root.
fn inside(lab: &Lab, root: &Path, options: &[&str]) -> Result<Node> {
    let mut node = Node::standalone(lab, "inside")?;
    let root = root.to_string_lossy();
    let before = ["unshare", "--mount", "sh", "-c", ENTER, &root];
    node.run_with(&[&before, options, &[&root]].concat(), Path::new("/usr/bin/purlin"));
    Ok(node)
}

fn path(variable: &str) -> PathBuf {
    env::var_os(variable).map(PathBuf::from).unwrap_or_default()
}

/// Runs it to its end; what it said, or why it failed.
fn run(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output()?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    let stderr = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{command:?}: {status}\n{said}{stderr}");
    Ok(said)
}
