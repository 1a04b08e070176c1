//! What a process keeps itself from for as long as it lives, and every child with it:
//! files that are none of its own (Landlock), and system calls that it never makes
//! (seccomp). It holds wherever Purlin runs, under systemd's sandbox or without one.
//!
//! It is entered once, before there is a second thread. A kernel that has neither is no
//! reason not to run; what came of it is told ([`Sandbox`]).
//!
//! Deliberately absent: TCP ports, which documents name while the agent runs; and a list
//! of system calls that are *allowed*, which the next C library would break on a node that
//! nobody can reach.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, path_beneath_rules,
};
use nix::{libc, unistd::Uid};
use purlin_proto::api;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Rights that are asked for; an older kernel gives those that it has.
const NEWEST: ABI = ABI::V5;

/// Where programs, libraries, settings and the machine are read. A user's files, mounted
/// disks and temporary files of others are not among them.
const READ: [&str; 14] = [
    "/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/run", "/sbin", "/sys",
    "/usr", "/var", "/dev",
];
/// What a helper writes that is this process' child, where that may (`purlin helper write`).
const ROOTS: [&str; 3] = ["/proc", "/sys", "/etc/kubernetes"];

/// Never made by the agent, a helper of its or the mesh, and each a way out of, or into,
/// something else.
const REFUSED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // The kernel's large and often mended interfaces.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_fanotify_init,
    libc::SYS_open_by_handle_at,
    // What the machine looks like from here.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    // The machine itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
];
/// Sockets of any other family are no business of ours.
const FAMILIES: [libc::c_int; 5] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];
/// A new process in a namespace of its own has every capability there.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// Type into the terminal of whoever started this.
const INTO_TERMINALS: [u32; 2] = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];

/// What a process is kept from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Landlock's ABI that is enforced.
    landlock: Result<i32, String>,
    /// Whether system calls are filtered.
    seccomp: Result<(), String>,
}

impl Sandbox {
    /// Keeps this process from all files but those that everybody's programs are made of,
    /// what is below `read`, and below its `own`, where it may write; and from what it never
    /// asks of the kernel.
    pub fn enter(own: &[PathBuf], read: &[PathBuf]) -> Self {
        let entered = Self { landlock: files(own, read), seccomp: calls() };
        for (name, why) in [
            ("Landlock", entered.landlock.as_ref().err()),
            ("seccomp", entered.seccomp.as_ref().err()),
        ] {
            if let Some(why) = why {
                tracing::warn!(why, "this process is not kept in by {name}");
            }
        }
        entered
    }

    /// As the status tells it.
    pub fn view(&self) -> api::Sandbox {
        let why = [self.landlock.as_ref().err(), self.seccomp.as_ref().err()];
        api::Sandbox {
            landlock_abi: self.landlock.clone().ok(),
            seccomp: self.seccomp.is_ok(),
            why_not: why.into_iter().flatten().cloned().collect(),
        }
    }
}

