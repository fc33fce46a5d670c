//! What a full disk and a failed commit do to the store.

use std::{
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::json;

use super::*;
use crate::store::{
    Expect,
    conformance::{key, put, sqlite},
};

/// Set for the child processes of the full-disk tests: the directory they write to.
const CHILD_DIR: &str = "GANTRY_FULL_DISK_DIR";

fn write(name: &str, bytes: usize) -> Vec<Change> {
    vec![put(&key(name), &json!("x".repeat(bytes)), Expect::Absent)]
}

/// Fills the store until it says that it is full; returns the names it acknowledged.
async fn fill(store: &SqliteStore, bytes: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0..10_000 {
        let name = format!("fill-{bytes}-{n}");
        match store.commit(write(&name, bytes)).await {
            Ok(_) => acknowledged.push(name),
            Err(error) => {
                assert!(matches!(error, StoreError::Full(_)), "{error:?}");
                assert_eq!(error.to_string(), "no room is left on the disk of the store");
                assert!(store.get(&key(&name)).is_none(), "what was refused is not there");
                return acknowledged;
            }
        }
    }
    panic!("never full");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    // The limit belongs to the connection: a database of so few pages is as full as a disk.
    let path = dir.path().join("gantry.db");
    sqlite(dir.path()).close();
    let store = limited(&path, 40);
    let acknowledged = fill(&store, 2000).await;
    assert!(!acknowledged.is_empty());
    assert_eq!(*store.condition().borrow(), Condition::Full);
    let expect = store.get(&key(&acknowledged[0])).unwrap().revision;
    store.commit(vec![Change::Delete { key: key(&acknowledged[0]), expect }]).await.unwrap();
    store.commit(write("after", 100)).await.unwrap();
    assert_eq!(*store.condition().borrow(), Condition::Good);
    let revision = store.revision();
    store.close();
    let store = sqlite(dir.path());
    assert_eq!(store.revision(), revision);
    assert!(store.get(&key("after")).is_some() && store.get(&key(&acknowledged[0])).is_none());
    assert!(acknowledged[1..].iter().all(|name| store.get(&key(name)).is_some()), "nothing is lost");
}

/// The store over a database that may not grow beyond `pages`.
fn limited(path: &Path, pages: u32) -> SqliteStore {
    let keys = Keyring::open(&path.with_file_name("secrets.key"), false).unwrap();
    let sealer = Sealer { resources: Vec::new(), keys };
    let mut connection = Connection::open(path).unwrap();
    load::prepare(&connection, path).unwrap();
    connection.pragma_update(None, "max_page_count", pages).unwrap();
    let layout = crate::store::conformance::layout();
    let image = Arc::new(load::load(&mut connection, path, &layout, &sealer, Vec::new(), |_, _| {}).unwrap());
    SqliteStore::run(connection, image, sealer).unwrap()
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_breaks_the_store() {
    let dir = tempfile::tempdir().unwrap();
    sqlite(dir.path()).close();
    // A constraint that is looked at by COMMIT alone.
    let connection = Connection::open(dir.path().join("gantry.db")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE parents (id INTEGER PRIMARY KEY);
             CREATE TABLE children (id INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER spoil AFTER INSERT ON objects BEGIN INSERT INTO children VALUES (1); END;",
        )
        .unwrap();
    drop(connection);
    let store = sqlite(dir.path());
    let mut condition = store.condition();
    let error = store.commit(write("a", 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Write(_)), "{error:?}");
    condition.wait_for(|c| *c == Condition::Broken).await.unwrap();
    let error = store.commit(write("b", 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed), "{error:?}");
}

/// The tables of the first version, as it made them.
const FIRST: &str =
    "CREATE TABLE objects (resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        revision INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
    CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 0), revision INTEGER NOT NULL);
    INSERT INTO clock VALUES (0, 0);";

#[tokio::test]
async fn a_database_of_the_first_version_is_taken_over_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gantry.db");
    let connection = Connection::open(&path).unwrap();
    let rows = r#"UPDATE clock SET revision = 9;
        INSERT INTO objects VALUES
            ('configmaps', 'default', 'b', 3, CAST('{"metadata":{"name":"b"},"data":3}' AS BLOB)),
            ('configmaps', 'default', 'a', 7, CAST('{"metadata":{"name":"a"},"data":7}' AS BLOB));
        PRAGMA user_version = 1;"#;
    connection.execute_batch(&format!("{FIRST} {rows}")).unwrap();
    drop(connection);
    let store = sqlite(dir.path());
    assert_eq!(store.revision(), Revision(9), "a deletion was the newest");
    for (name, revision) in [("a", 7), ("b", 3)] {
        let object = store.get(&key(name)).unwrap();
        assert_eq!(object.revision, Revision(revision));
        assert_eq!(object.decode::<Value>().unwrap()["data"], revision);
    }
    let written = store.commit(vec![put(&key("a"), &json!(1), Expect::At(Revision(7)))]).await.unwrap();
    assert_eq!(written[0].revision, Revision(10));
    store.close();
    let store = sqlite(dir.path());
    assert_eq!((store.revision(), store.get(&key("b")).unwrap().revision), (Revision(10), Revision(3)));
    assert_eq!(store.get(&key("a")).unwrap().decode::<Value>().unwrap()["data"], 1);
    store.close();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 3).unwrap();
    let refused = crate::store::conformance::open(dir.path());
    assert!(matches!(refused, Err(OpenError::Schema { found: 3, known: 2, .. })));
}

