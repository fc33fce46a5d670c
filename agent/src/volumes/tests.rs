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
async fn last_words_are_read_back_and_cut() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let volumes = NodeVolumes::new(layout.clone());
    let (pod, web) = (PodUid::from("p"), ContainerName::from("web"));
    volumes.termination_log(&pod, &web, 0).await.unwrap();
    let path = layout.termination_log(&pod, &web, 0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    fs::write(&path, "x".repeat(5000)).unwrap();
    // A repeated preparation keeps what was written.
    volumes.termination_log(&pod, &web, 0).await.unwrap();
    assert_eq!(volumes.termination_message(&pod, &web, 0).await.unwrap().len(), 4096);
    assert_eq!(volumes.termination_message(&pod, &web, 1).await, None);
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

    volumes.remove(&pod).await.unwrap();
    assert!(!layout.pod_dir(&pod).exists());
    assert_eq!(fs::read_to_string(dir.path().join("outside")).unwrap(), "secret");
}
