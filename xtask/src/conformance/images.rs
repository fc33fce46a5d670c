//! The images that upstream's suite runs, made here from Debian packages and from the programs built from its modules,
//! and pushed to the cluster's registry. One OCI layout holds them all, so that they share their layers.
//!
//! Never fetched from a registry: nothing but packages and modules is needed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    sh::{Sh, sh},
    ui,
    upstream::{self, Upstream},
};

const SUITE: &str = "bookworm";
/// What the suite's pods call.
const TOOLS: &str = "bash,bind9-dnsutils,busybox-static,ca-certificates,curl,iperf,iproute2,netcat-openbsd,\
                     procps,socat";
/// What no pod of the suite reads.
const UNUSED: &[&str] =
    &["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Changes with what is in the images, so that a layout made before is made again.
const STAMP: &str = concat!("1 ", include_str!("images.rs"), include_str!("shell.c"));

/// One image as the suite names it.
struct Image {
    name: &'static str,
    tags: &'static [&'static str],
    /// The layers below it, by the tag that they have in the layout.
    on: &'static str,
    entry: &'static [&'static str],
    command: &'static [&'static str],
    user: Option<&'static str>,
    port: Option<&'static str>,
}

const PLAIN: Image =
    Image { name: "", tags: &[], on: "base", entry: &[], command: &[], user: None, port: None };
const AGNHOST: Image = Image { on: "agnhost", entry: &["/agnhost"], command: &["pause"], ..PLAIN };

const IMAGES: &[Image] = &[
    Image { name: "pause", tags: &["3.10.2"], on: "pause", entry: &["/pause"], ..PLAIN },
    Image { name: "e2e/pause", tags: &["3.10.2"], on: "pause", entry: &["/pause"], ..PLAIN },
    Image { name: "e2e/busybox", tags: &["1.37.0-2"], on: "busybox", command: &["sh"], ..PLAIN },
    Image { name: "e2e/agnhost", tags: &["2.66.1", "2.55"], port: Some("80/tcp"), ..AGNHOST },
    Image {
        name: "e2e/nginx",
        tags: &["1.27.0-2", "1.28.0-2"],
        on: "nginx",
        command: &["nginx", "-g", "daemon off;"],
        ..PLAIN
    },
    Image { name: "e2e/nonroot", tags: &["1.5"], user: Some("1234"), ..AGNHOST },
    Image { name: "e2e/kitten", tags: &["1.8"], on: "kitten", command: &["test-webserver"], ..AGNHOST },
    Image { name: "e2e/nautilus", tags: &["1.8"], on: "nautilus", command: &["test-webserver"], ..AGNHOST },
    Image { name: "e2e/nonewprivs", tags: &["1.4"], on: "nonewprivs", command: &["nnp"], ..PLAIN },
    Image { name: "e2e/ipc-utils", tags: &["1.4"], ..PLAIN },
    Image { name: "e2e/perl", tags: &["5.26"], ..PLAIN },
    Image { name: "e2e/glibc-dns-testing", tags: &["2.1.1"], ..PLAIN },
    Image {
        name: "e2e/resource-consumer",
        tags: &["1.14"],
        on: "resource-consumer",
        entry: &["/consumer"],
        ..PLAIN
    },
    Image {
        name: "e2e/regression-issue-74839",
        tags: &["1.5"],
        on: "regression",
        entry: &["/regression-issue-74839"],
        ..PLAIN
    },
    Image {
        name: "e2e/sample-apiserver",
        tags: &["1.29.2"],
        on: "sample-apiserver",
        entry: &["/sample-apiserver"],
        ..PLAIN
    },
    Image { name: "etcd", tags: &["3.7.0-0"], on: "etcd", command: &["/usr/local/bin/etcd"], ..PLAIN },
];