#[tokio::test]
async fn a_first_version_that_was_stopped_before_it_wrote_its_number_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    Connection::open(dir.path().join("gantry.db")).unwrap().execute_batch(FIRST).unwrap();
    let store = sqlite(dir.path());
    store.commit(write("a", 1)).await.unwrap();
    store.close();
    assert!(sqlite(dir.path()).get(&key("a")).is_some());
}

/// Not a test of its own: the process that the next one starts on a tiny disk.
#[tokio::test]
#[ignore = "needs root: started by a_commit_that_finds_no_room_loses_nothing"]
async fn child_on_a_tiny_disk() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let dir = Path::new(&dir);
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![0; 256 << 10]).unwrap();
    let store = sqlite(dir);
    let log = fs::metadata(dir.join("gantry.db-wal")).unwrap().len();
    assert!(log < 256 << 10, "zeros took {log} bytes of the last room");
    let mut acknowledged = fill(&store, 20_000).await;
    assert_eq!(*store.condition().borrow(), Condition::Full);
    fs::remove_file(&ballast).unwrap();
    store.commit(write("after", 100)).await.unwrap();
    acknowledged.push("after".to_owned());
    let revision = store.revision();
    store.close();
    let store = sqlite(dir);
    assert_eq!(store.revision(), revision);
    assert!(acknowledged.iter().all(|name| store.get(&key(name)).is_some()), "nothing is lost");
}

#[test]
#[ignore = "needs root: mounts a tmpfs in a mount namespace of its own"]
fn a_commit_that_finds_no_room_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$GANTRY_FULL_DISK_DIR\" && exec \"$0\" --exact \
        store::sqlite::tests::child_on_a_tiny_disk --ignored --nocapture";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIR, dir.path())
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn the_log_has_its_length_before_the_first_commit_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = sqlite(dir.path());
    let length = || fs::metadata(dir.path().join("gantry.db-wal")).unwrap().len();
    let reserved = length();
    assert!(reserved > 4 << 20, "{reserved}");
    // More than the log holds: it begins anew in between.
    for n in 0..80 {
        store.commit(write(&format!("{n}"), 100_000)).await.unwrap();
    }
    assert_eq!(length(), reserved);
}

/// Not a test of its own: the process that the next one starts, which may not make files of more than a megabyte.
#[test]
#[ignore = "started by a_log_that_cannot_have_its_length_keeps_the_one_it_had"]
fn child_with_small_files() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let (path, log) = (Path::new(&dir).join("gantry.db"), Path::new(&dir).join("gantry.db-wal"));
    fs::write(&log, [7; 5000]).unwrap();
    let error = load::reserve_log(&path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(fs::read(&log).unwrap(), [7; 5000], "what was there stays, and no zeros take the room");
    // It is as ready for commits as before.
    fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(&[8; 1000]).unwrap();
}

