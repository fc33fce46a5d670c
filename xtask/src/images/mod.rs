//! The demonstration images: the project's own workload, static, with busybox for a shell, as OCI images built
//! with umoci and pushed to the cluster's registry with skopeo.

pub(crate) mod postgres;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{
    compile, packages,
    sh::{cargo, sh},
    ui,
};

/// One image: repository, tag and what runs in it.
pub(crate) struct Image {
    /// Repository in the local registry.
    pub(crate) repository: &'static str,
    /// Tag.
    pub(crate) tag: &'static str,
    command: &'static [&'static str],
}

/// All of them. Two versions of the web application, so that there is something to roll out.
pub(crate) const IMAGES: &[Image] = &[
    Image { repository: "gantry/web-app", tag: "2.1.0", command: &["serve", "--udp-port", "8081"] },
    Image { repository: "gantry/web-app", tag: "2.2.0", command: &["serve", "--udp-port", "8081"] },
    Image { repository: "gantry/log-follower", tag: "2.2", command: &["follow", "/var/log/app"] },
];

/// Foreign names that the clusters of `up` and `test` serve from local images: how the tutorial's files run
/// unchanged where its registries are out of reach.
pub(crate) const ALIASES: &[(&str, &str)] = &[
    ("registry.company.com/web-app", "gantry/web-app"),
    ("fluent/fluent-bit", "gantry/log-follower"),
    ("postgres:16.1", "gantry/postgres:15"),
];

/// Builds the static workload; returns the binary.
pub(crate) fn build_workload(root: &Path, step: &mut ui::Step) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let command = cargo()
        .dir(root)
        // Naming the target keeps the flag away from build scripts and proc macros.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args(["build", "--release", "--package", "gantry-workload", "--target", &target]);
    compile::telling(command, step)?;
    Ok(root.join("target").join(target).join("release/gantry-workload"))
}

/// Builds every image and pushes it to `registry` (host:port, plain HTTP).
pub(crate) fn build_and_push(root: &Path, registry: &str) -> Result<()> {
    let busybox = packages::busybox(&root.join("target/tools"))?;
    ui::step("making the demonstration images", |step| {
        let workload = build_workload(root, step)?;
        let scratch = tempfile::tempdir().context("no temporary directory")?;
        for image in IMAGES {
            step.detail(format!("{}:{}", image.repository, image.tag));
            let layout = build(scratch.path(), image, &workload, &busybox)?;
            sh("skopeo")
                .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
                .arg(format!("oci:{}:{}", layout.display(), image.tag))
                .arg(format!("docker://{registry}/{}:{}", image.repository, image.tag))
                .run()?;
        }
        let names: Vec<String> = IMAGES.iter().map(|i| format!("{}:{}", i.repository, i.tag)).collect();
        Ok(names.join(", "))
    })
}

/// One image as an OCI layout below `scratch`.
fn build(scratch: &Path, image: &Image, workload: &Path, busybox: &Path) -> Result<PathBuf> {
    let name = format!("{}-{}", image.repository.replace('/', "-"), image.tag);
    let layout = scratch.join(&name);
    let bundle = scratch.join(format!("{name}.bundle"));
    let reference = format!("{}:{}", layout.display(), image.tag);
    sh("umoci").args(["init", "--layout"]).arg(&layout).run()?;
    sh("umoci").args(["new", "--image", &reference]).run()?;
    sh("umoci").args(["unpack", "--image", &reference]).arg(&bundle).run()?;
    let rootfs = bundle.join("rootfs");
    fill_root(&rootfs, workload, busybox)?;
    sh("umoci").args(["repack", "--image", &reference]).arg(&bundle).run()?;
    let mut config =
        sh("umoci").args(["config", "--image", &reference, "--config.entrypoint", "/bin/gantry-workload"]);
    for word in image.command {
        config = config.args(["--config.cmd", word]);
    }
    config
        .args(["--config.env", "PATH=/bin"])
        .args(["--config.env", &format!("APP_VERSION={}", image.tag)])
        .args(["--config.exposedports", "8080/tcp"])
        .run()?;
    Ok(layout)
}

fn fill_root(rootfs: &Path, workload: &Path, busybox: &Path) -> Result<()> {
    let bin = rootfs.join("bin");
    for directory in ["bin", "etc", "tmp", "var/log/app", "var/cache/app", "proc", "sys", "dev"] {
        std::fs::create_dir_all(rootfs.join(directory))?;
    }
    sh("install").args(["-m", "0755"]).arg(busybox).arg(bin.join("busybox")).run()?;
    sh("install").args(["-m", "0755"]).arg(workload).arg(bin.join("gantry-workload")).run()?;
    for applet in sh(busybox).arg("--list").text()?.lines() {
        let link = bin.join(applet);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", link)?;
        }
    }
    sh("chmod").arg("1777").arg(rootfs.join("tmp")).run()?;
    std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n")?;
    std::fs::write(rootfs.join("etc/group"), "root:x:0:\napp:x:1000:\n")?;
    Ok(())
}