/// Makes the images where they are not there yet, and pushes them to `registry` (host:port, plain HTTP).
pub(super) fn build_and_push(upstream: &Upstream, registry: &str) -> Result<()> {
    let layout = upstream.dir.join("images");
    let stamp = upstream.dir.join("images.stamp");
    let wanted = format!("{} {STAMP}", upstream::VERSION);
    if !fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        ui::step("making the suite's images (3 minutes, once)", |step| {
            Maker { upstream, layout: &layout, roots: upstream.dir.join("roots") }.make(step)
        })?;
        fs::write(&stamp, wanted)?;
    }
    ui::step("pushing the suite's images", |step| {
        for image in IMAGES {
            for tag in image.tags {
                step.detail(format!("{}:{tag}", image.name));
                sh("skopeo")
                    .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
                    .arg(format!("oci:{}:{}", layout.display(), reference(image)))
                    .arg(format!("docker://{registry}/{}:{tag}", image.name))
                    .run()?;
            }
        }
        Ok(format!("{} images", IMAGES.len()))
    })
}

/// The image's tag in the layout.
fn reference(image: &Image) -> String {
    format!("image-{}", image.name.replace('/', "-"))
}

struct Maker<'a> {
    upstream: &'a Upstream,
    layout: &'a Path,
    roots: PathBuf,
}

