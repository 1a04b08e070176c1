//! A file system of our own in a file, whose power can be cut.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::mount::{MntFlags, umount2};

use crate::{Lab, Result, ensure, wait};

/// How long others may still have a file open.
const UNMOUNT: Duration = Duration::from_secs(5);

/// `ioctl(fd, EXT4_IOC_SHUTDOWN or XFS_IOC_GOINGDOWN, NOLOGFLUSH)`, as soon as a line
/// is read: from then on nothing reaches the device. Perl, which every Debian has,
/// because nothing else that is safe can call it.
const CUT: &str = r#"open(my $dir, "<", $ARGV[0]) or die "$!\n"; my $flags = pack("L", 2);
$| = 1; print "armed\n"; <STDIN>; ioctl($dir, 0x8004587d, $flags) or die "$!\n";"#;

/// A mounted image. It is unmounted when it is dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    options: String,
}

impl Disk {
    /// Makes and mounts a file system of `mib` MiB; `kind` is ext4 or xfs.
    pub fn make(lab: &Lab, name: &str, kind: &str, mib: u64) -> Result<Self> {
        let (image, mount) = (lab.dir().join(format!("{name}.img")), lab.dir().join(name));
        File::create(&image)?.set_len(mib << 20)?;
        fs::create_dir_all(&mount)?;
        // No lazy work of the kernel's beside ours.
        let options: &[&str] =
            if kind == "ext4" { &["-F", "-E", "lazy_itable_init=0"] } else { &["-f"] };
        run(Command::new(format!("mkfs.{kind}")).arg("-q").args(options).arg(&image))?;
        let options = if kind == "ext4" { "loop,errors=remount-ro" } else { "loop" };
        let disk = Self { image, mount, options: options.into() };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it, as after a start.
    pub fn mount(&self) -> Result {
        run(Command::new("mount").args(["-o", &self.options]).arg(&self.image).arg(&self.mount))
    }

    /// Takes it away, even from those who use it.
    pub fn unmount(&self) -> Result {
        Ok(umount2(&self.mount, MntFlags::MNT_DETACH)?)
    }

    /// Makes everything ready for the power to fail at once.
    pub fn arm(&self) -> Result<Cutter> {
        let mut perl = Command::new("perl");
        perl.args(["-e", CUT]).arg(&self.mount).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut perl = perl.spawn()?;
        let mut armed = String::new();
        let said = perl.stdout.take().ok_or("no standard output")?;
        BufReader::new(said).read_line(&mut armed)?;
        ensure!(armed == "armed\n", "perl says {armed:?}");
        Ok(Cutter { perl })
    }

    /// The power fails: what was not durable is gone.
    pub fn cut(&self) -> Result {
        self.arm()?.cut()
    }

    /// Another disk with the same content in its place, whoever still holds the old one.
    pub fn replace(&mut self) -> Result {
        self.unmount()?;
        let copy = self.image.with_extension("copy");
        fs::copy(&self.image, &copy)?;
        self.image = copy;
        self.options = "loop".into();
        self.mount()
    }

    /// The kernel finds an error in the file system, and makes it read-only.
    pub fn turn_read_only(&self) -> Result {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let here = self.mount.to_string_lossy();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&*here));
        let device =
            line.and_then(|line| line.strip_prefix("/dev/")).and_then(|l| l.split(' ').next());
        let device = device.ok_or("not mounted")?;
        Ok(fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1")?)
    }

    /// The power comes back.
    pub fn cycle(&self) -> Result {
        // Whoever still has a file open would hold the device; a process that another
        // test is just starting has, until it is another program.
        wait::until("the disk is unmounted", UNMOUNT, || {
            umount2(&self.mount, MntFlags::empty()).map_err(|e| e.to_string())
        })?;
        self.mount()
    }
}

/// A hand at the plug.
#[derive(Debug)]
pub struct Cutter {
    perl: Child,
}

impl Cutter {
    /// Pulls it.
    pub fn cut(mut self) -> Result {
        self.perl.stdin.take().ok_or("no standard input")?.write_all(b"\n")?;
        let status = self.perl.wait()?;
        ensure!(status.success(), "perl: {status}");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = self.unmount();
    }
}

/// What can't be had for a disk of this kind.
pub fn missing(kind: &str) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices".into());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!known.lines().any(|line| line.trim() == kind)).then(|| format!("the kernel has no {kind}"))
}

fn run(command: &mut Command) -> Result {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
