//! The machine's disks: a Debian base, a kernel with its initial file system, and the payload.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{Places, test_file};
use crate::{images, layout, sh::sh, ui};

const SUITE: &str = "bookworm";

/// What a worker host has besides the minimal base: containerd as Debian ships it, and a registry in place of the
/// ones that the tutorial names.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,kmod,procps,iproute2,nftables,containerd,runc,docker-registry,ca-certificates";

/// The kernel's package: Debian's own for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Modules that the initial file system needs to find the disks, in the order in which they depend on each other.
const MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];

/// Where the registry is filled, on loopback, while the payload is made.
const REGISTRY: &str = "127.0.0.1:5055";

/// Makes `base.img` unless one of the same description is there.
pub(super) fn base(places: &Places) -> Result<()> {
    let image = places.at("base.img");
    let unit = fs::read(test_file(&places.root, "guest.service"))?;
    let description = description(&[SUITE.as_bytes(), PACKAGES.as_bytes(), KERNEL.as_bytes(), &unit]);
    if image.is_file() && fs::read_to_string(places.at("base.id")).is_ok_and(|id| id == description) {
        return Ok(());
    }
    let kernel = unpack_kernel(places)?;
    ui::step("making the Debian host of the VM suite", |step| {
        let root = places.at("rootfs");
        remove_tree(&root)?;
        step.detail("debootstrap");
        sh("debootstrap")
            .args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE])
            .arg(&root)
            .run()?;
        step.detail("setting it up");
        sh("cp").arg("-r").arg(kernel.join("lib/modules")).arg(root.join("lib/")).run()?;
        sh("chroot").arg(&root).args(["/sbin/depmod", &version_of(&kernel)?]).run()?;
        fs::write(root.join("etc/hostname"), "node-1\n")?;
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost node-1\n")?;
        fs::write(root.join("etc/resolv.conf"), "")?;
        fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 0\n/dev/vdb /payload ext4 ro 0 0\n")?;
        fs::create_dir_all(root.join("payload"))?;
        let units = root.join("etc/systemd/system");
        fs::write(units.join("gantry-vm.service"), &unit)?;
        // Only what the suite starts runs: no consoles to log in at, no daemons before their configuration.
        let systemctl = || sh("systemctl").arg(format!("--root={}", root.display()));
        systemctl().args(["enable", "gantry-vm.service"]).run()?;
        systemctl().args(["disable", "docker-registry.service", "containerd.service"]).run()?;
        systemctl().args(["mask", "getty.target", "serial-getty@ttyS0.service", "apt-daily.timer"]).run()?;
        sh("rm").arg("-rf").arg(root.join("var/cache/apt")).arg(root.join("var/lib/apt/lists")).run()?;
        step.detail("packing it");
        pack(&root, &image, "3G")?;
        remove_tree(&root)?;
        fs::write(places.at("base.id"), &description)?;
        Ok(String::new())
    })
}

/// Makes `vmlinuz` and `initrd` unless they are there.
pub(super) fn kernel(places: &Places) -> Result<()> {
    if places.at("vmlinuz").is_file() && places.at("initrd").is_file() {
        return Ok(());
    }
    let kernel = unpack_kernel(places)?;
    ui::step("making its kernel's initial file system", |_| {
        let version = version_of(&kernel)?;
        sh("cp").arg(kernel.join(format!("boot/vmlinuz-{version}"))).arg(places.at("vmlinuz")).run()?;
        let tree = places.at("initrd.tree");
        remove_tree(&tree)?;
        for directory in ["bin", "modules", "proc", "sys", "dev", "root"] {
            fs::create_dir_all(tree.join(directory))?;
        }
        sh("install").args(["-m", "0755", "/bin/busybox"]).arg(tree.join("bin/busybox")).run()?;
        let mut script = String::from(
            "#!/bin/busybox sh\nexport PATH=/bin\nbusybox mount -t proc proc /proc\nbusybox mount -t sysfs sysfs /sys\n\
             busybox mount -t devtmpfs dev /dev\n",
        );
        for module in MODULES {
            // Built in, where there is no such file.
            let found =
                sh("find").arg(kernel.join("lib/modules")).args(["-name", &format!("{module}.ko")]).text()?;
            if let Some(path) = found.lines().next() {
                fs::copy(path, tree.join(format!("modules/{module}.ko")))?;
                script.push_str(&format!("busybox insmod /modules/{module}.ko\n"));
            }
        }
        script.push_str(
            "while ! [ -b /dev/vda ]; do busybox sleep 0.1; done\nbusybox mount -t ext4 /dev/vda /root\n\
             busybox umount /proc\nbusybox umount /sys\nexec busybox switch_root /root /sbin/init\n",
        );
        let init = tree.join("init");
        fs::write(&init, script)?;
        sh("chmod").arg("0755").arg(&init).run()?;
        let pack =
            format!("find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > {:?}", places.at("initrd"));
        sh("sh").args(["-ec", &pack]).dir(&tree).run()?;
        remove_tree(&tree)?;
        Ok(version)
    })
}