#[test]
fn a_log_that_cannot_have_its_length_keeps_the_one_it_had() {
    let dir = tempfile::tempdir().unwrap();
    // The limit is of a process, and a signal that would end it comes with it. Blocks of dash are of 512 bytes, those
    // of bash of 1024.
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" --exact \
        store::sqlite::tests::child_with_small_files --ignored --nocapture";
    let mut child = Command::new("sh");
    child.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(CHILD_DIR, dir.path());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{:?}", output.stderr);
}

/// A desk over a database of its own, and what its commits are seen in.
fn desk(dir: &Path) -> (writer::Desk, Arc<Image>, watch::Receiver<Condition>) {
    sqlite(dir).close();
    let mut connection = Connection::open(dir.join("gantry.db")).unwrap();
    load::prepare(&connection, dir).unwrap();
    let sealer =
        Sealer { resources: Vec::new(), keys: Keyring::open(&dir.join("secrets.key"), false).unwrap() };
    let layout = crate::store::conformance::layout();
    let image = Arc::new(load::load(&mut connection, dir, &layout, &sealer, Vec::new(), |_, _| {}).unwrap());
    let condition = watch::Sender::new(Condition::Good);
    let pace = writer::Pace::default();
    let rest = rest_behind(&image).unwrap();
    let seen = condition.subscribe();
    let writer = writer::Writer { connection, image: image.clone(), sealer, condition, pace, rest };
    (writer::Desk::new(writer), image, seen)
}

#[test]
fn a_small_batch_is_committed_where_it_comes_from_on_a_quick_disk_when_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (desk, image, _) = desk(dir.path());
    let took = |time| {
        for _ in 0..100 {
            desk.took(time);
        }
    };
    let (quick, slow) = (Duration::from_micros(100), Duration::from_millis(5));
    assert!(desk.commit(write("first", 1)).is_err(), "nothing is known of the disk yet");
    took(quick);
    let written = desk.commit(write("a", 1)).unwrap().unwrap();
    assert_eq!(image.get(&key("a")).unwrap().revision, written[0].revision);
    // The disk of the test may be slow at any of its commits.
    took(quick);
    let refused = desk.commit(write("a", 1)).unwrap();
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    let waiting = desk.queue();
    assert!(desk.commit(write("b", 1)).is_err(), "somebody waits for the thread");
    drop(waiting);
    took(quick);
    assert!(desk.commit(write("b", 1)).is_ok());
    assert!(desk.commit(write("large", 1 << 20)).is_err());
    let many = (0..100).flat_map(|n| write(&format!("many-{n}"), 1)).collect();
    assert!(desk.commit(many).is_err());
    took(slow);
    assert!(desk.commit(write("c", 1)).is_err(), "it would hold up others");
    assert!(image.get(&key("c")).is_none() && image.get(&key("large")).is_none());
}

/// Revisions that overflow are the one thing that makes a commit panic from outside: with the checks of a debug build.
#[cfg(debug_assertions)]
#[test]
fn a_commit_that_breaks_off_where_it_comes_from_breaks_the_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    sqlite(dir.path()).close();
    let connection = Connection::open(dir.path().join("gantry.db")).unwrap();
    // The last revision that there is.
    let rows = "UPDATE clock SET revision = -1;
        INSERT INTO objects VALUES (-1, 'configmaps', 'default', 'last', CAST('{\"metadata\":{\"name\":\"last\"}}' AS BLOB));";
    connection.execute_batch(rows).unwrap();
    drop(connection);
    let (desk, image, condition) = desk(dir.path());
    assert_eq!(image.revision(), Revision(u64::MAX));
    for _ in 0..100 {
        desk.took(Duration::from_micros(100));
    }
    assert!(catch_unwind(AssertUnwindSafe(|| desk.commit(write("a", 1)))).is_err(), "it panics");
    // Nobody need come and find the writer gone: health tells it before the next write.
    assert_eq!(*condition.borrow(), Condition::Broken);
    assert!(desk.commit(write("b", 1)).is_err(), "and nobody commits any more");
}
