//! What survives: restarts, SIGKILL at any moment, and a look at the files by somebody without the key.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    Change, Draft, Expect, Keyring, OpenError, SqliteStore, Store, StoreError,
    conformance::{key, open, put, sqlite},
};
use crate::model::{Key, Object, Resource, Revision};

/// Set for the child process of the kill test: the directory it writes to.
const CHILD_DIR: &str = "GANTRY_STORE_TEST_DIR";

fn secret(text: &str) -> Change {
    let key = Key::namespaced(Resource::SECRETS, "default", "s");
    let value = json!({"metadata": {"name": "s"}, "data": {"k": text}});
    Change::Put { draft: Draft::new(key, &value, &Default::default()).unwrap(), expect: Expect::Absent }
}

#[tokio::test]
async fn a_restart_keeps_objects_and_revisions_and_forgets_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let node = Key::cluster(Resource::NODES, "n1");
    let made = store
        .commit(vec![put(&key("a"), &json!("x"), Expect::Absent), put(&node, &json!(1), Expect::Absent)]);
    let made = made.await.unwrap();
    let gone =
        store.commit(vec![Change::Delete { key: node.clone(), expect: made[1].revision }]).await.unwrap();
    store.close();
    let store = sqlite(dir.path());
    assert_eq!(store.revision(), gone[0].revision, "a deletion raises the revision for good");
    let read = store.get(&key("a")).unwrap();
    assert_eq!((read.revision, &read.json), (made[0].revision, &made[0].json));
    assert!(store.get(&node).is_none());
    let old = store.watch(Resource::CONFIG_MAPS, made[0].revision);
    assert!(matches!(old, Err(StoreError::Compacted { .. })));
    let unseen = store.watch(Resource::PODS, Revision(1));
    assert!(matches!(unseen, Err(StoreError::Compacted { .. })));
    assert!(store.watch(Resource::CONFIG_MAPS, store.revision()).is_ok());
    let next = store.commit(vec![put(&key("b"), &json!(1), Expect::Absent)]).await.unwrap();
    assert!(next[0].revision > gone[0].revision);
}

#[test]
fn a_second_process_cannot_open_the_same_database() {
    let dir = tempfile::tempdir().unwrap();
    for found in ["nothing", "a database"] {
        let first = sqlite(dir.path());
        assert!(matches!(open(dir.path()), Err(OpenError::InUse { .. })), "{found}");
        first.close();
    }
}

#[tokio::test]
async fn secrets_are_in_no_file_in_the_clear() {
    const CANARY: &str = "canary-7f3a9c51";
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    store
        .commit(vec![secret(CANARY), put(&key("open"), &json!("visible-5d1e"), Expect::Absent)])
        .await
        .unwrap();
    let found = |text: &str| {
        let files = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().path());
        files
            .filter(|p| fs::read(p).unwrap().windows(text.len()).any(|w| w == text.as_bytes()))
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    assert!(!found("visible-5d1e").is_empty(), "the search itself works");
    assert_eq!(found(CANARY), [""; 0]);
    store.close();
    assert_eq!(found(CANARY), [""; 0]);
    let store = sqlite(dir.path());
    let read = store.get(&Key::namespaced(Resource::SECRETS, "default", "s")).unwrap();
    assert_eq!(read.decode::<Value>().unwrap()["data"]["k"], CANARY);
}

#[tokio::test]
async fn a_rotated_key_seals_everything_again_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    store.commit(vec![secret("x")]).await.unwrap();
    store.close();
    let file = dir.path().join("secrets.key");
    let old = fs::read_to_string(&file).unwrap();
    let new = "9 BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
    fs::write(&file, format!("{new}{old}")).unwrap();
    sqlite(dir.path()).close();
    fs::write(&file, new).unwrap();
    let store = sqlite(dir.path());
    assert!(store.get(&Key::namespaced(Resource::SECRETS, "default", "s")).is_some());
    store.close();
    fs::write(&file, old).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Seal { .. })), "the old key opens nothing any more");
}

#[tokio::test]
async fn a_lost_key_file_is_not_replaced_while_there_are_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let (database, key) = (dir.path().join("gantry.db"), dir.path().join("secrets.key"));
    let holds = || SqliteStore::holds(&database, &[Resource::SECRETS]).unwrap();
    assert!(!holds(), "there is no database");
    let store = sqlite(dir.path());
    store.commit(vec![put(&super::conformance::key("a"), &json!(1), Expect::Absent)]).await.unwrap();
    store.close();
    assert!(!holds(), "there are no secrets");
    let store = sqlite(dir.path());
    store.commit(vec![secret("x")]).await.unwrap();
    store.close();
    assert!(holds());
    fs::remove_file(&key).unwrap();
    let error = Keyring::open(&key, holds()).unwrap_err();
    assert!(error.to_string().contains("secrets.key is missing"), "{error}");
    assert!(!key.exists(), "no new key takes its place");
}

/// Not a test of its own: the process that [`acknowledged_writes_survive_sigkill`] kills. It writes for ever
/// and prints each name after the store has acknowledged it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by acknowledged_writes_survive_sigkill"]
async fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store: Arc<dyn Store> = Arc::new(sqlite(Path::new(&dir)));
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0.. {
                    let name = format!("{w}-{i}");
                    let written = store.commit(vec![put(&key(&name), &json!(name), Expect::Absent)]).await;
                    println!("acknowledged {name} {} done", written.unwrap()[0].revision);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[test]
fn acknowledged_writes_survive_sigkill() {
    for enough in [1, 40, 200] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::durability::child_that_writes_until_killed",
                "--nocapture",
                "--ignored",
            ])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        let parse = |line: String| {
            // The kill may have cut the last line short: it counts when its end is there.
            let rest = line.rsplit_once("acknowledged ")?.1.strip_suffix(" done")?;
            let (name, revision) = rest.split_once(' ')?;
            Some((name.to_owned(), Revision(revision.parse().ok()?)))
        };
        while acknowledged.len() < enough {
            acknowledged.extend(parse(lines.next().expect("the child writes on").unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had printed before it died counts as well.
        acknowledged.extend(lines.map_while(Result::ok).filter_map(parse));
        let store = sqlite(dir.path());
        for (name, revision) in acknowledged {
            assert!(is_at(store.get(&key(&name)), &name, revision), "lost {name} at {revision}");
        }
    }
}

fn is_at(object: Option<Arc<Object>>, name: &str, revision: Revision) -> bool {
    object.is_some_and(|o| o.revision == revision && o.decode::<Value>().unwrap()["data"] == name)
}