/// Makes `payload.img`: what a user brings to a host, and the suite.
pub(super) fn payload(places: &Places, kubectl: &Path) -> Result<()> {
    let tree = places.at("payload");
    remove_tree(&tree)?;
    let bin = tree.join("bin");
    fs::create_dir_all(&bin)?;
    let built = places.root.join("target/release");
    for program in ["gantry-agent", "gantry-logger", "gantry-scheduler"] {
        sh("install").args(["-m", "0755"]).arg(built.join(program)).arg(bin.join(program)).run()?;
    }
    sh("install").args(["-m", "0755"]).arg(kubectl).arg(bin.join("kubectl")).run()?;
    let copy = |from: PathBuf| sh("cp").arg("-r").arg(from).arg(&tree).run();
    copy(places.root.join("config"))?;
    copy(places.root.join("config/examples/tutorial-fixtures.yaml"))?;
    copy(layout::tutorial()?.join("01-pod.yaml"))?;
    copy(test_file(&places.root, "run.sh"))?;
    copy(test_file(&places.root, "pods.yaml"))?;
    copy(test_file(&places.root, "service.yaml"))?;
    let registry = Registry::start(&tree.join("registry"), places)?;
    images::build_and_push(&places.root, REGISTRY)?;
    registry.stop()?;
    pack(&tree, &places.at("payload.img"), "1G")?;
    remove_tree(&tree)
}

/// A registry on this machine for as long as the payload is made.
struct Registry(Child);

impl Registry {
    fn start(storage: &Path, places: &Places) -> Result<Self> {
        fs::create_dir_all(storage)?;
        let config = places.at("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {storage:?}\nhttp:\n  addr: {REGISTRY}\n"
        );
        fs::write(&config, text)?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start docker-registry")?;
        let end = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(REGISTRY).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("docker-registry ended with {status}: is {REGISTRY} in use?");
            }
            if Instant::now() >= end {
                child.kill()?;
                bail!("docker-registry does not listen on {REGISTRY}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(Self(child))
    }

    fn stop(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Already over after `stop`; else the work between failed, and that failure is what counts.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The kernel's package, unpacked; the directory.
fn unpack_kernel(places: &Places) -> Result<PathBuf> {
    let unpacked = places.at("kernel");
    if unpacked.join("boot").is_dir() {
        return Ok(unpacked);
    }
    ui::step("fetching the kernel of the VM suite", |_| {
        let scratch = places.at("kernel.download");
        remove_tree(&scratch)?;
        fs::create_dir_all(&scratch)?;
        let depends = sh("apt-cache").args(["depends", "--important", KERNEL]).text()?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|p| p.starts_with("linux-image-")))
            .map(str::to_owned)
            .with_context(|| format!("apt knows no {KERNEL}: run apt-get update"))?;
        sh("apt-get").args(["-oAPT::Sandbox::User=root", "download", &package]).dir(&scratch).run()?;
        let deb = fs::read_dir(&scratch)?.flatten().next().context("apt-get downloaded nothing")?.path();
        sh("dpkg").arg("-x").arg(deb).arg(scratch.join("unpacked")).run()?;
        remove_tree(&unpacked)?;
        fs::rename(scratch.join("unpacked"), &unpacked)?;
        remove_tree(&scratch)?;
        Ok(package)
    })?;
    Ok(unpacked)
}

/// `6.1.0-56-cloud-amd64`
fn version_of(kernel: &Path) -> Result<String> {
    let modules = kernel.join("lib/modules");
    let entry = fs::read_dir(&modules)?.flatten().next().context("the kernel has no modules")?;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// A file system image of a tree, without mounting anything.
fn pack(tree: &Path, image: &Path, size: &str) -> Result<()> {
    drop(fs::remove_file(image));
    sh("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(image).arg(size).run()
}

fn remove_tree(path: &Path) -> Result<()> {
    sh("rm").args(["-rf", "--one-file-system"]).arg(path).run()
}

fn description(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