fn files(own: &[PathBuf], more: &[PathBuf]) -> Result<i32, String> {
    let told = |error: landlock::RulesetError| format!("Landlock: {error}");
    let read = AccessFs::from_read(NEWEST);
    let device = read | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::Truncate;
    let program = env::current_exe().ok();
    let program = program.as_deref().and_then(Path::parent);
    let roots: &[&str] = if Uid::effective().is_root() { &ROOTS } else { &[] };
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(Ruleset::create)
        // What is not there on this machine has no rule.
        .and_then(|rules| rules.add_rules(path_beneath_rules(READ, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(program, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(more, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/dev"], device)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(roots, AccessFs::from_all(NEWEST))))
        .and_then(|rules| rules.add_rules(path_beneath_rules(own, AccessFs::from_all(NEWEST))))
        .and_then(|rules| rules.restrict_self())
        .map_err(told)?;
    match restricted.landlock {
        LandlockStatus::Available { effective_abi, .. } => Ok(effective_abi as i32),
        LandlockStatus::NotEnabled => {
            Err("Landlock is switched off: add it to lsm= of the kernel's command line".into())
        }
        LandlockStatus::NotImplemented => Err("no Landlock: the kernel is older than Linux 5.13 \
                                               or built without it, or a filter refuses its \
                                               system calls"
            .into()),
    }
}

fn calls() -> Result<(), String> {
    let told = |error: &dyn std::error::Error| format!("seccomp: {error}");
    let refused = refused().map_err(|error| told(&error))?;
    // Its flags are out of a filter's sight. The C library takes `clone` where it is not.
    let unseen = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (rules, error) in [(refused, libc::EPERM), (unseen, libc::ENOSYS)] {
        let arch = env::consts::ARCH
            .try_into()
            .map_err(|error: seccompiler::BackendError| told(&error))?;
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(error as u32),
            arch,
        );
        let filter: BpfProgram =
            filter.and_then(TryInto::try_into).map_err(|error| told(&error))?;
        seccompiler::apply_filter(&filter).map_err(|error| told(&error))?;
    }
    Ok(())
}

/// Rules by system call: one that matches is refused, and no rule at all matches always.
fn refused() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let only = |argument, op, value| {
        SeccompCondition::new(argument, Len::Dword, op, value)
            .and_then(|it| SeccompRule::new(vec![it]))
    };
    let mut rules: BTreeMap<_, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let other =
        FAMILIES.iter().map(|family| SeccompCondition::new(0, Len::Dword, Op::Ne, *family as u64));
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other.collect::<Result<_, _>>()?)?]);
    let apart = NAMESPACES.iter().map(|flag| only(0, Op::MaskedEq(*flag as u64), *flag as u64));
    rules.insert(libc::SYS_clone, apart.collect::<Result<_, _>>()?);
    let typing = INTO_TERMINALS.iter().map(|command| only(1, Op::Eq, u64::from(*command)));
    rules.insert(libc::SYS_ioctl, typing.collect::<Result<_, _>>()?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, thread};

    use nix::{
        errno::Errno,
        sched::{CloneFlags, unshare},
        sys::socket::{AddressFamily, SockFlag, SockType, socket},
    };

    use super::*;

    /// In a thread of its own: it holds for that one, and its children.
    fn inside<T: Send>(own: &Path, work: impl FnOnce(Sandbox) -> T + Send) -> T {
        let work = || work(Sandbox::enter(&[own.to_owned()], &[]));
        thread::scope(|scope| scope.spawn(work).join().expect("it ended"))
    }

    #[test]
    fn what_is_not_its_own_is_closed_to_it_and_its_own_is_open() {
        let [own, foreign] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        fs::write(foreign.path().join("secret"), "s").expect("written");
        let sandbox = inside(own.path(), |sandbox| {
            if sandbox.landlock.is_err() {
                return sandbox;
            }
            let closed = |result: std::io::Result<()>| {
                assert_eq!(result.expect_err("closed").kind(), ErrorKind::PermissionDenied);
            };
            closed(fs::read(foreign.path().join("secret")).map(drop));
            closed(fs::write(foreign.path().join("new"), "n"));
            closed(fs::remove_file(foreign.path().join("secret")));
            closed(fs::write("/usr/lib/purlin-test", "n"));
            fs::create_dir(own.path().join("spool")).expect("made");
            fs::write(own.path().join("a"), "1").expect("written");
            fs::rename(own.path().join("a"), own.path().join("spool/a")).expect("moved");
            assert!(!fs::read("/proc/self/status").expect("read").is_empty());
            fs::write("/dev/null", "n").expect("a device takes it");
            sandbox
        });
        // A kernel without it is told of, with what to do.
        if let Err(why) = sandbox.landlock {
            assert!(why.contains("kernel"), "{why}");
        }
    }

    #[test]
    fn ways_into_other_processes_and_namespaces_are_refused_and_all_else_is_not() {
        inside(Path::new("/nowhere"), |sandbox| {
            sandbox.seccomp.expect("every kernel that a test runs on has it");
            for flags in [CloneFlags::CLONE_NEWUSER, CloneFlags::CLONE_NEWNET] {
                assert_eq!(unshare(flags), Err(Errno::EPERM));
            }
            let open = |family| socket(family, SockType::Stream, SockFlag::empty(), None);
            assert_eq!(open(AddressFamily::Vsock).map(drop), Err(Errno::EPERM));
            for family in [AddressFamily::Unix, AddressFamily::Inet, AddressFamily::Inet6] {
                open(family).expect("ours");
            }
            thread::spawn(|| ()).join().expect("a thread starts");
            let child = std::process::Command::new("/bin/true").status();
            assert!(child.expect("a process starts").success());
        });
    }
}
