//! The image behind the tutorial's `postgres`: Debian's own PostgreSQL with an entry point that understands the variables
//! of the official image. Made once for a checkout (target/images), because it takes a minute.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{sh::sh, ui};

/// Debian 12 has this version; the tag says so, whatever the name under which it is served.
pub(crate) const TAG: &str = "15";
pub(crate) const REPOSITORY: &str = "gantry/postgres";

const SUITE: &str = "bookworm";
const ENTRY: &str = include_str!("postgres-entry.sh");
/// What a database server does not read.
const UNUSED: &[&str] =
    &["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"];

/// Pushes the image to `registry`; makes it first where it is not there yet.
pub(crate) fn build_and_push(root: &Path, registry: &str) -> Result<()> {
    let layout = root.join("target/images/postgres");
    if !layout.join("complete").is_file() {
        ui::step("making the database image, once", |step| make(root, &layout, step))?;
    }
    ui::step("pushing the database image", |_| {
        sh("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:{TAG}", layout.display()))
            .arg(format!("docker://{registry}/{REPOSITORY}:{TAG}"))
            .run()?;
        Ok(format!("{REPOSITORY}:{TAG}"))
    })
}

fn make(root: &Path, layout: &Path, step: &mut ui::Step) -> Result<String> {
    let tree = root.join("target/images/postgres.tree");
    for left in [layout, &tree] {
        sh("rm").arg("-rf").arg(left).run()?;
    }
    fs::create_dir_all(root.join("target/images"))?;
    step.detail("debootstrap with postgresql-15");
    sh("debootstrap").args(["--variant=minbase", "--include=postgresql-15", SUITE]).arg(&tree).run()?;
    step.detail("packing it");
    fill(&tree)?;
    let reference = format!("{}:{TAG}", layout.display());
    sh("umoci").args(["init", "--layout"]).arg(layout).run()?;
    sh("umoci").args(["new", "--image", &reference]).run()?;
    sh("umoci").args(["insert", "--image", &reference]).arg(&tree).arg("/").run()?;
    sh("umoci")
        .args(["config", "--image", &reference, "--config.entrypoint", "/usr/local/bin/postgres-entry"])
        .args([
            "--config.env",
            "PATH=/usr/local/bin:/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ])
        .args(["--config.exposedports", "5432/tcp"])
        .run()?;
    sh("rm").arg("-rf").arg(&tree).run()?;
    fs::write(layout.join("complete"), "")?;
    Ok(String::new())
}

fn fill(tree: &Path) -> Result<()> {
    for path in UNUSED {
        sh("rm").arg("-rf").arg(tree.join(path)).run()?;
    }
    // The cluster that Debian's package makes: each pod makes its own.
    sh("rm").arg("-rf").arg(tree.join("var/lib/postgresql/15")).run()?;
    let entry: PathBuf = tree.join("usr/local/bin/postgres-entry");
    fs::write(&entry, ENTRY)?;
    sh("chmod").arg("0755").arg(&entry).run()?;
    sh("chroot")
        .arg(tree)
        .args(["install", "-d", "-o", "postgres", "-g", "postgres", "/run/postgresql"])
        .run()
}
