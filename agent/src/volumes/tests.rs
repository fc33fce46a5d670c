use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use super::*;
use crate::model::Layout;

fn layout(dir: &Path) -> Layout {
    Layout { state_dir: dir.join("state"), run_dir: dir.join("run"), log_dir: dir.join("log") }
}

fn files(entries: &[(&str, &str)]) -> VolumeKind {
    let entries = entries.iter().map(|(path, text)| {
        ((*path).to_owned(), FileContent { bytes: text.as_bytes().to_vec(), mode: 0o644 })
    });
    VolumeKind::Files { secret: false, files: Arc::new(entries.collect::<BTreeMap<_, _>>()) }
}

fn spec(kind: VolumeKind, fs_group: Option<u32>) -> VolumeSpec {
    VolumeSpec { name: "v".into(), digest: 0, fs_group, kind }
}

#[tokio::test]
async fn projected_files_change_together_and_old_versions_go() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let volumes = NodeVolumes::new(layout.clone());
    let pod = PodUid::from("p");
    let at = layout.volume_dir(&pod, "v");

    volumes.ensure(&pod, &spec(files(&[("a", "1"), ("sub/b", "2")]), None)).await.unwrap();
    assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(at.join("sub/b")).unwrap(), "2");
    let first = fs::read_link(at.join("..data")).unwrap();

    // The same content again changes nothing, also for a new agent.
    volumes.ensure(&pod, &spec(files(&[("a", "1"), ("sub/b", "2")]), None)).await.unwrap();
    assert_eq!(fs::read_link(at.join("..data")).unwrap(), first);

    volumes.ensure(&pod, &spec(files(&[("a", "3"), ("c", "4")]), None)).await.unwrap();
    assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "3");
    assert_eq!(fs::read_to_string(at.join("c")).unwrap(), "4");
    assert!(fs::symlink_metadata(at.join("sub")).is_err());
    assert!(!at.join(&first).exists());

    volumes.remove(&pod).await.unwrap();
    assert!(volumes.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn paths_out_of_a_projected_volume_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = NodeVolumes::new(layout(dir.path()));
    for path in ["../x", "/x", "a/../../x", "..data"] {
        let refused = volumes.ensure(&"p".into(), &spec(files(&[(path, "")]), None)).await;
        assert!(matches!(refused, Err(VolumeError::Escape { .. })), "{path}");
    }
}

#[tokio::test]
async fn empty_directories_belong_to_the_pods_group() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let volumes = NodeVolumes::new(layout.clone());
    let kind = VolumeKind::EmptyDir { memory: false, size_limit: None, mode: 0o777 };
    // The group that this process may give away is its own.
    let group = fs::metadata(dir.path()).unwrap().gid();
    volumes.ensure(&"p".into(), &spec(kind, Some(group))).await.unwrap();
    let meta = fs::metadata(layout.volume_dir(&"p".into(), "v")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o2777);
    assert_eq!(meta.gid(), group);
}

#[tokio::test]
async fn termination_messages_are_read_back_and_cut() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let volumes = NodeVolumes::new(layout.clone());
    let (pod, web) = (PodUid::from("p"), ContainerName::from("web"));
    volumes.termination_log(&pod, &web, 0).await.unwrap();
    let path = layout.termination_log(&pod, &web, 0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    fs::write(&path, format!("{}{}", "x".repeat(5000), "the end")).unwrap();
    // A repeated preparation keeps what was written.
    volumes.termination_log(&pod, &web, 0).await.unwrap();
    let words = volumes.termination_message(&pod, &web, 0).await.unwrap();
    assert!(words.len() == 4096 && words.ends_with("the end"));
    assert_eq!(volumes.termination_message(&pod, &web, 1).await, None);
    // As much as a container can write costs no more than that.
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(volumes.termination_message(&pod, &web, 0).await.unwrap().len(), 4096);
    volumes.forget_termination_log(&pod, &web, 0).await;
    assert!(!path.exists());
    // Nor is anything but a file read: not what a link names, and no pipe is waited for.
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(volumes.termination_message(&pod, &web, 0).await, None);
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(volumes.termination_message(&pod, &web, 0).await, None);
}

#[tokio::test]
async fn a_live_volume_keeps_the_mode_that_its_pod_gave_it() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let kind = VolumeKind::EmptyDir { memory: false, size_limit: None, mode: 0o777 };
    let pod = PodUid::from("p");
    let at = layout.volume_dir(&pod, "v");
    let mode = || fs::metadata(&at).unwrap().permissions().mode() & 0o7777;
    NodeVolumes::new(layout.clone()).ensure(&pod, &spec(kind.clone(), None)).await.unwrap();
    assert_eq!(mode(), 0o777);
    fs::set_permissions(&at, fs::Permissions::from_mode(0o700)).unwrap();
    // An agent that was restarted.
    NodeVolumes::new(layout.clone()).ensure(&pod, &spec(kind.clone(), None)).await.unwrap();
    assert_eq!(mode(), 0o700);
    // One that was killed before it had set the mode.
    fs::remove_file(layout.made_volume(&pod, "v")).unwrap();
    NodeVolumes::new(layout.clone()).ensure(&pod, &spec(kind, None)).await.unwrap();
    assert_eq!(mode(), 0o777);
}

