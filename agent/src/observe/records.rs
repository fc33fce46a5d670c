//! Pod records: the little that must outlive the agent and that neither containerd nor the kernel remembers. One
//! JSON file per pod in the run directory, written beside and renamed, without fsync: the directory is as
//! volatile as the processes it tells about.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing::warn;

use crate::model::{PodRecord, PodUid};

/// All records, in memory and on disk.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    loaded: Mutex<HashMap<PodUid, PodRecord>>,
}

impl Records {
    /// Reads what an earlier agent left. A file that does not parse is dropped: its pod is observed anew.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut loaded = HashMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let Some(uid) = uid_of(&path) else { continue };
            match fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
                Ok(Ok(record)) => {
                    loaded.insert(uid, record);
                }
                Ok(Err(error)) => warn!(pod = %uid, %error, "a pod record does not parse and is dropped"),
                Err(error) => warn!(pod = %uid, %error, "a pod record cannot be read and is dropped"),
            }
        }
        Ok(Self { dir, loaded: Mutex::new(loaded) })
    }

    /// A pod's record; empty when there is none.
    pub fn get(&self, pod: &PodUid) -> PodRecord {
        self.lock().get(pod).cloned().unwrap_or_default()
    }

    /// Pods that have one.
    pub fn list(&self) -> Vec<PodUid> {
        self.lock().keys().cloned().collect()
    }

    /// Changes a record and writes it when it is another one then.
    pub fn update(&self, pod: &PodUid, change: impl FnOnce(&mut PodRecord)) {
        let mut loaded = self.lock();
        let record = loaded.entry(pod.clone()).or_default();
        let before = record.clone();
        change(record);
        if *record == before {
            return;
        }
        // Under the lock: two writers of one file would race for the rename.
        if let Err(error) = self.write(pod, record) {
            warn!(pod = %pod, %error, "a pod record cannot be written: a restart of the agent may forget it");
        }
    }

    /// Forgets a pod that is gone.
    pub fn remove(&self, pod: &PodUid) {
        self.lock().remove(pod);
        match fs::remove_file(self.path(pod)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(pod = %pod, %error, "a pod record cannot be removed");
            }
            _ => {}
        }
    }

    fn write(&self, pod: &PodUid, record: &PodRecord) -> io::Result<()> {
        let temporary = self.dir.join(format!("{pod}.tmp"));
        let file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        serde_json::to_writer(io::BufWriter::new(file), record)?;
        fs::rename(&temporary, self.path(pod))
    }

    fn path(&self, pod: &PodUid) -> PathBuf {
        self.dir.join(format!("{pod}.json"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PodUid, PodRecord>> {
        // A record is replaced as a whole: a panic elsewhere cannot leave half of one.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn uid_of(path: &Path) -> Option<PodUid> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".json").map(PodUid::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ContainerName;

    #[test]
    fn a_record_survives_the_agent_and_a_broken_one_does_not_stop_it() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, web) = (PodUid::from("uid-1"), ContainerName::from("web"));
        let records = Records::open(dir.path().to_owned()).unwrap();
        records.update(&pod, |record| record.of_mut(&web, 2).ready = true);
        fs::write(dir.path().join("uid-2.json"), "{").unwrap();

        let again = Records::open(dir.path().to_owned()).unwrap();
        assert!(again.get(&pod).of(&web, 2).unwrap().ready);
        assert_eq!(again.get(&pod).of(&web, 3), None);
        assert_eq!(again.list(), vec![pod.clone()]);
        again.remove(&pod);
        assert!(Records::open(dir.path().to_owned()).unwrap().list().is_empty());
    }
}
