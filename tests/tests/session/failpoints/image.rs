//! Images of the test's own: busybox with a shell, as an archive that containerd's client and skopeo take, and a registry
//! to pull them from.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bed::run;
use crate::PATIENCE;

/// Where the registry listens, in a network of the test's own.
const REGISTRY: &str = "127.0.0.1:5000";

/// An image as an archive.
pub(super) struct Image {
    pub(super) archive: PathBuf,
    /// Digest of its one layer, unpacked.
    pub(super) layer: String,
}

impl Image {
    /// Makes an image below `dir` for the name `name`, unlike those of any other name.
    pub(super) fn make(dir: &Path, name: &str) -> Result<Self> {
        let dir = dir.join("images").join(name.replace(['/', ':'], "_"));
        let layout = dir.join("layout");
        let (root, blobs) = (dir.join("rootfs"), layout.join("blobs/sha256"));
        for directory in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::create_dir_all(&blobs)?;
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
        for applet in ["sh", "sleep", "cat"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
        fs::write(root.join("etc/issue"), name)?;
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(blobs.join("layer")).arg("."))?;
        let blob = |name: &str| -> Result<(String, u64)> {
            let path = blobs.join(name);
            let sum = run(Command::new("sha256sum").arg(&path))?;
            let digest = sum.split(' ').next().unwrap_or_default().to_owned();
            let size = fs::metadata(&path)?.len();
            fs::rename(&path, blobs.join(&digest))?;
            Ok((format!("sha256:{digest}"), size))
        };
        let made = |name: &str, media: &str, content: Value| -> Result<Value> {
            fs::write(blobs.join(name), content.to_string())?;
            let (digest, size) = blob(name)?;
            Ok(json!({"mediaType": media, "digest": digest, "size": size}))
        };
        let (layer, size) = blob("layer")?;
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"os": "linux", "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]}});
        let config = made("config", "application/vnd.oci.image.config.v1+json", config)?;
        let media = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": media, "config": config,
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}]});
        let mut manifest = made("manifest", media, manifest)?;
        manifest["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(layout.join("index.json"), index.to_string())?;
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let archive = dir.join("image.tar");
        run(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).args([
            "index.json",
            "oci-layout",
            "blobs",
        ]))?;
        Ok(Self { archive, layer })
    }
}

/// Debian's docker-registry; ends with the value.
pub(super) struct Registry {
    process: Child,
    dir: PathBuf,
}

impl Registry {
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: {REGISTRY:?}}}\n",
            dir.join("registry")
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().context("docker-registry is not installed")?;
        let registry = Self { process, dir: dir.to_owned() };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(REGISTRY).is_err() {
            ensure!(Instant::now() < end, "the registry does not answer");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(registry)
    }

    /// An image that nobody has yet; its reference and its layer.
    pub(super) fn push(&self, name: &str) -> Result<(String, String)> {
        let reference = format!("{REGISTRY}/{name}");
        let image = Image::make(&self.dir, &reference)?;
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("oci-archive:{}", image.archive.display()))
            .arg(format!("docker://{reference}")))?;
        Ok((reference, image.layer))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