#[tokio::test]
async fn a_pod_that_has_ended_gives_its_volumes_back_and_keeps_its_termination_messages() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let volumes = NodeVolumes::new(layout.clone());
    let (pod, web) = (PodUid::from("p"), ContainerName::from("web"));
    let kind = VolumeKind::EmptyDir { memory: false, size_limit: None, mode: 0o777 };
    volumes.ensure(&pod, &spec(kind, None)).await.unwrap();
    volumes.termination_log(&pod, &web, 0).await.unwrap();
    assert_eq!(volumes.list().await.unwrap(), [PodFiles { pod: pod.clone(), volumes: true }]);
    volumes.release(&pod).await.unwrap();
    assert!(!layout.volume_dir(&pod, "v").exists());
    assert!(volumes.termination_message(&pod, &web, 0).await.is_some());
    assert_eq!(volumes.list().await.unwrap(), [PodFiles { pod, volumes: false }]);
}

/// The mask is the whole process's: this test runs itself again under the one of the systemd unit.
#[tokio::test]
async fn what_is_made_has_its_mode_whatever_the_umask() {
    if std::env::var_os("GANTRY_UNDER_UMASK").is_none() {
        let name = "volumes::tests::what_is_made_has_its_mode_whatever_the_umask";
        let output = std::process::Command::new("sh")
            .args(["-c", "umask 077; exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env("GANTRY_UNDER_UMASK", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volumes = NodeVolumes::new(layout(dir.path()));
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
    fs::create_dir(dir.path().join("plain")).unwrap();
    assert_eq!(mode("plain"), 0o700, "the mask holds");
    for (path, check) in [("a/b", HostPathCheck::DirectoryOrCreate), ("a/file", HostPathCheck::FileOrCreate)]
    {
        let kind = VolumeKind::HostPath { path: dir.path().join(path), check };
        volumes.ensure(&"p".into(), &spec(kind, None)).await.unwrap();
    }
    assert_eq!((mode("a"), mode("a/b"), mode("a/file")), (0o755, 0o755, 0o644));
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let root = dir.path().join("volume");
    fs::create_dir(&root).unwrap();
    std::os::unix::fs::chown(&root, None, Some(2000)).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o2777)).unwrap();
    let made = sub_path::make_below(&root, "deep/er").unwrap();
    drop(made);
    assert_eq!((mode("volume/deep"), mode("volume/deep/er")), (0o2777, 0o2777));
    assert_eq!(fs::metadata(root.join("deep/er")).unwrap().gid(), 2000);
}

#[tokio::test]
async fn host_paths_are_checked_by_their_type() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = NodeVolumes::new(layout(dir.path()));
    let check = |name: &str, check: HostPathCheck| {
        let kind = VolumeKind::HostPath { path: dir.path().join(name), check };
        let volumes = volumes.clone();
        async move { volumes.ensure(&"p".into(), &spec(kind, None)).await }
    };
    let refused = check("absent", HostPathCheck::Directory).await.unwrap_err();
    assert!(refused.to_string().starts_with("hostPath type check failed: "), "{refused}");
    check("made/deep", HostPathCheck::DirectoryOrCreate).await.unwrap();
    check("made/file", HostPathCheck::FileOrCreate).await.unwrap();
    check("made/file", HostPathCheck::File).await.unwrap();
    assert!(check("made/file", HostPathCheck::Directory).await.is_err());
}

/// Needs the right to mount: root in the suites, refused elsewhere.
#[tokio::test]
async fn sub_paths_never_lead_out_and_memory_volumes_are_unmounted() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("REQUIRE_PRIVILEGED").is_none(), "this suite needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let volumes = NodeVolumes::new(layout.clone());
    let (pod, web) = (PodUid::from("p"), ContainerName::from("web"));
    let memory = VolumeKind::EmptyDir { memory: true, size_limit: Some(1 << 20), mode: 0o777 };
    volumes.ensure(&pod, &spec(memory.clone(), None)).await.unwrap();
    volumes.ensure(&pod, &spec(memory, None)).await.unwrap();
    let root = layout.volume_dir(&pod, "v");
    fs::write(dir.path().join("outside"), "secret").unwrap();
    symlink(dir.path().join("outside"), root.join("absolute")).unwrap();
    symlink("../../../../outside", root.join("relative")).unwrap();
    fs::write(root.join("real"), "inside").unwrap();
    symlink("real", root.join("link")).unwrap();
    let bind = |path: &str| {
        let wanted = SubPath { root: root.clone(), path: path.to_owned(), container: web.clone(), index: 0 };
        let (volumes, pod) = (volumes.clone(), pod.clone());
        async move { volumes.ensure_sub_path(&pod, &wanted).await }
    };
    for path in ["absolute", "relative"] {
        assert!(matches!(bind(path).await, Err(VolumeError::Escape { .. })), "{path}");
    }
    bind("link").await.unwrap();
    let target = layout.sub_path(&pod, &web, 0);
    assert_eq!(fs::read_to_string(&target).unwrap(), "inside");
    // A later attempt may ask for another kind of thing under the same number.
    bind("made/deep").await.unwrap();
    assert!(target.is_dir() && root.join("made/deep").is_dir());

    // Shared memory is a tmpfs of its own, once.
    volumes.ensure_shared_memory(&pod).await.unwrap();
    fs::write(layout.shared_memory(&pod).join("x"), "y").unwrap();
    volumes.ensure_shared_memory(&pod).await.unwrap();
    let shared = fs::metadata(layout.shared_memory(&pod)).unwrap();
    assert_eq!(shared.permissions().mode() & 0o7777, 0o1777);
    assert!(layout.shared_memory(&pod).join("x").exists());
    let stat = nix::sys::statvfs::statvfs(&layout.shared_memory(&pod)).unwrap();
    assert_eq!(stat.blocks() * stat.fragment_size(), 64 << 20);

    volumes.remove(&pod).await.unwrap();
    assert!(!layout.pod_dir(&pod).exists() && !layout.shared_memory(&pod).exists());
    assert_eq!(fs::read_to_string(dir.path().join("outside")).unwrap(), "secret");
}
