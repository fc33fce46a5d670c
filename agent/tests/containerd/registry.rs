//! Debian's docker-registry on a loopback port of the test's own.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::image::TestImage;

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Child,
    /// `127.0.0.1:<port>`
    pub(crate) address: String,
}

impl Registry {
    /// Starts an open one with its files below `directory`.
    pub(crate) fn start(directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let root = directory.join(format!("registry-{port}"));
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root:?}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: {address:?}}}\n"
        );
        let file = directory.join(format!("registry-{port}.yml"));
        fs::write(&file, config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is not installed");
        let registry = Self { process, address };
        let deadline = Instant::now() + Duration::from_secs(15);
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Puts an image into it.
    pub(crate) fn push(&self, directory: &Path, image: &TestImage, name: &str) {
        let archive = image.write(directory, name);
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--all"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
