//! Test images: busybox with a few users, as an OCI layout in a tar archive, written by hand so that the test
//! knows every byte.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::host::Host;

const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "echo", "id", "env", "ls", "true", "false", "head", "yes", "kill", "stat", "tr",
    "wc", "nc", "mount", "unshare", "hostname", "touch", "dd", "stty", "seq", "printf", "grep", "ps",
];

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// `application/vnd.oci.image.layer.v1.tar`
    None,
    /// `...tar+gzip`
    Gzip,
    /// `...tar+zstd`
    Zstd,
}

/// An image to be.
#[derive(Clone, Debug)]
pub(crate) struct TestImage {
    /// Further files: path and content. Each becomes a layer of its own.
    pub(crate) layers: Vec<(String, Vec<u8>, Compression)>,
    /// The `config` object.
    pub(crate) config: serde_json::Value,
    /// Put the manifest behind an index with other platforms.
    pub(crate) index: bool,
}

impl Default for TestImage {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            config: json!({"Entrypoint": ["/bin/sh", "-c"], "Env": ["FROM=image"]}),
            index: false,
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn file(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    archive.append_data(&mut header, path, content).unwrap();
}

fn directory(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    header.set_cksum();
    archive.append_data(&mut header, path, &[][..]).unwrap();
}

fn base_layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode) in
        [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("proc", 0o555), ("sys", 0o555), ("dev", 0o755)]
    {
        directory(&mut archive, path, mode);
    }
    file(
        &mut archive,
        "bin/busybox",
        &fs::read("/bin/busybox").expect("busybox-static is not installed"),
        0o755,
    );
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    file(
        &mut archive,
        "etc/passwd",
        b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
        0o644,
    );
    file(&mut archive, "etc/group", b"root:x:0:\napp:x:1001:\nlogs:x:1002:app\n", 0o644);
    archive.into_inner().unwrap()
}

fn compress(bytes: &[u8], how: Compression) -> (Vec<u8>, &'static str) {
    match how {
        Compression::None => (bytes.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            (encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
        }
        Compression::Zstd => {
            (zstd::encode_all(bytes, 1).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd")
        }
    }
}

struct Layout {
    archive: tar::Builder<Vec<u8>>,
}

impl Layout {
    fn blob(&mut self, bytes: &[u8], media_type: &str) -> serde_json::Value {
        let digest = digest(bytes);
        file(&mut self.archive, &format!("blobs/sha256/{}", &digest[7..]), bytes, 0o644);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }
}

impl TestImage {
    /// The archive, with `name` as the image's reference.
    pub(crate) fn archive(&self, name: &str) -> Vec<u8> {
        let mut layout = Layout { archive: tar::Builder::new(Vec::new()) };
        let mut contents = vec![(base_layer(), Compression::Gzip)];
        for (path, content, compression) in &self.layers {
            let mut archive = tar::Builder::new(Vec::new());
            file(&mut archive, path, content, 0o644);
            contents.push((archive.into_inner().unwrap(), *compression));
        }
        let diff_ids: Vec<String> = contents.iter().map(|(bytes, _)| digest(bytes)).collect();
        let layers: Vec<_> = contents
            .iter()
            .map(|(bytes, how)| {
                let (bytes, media_type) = compress(bytes, *how);
                layout.blob(&bytes, media_type)
            })
            .collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"os": "linux", "architecture": architecture, "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = layout.blob(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        let mut manifest = layout.blob(manifest.to_string().as_bytes(), manifest_type);
        if self.index {
            manifest["platform"] = json!({"os": "linux", "architecture": architecture});
            let index_type = "application/vnd.oci.image.index.v1+json";
            let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [manifest]});
            manifest = layout.blob(index.to_string().as_bytes(), index_type);
        }
        manifest["annotations"] =
            json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        file(&mut layout.archive, "index.json", index.to_string().as_bytes(), 0o644);
        file(&mut layout.archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
        layout.archive.into_inner().unwrap()
    }

    /// Writes the archive into a file.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(format!("{}.tar", name.replace(['/', ':'], "_")));
        fs::write(&path, self.archive(name)).unwrap();
        path
    }

    /// Imports and unpacks it with containerd's own client.
    pub(crate) fn import(&self, host: &Host, name: &str) {
        let archive = self.write(host.path(), name);
        let output = Command::new("ctr")
            .arg("--address")
            .arg(host.socket())
            .args(["--namespace", host.namespace(), "images", "import"])
            .arg(archive)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