impl Maker<'_> {
    fn make(&self, step: &mut ui::Step) -> Result<String> {
        for left in [self.layout, &self.roots] {
            sh("rm").arg("-rf").arg(left).run()?;
        }
        fs::create_dir_all(&self.roots)?;
        sh("umoci").args(["init", "--layout"]).arg(self.layout).run()?;
        step.detail("the Debian below them");
        let base = self.debian("base", TOOLS)?;
        self.layer(None, "base", &base)?;
        // Debian's own nginx in a tree of its own: its packages change what the base holds.
        step.detail("nginx");
        let nginx = self.debian("nginx", &format!("{TOOLS},nginx-light"))?;
        self.layer(None, "nginx", &nginx)?;
        step.detail("pause, busybox, agnhost");
        self.pause()?;
        self.busybox(&base)?;
        self.agnhost(&base)?;
        step.detail("the others");
        self.others()?;
        for image in IMAGES {
            self.configure(image)?;
        }
        sh("rm").arg("-rf").arg(&self.roots).run()?;
        Ok(format!("{} images", IMAGES.len()))
    }

    fn at(&self, tag: &str) -> String {
        format!("{}:{tag}", self.layout.display())
    }

    fn debian(&self, name: &str, packages: &str) -> Result<PathBuf> {
        let root = self.roots.join(name);
        sh("debootstrap")
            .args(["--variant=minbase", &format!("--include={packages}"), SUITE])
            .arg(&root)
            .run()?;
        for path in UNUSED {
            sh("rm").arg("-rf").arg(root.join(path)).run()?;
        }
        Ok(root)
    }

    /// The image `below` (or an empty one) with `tree` on top, as `tag`.
    fn layer(&self, below: Option<&str>, tag: &str, tree: &Path) -> Result<()> {
        match below {
            Some(below) => sh("umoci").args(["tag", "--image", &self.at(below), tag]).run()?,
            None => sh("umoci").args(["new", "--image", &self.at(tag)]).run()?,
        }
        sh("umoci").args(["insert", "--image", &self.at(tag)]).arg(tree).arg("/").run()
    }

    /// A new directory for a layer.
    fn tree(&self, name: &str) -> Result<PathBuf> {
        let tree = self.roots.join(name);
        fs::create_dir_all(&tree)?;
        Ok(tree)
    }

    fn pause(&self) -> Result<()> {
        let tree = self.tree("pause")?;
        self.compile(include_str!("pause.c"), &tree.join("pause"))?;
        self.layer(None, "pause", &tree)
    }

    fn compile(&self, text: &str, program: &Path) -> Result<()> {
        let source = self.roots.join("program.c");
        fs::write(&source, text)?;
        sh("cc").args(["-O2", "-static", "-o"]).arg(program).arg(&source).run()
    }

    /// Busybox's applets where Debian has no program of the name, all of them in /bin, where the suite looks for them.
    fn busybox(&self, base: &Path) -> Result<()> {
        let tree = self.tree("busybox")?;
        fs::create_dir_all(tree.join("usr/bin"))?;
        fs::create_dir_all(tree.join("usr/local/bin"))?;
        self.compile(include_str!("shell.c"), &tree.join("usr/bin/sh"))?;
        for applet in sh("/bin/busybox").arg("--list").text()?.lines().filter(|applet| *applet != "sh") {
            let known = |directory: &str| base.join(directory).join(applet).symlink_metadata().is_ok();
            match (known("usr/bin"), known("usr/sbin")) {
                (true, _) => {}
                (false, true) => symlink(format!("../sbin/{applet}"), tree.join("usr/bin").join(applet))?,
                (false, false) => symlink("/bin/busybox", tree.join("usr/local/bin").join(applet))?,
            }
        }
        self.layer(Some("base"), "busybox", &tree)
    }

    fn agnhost(&self, base: &Path) -> Result<()> {
        let tree = self.tree("agnhost")?;
        self.program("agnhost", &tree, "agnhost", 0o755)?;
        symlink("agnhost", tree.join("agnhost-2"))?;
        // Busybox's shell takes its own applets before programs: here specs call `nc` as Debian's is.
        fs::create_dir_all(tree.join("usr/bin"))?;
        symlink("bash", tree.join("usr/bin/sh"))?;
        fs::create_dir_all(tree.join("uploads"))?;
        let porter = self.images_source()?.join("agnhost/porter");
        for file in ["localhost.crt", "localhost.key"] {
            put(&porter.join(file), &tree.join(file), 0o644)?;
        }
        // Users that specs look for.
        let user = "user-defined-in-image:x:1000:";
        for (file, lines) in [
            ("passwd", format!("{user}1000::/home:/bin/sh\n")),
            ("group", format!("{user}\ngroup-defined-in-image:x:50000:user-defined-in-image\n")),
        ] {
            let text = fs::read_to_string(base.join("etc").join(file))?;
            fs::create_dir_all(tree.join("etc"))?;
            fs::write(tree.join("etc").join(file), text + &lines)?;
        }
        self.layer(Some("busybox"), "agnhost", &tree)
    }

    fn others(&self) -> Result<()> {
        for name in ["kitten", "nautilus"] {
            let tree = self.tree(name)?;
            let html = self.images_source()?.join(name).join("html");
            for file in [format!("{name}.jpg"), "data.json".to_owned()] {
                put(&html.join(&file), &tree.join(&file), 0o644)?;
            }
            self.layer(Some("agnhost"), name, &tree)?;
        }
        for (tag, programs) in [
            // With the set-user-ID bit: the spec looks whether it is honoured.
            ("nonewprivs", &[("nonewprivs", "usr/local/bin/nnp", 0o4755)][..]),
            (
                "resource-consumer",
                &[("resource-consumer", "consumer", 0o755), ("consume-cpu", "consume-cpu", 0o755)],
            ),
            ("regression", &[("regression-issue-74839", "regression-issue-74839", 0o755)]),
            ("sample-apiserver", &[("sample-apiserver", "sample-apiserver", 0o755)]),
            ("etcd", &[("etcd", "usr/local/bin/etcd", 0o755)]),
        ] {
            let tree = self.tree(tag)?;
            for (program, path, mode) in programs {
                self.program(program, &tree, path, *mode)?;
            }
            self.layer(Some("base"), tag, &tree)?;
        }
        Ok(())
    }

    fn configure(&self, image: &Image) -> Result<()> {
        let tag = reference(image);
        sh("umoci").args(["tag", "--image", &self.at(image.on), &tag]).run()?;
        let config = sh("umoci").args(["config", "--image", &self.at(&tag), "--config.env", PATH]);
        let config = words(config, "--config.entrypoint", image.entry);
        let config = words(config, "--config.cmd", image.command);
        let config = words(config, "--config.user", image.user.as_slice());
        words(config, "--config.exposedports", image.port.as_slice()).run()
    }

    fn program(&self, program: &str, tree: &Path, path: &str, mode: u32) -> Result<()> {
        put(&self.upstream.program(program), &tree.join(path), mode)
    }

    fn images_source(&self) -> Result<PathBuf> {
        Ok(self.upstream.source()?.join("test/images"))
    }
}

fn words(sh: Sh, option: &str, words: &[&str]) -> Sh {
    words.iter().fold(sh, |sh, word| sh.args([option, word]))
}

fn put(source: &Path, target: &Path, mode: u32) -> Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(source, target).with_context(|| format!("cannot copy {}", source.display()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
    Ok(())
}
