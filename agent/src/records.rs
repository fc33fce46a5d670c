//! Pod records: the little that must outlive the agent and that neither containerd nor the kernel remembers. Owned: one
//! JSON file per pod in a directory of the agent's state, and its copy in memory. In: changes by whoever saw or did
//! something. Out: the record as it is. What says that a pod has ended is on the disk before it counts: a pod that was
//! done must not begin again after a power cut. The rest is not: it is about processes that a power cut ends as well.
//! Never decides anything.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing::warn;

use crate::{
    durable::{self, Against},
    model::{PodRecord, PodUid},
};

/// All records, in memory and on disk.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    boot: String,
    loaded: Mutex<HashMap<PodUid, PodRecord>>,
}

impl Records {
    /// Reads what an earlier agent left. A file that does not parse is dropped: its pod is observed anew. Of a record
    /// of another boot only the status is kept.
    pub fn open(dir: PathBuf, boot: &str) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut loaded = HashMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let Some(uid) = uid_of(&path) else {
                // Of a pod that may be gone since: nobody would write it again.
                if path.as_os_str().as_encoded_bytes().ends_with(durable::TEMPORARY.as_bytes()) {
                    fs::remove_file(&path)?;
                }
                continue;
            };
            match fs::read(&path).map(|bytes| serde_json::from_slice::<PodRecord>(&bytes)) {
                Ok(Ok(mut record)) => {
                    if record.boot != boot {
                        record.reboot(boot);
                    }
                    loaded.insert(uid, record);
                }
                Ok(Err(error)) => warn!(pod = %uid, %error, "a pod record does not parse and is dropped"),
                Err(error) => warn!(pod = %uid, %error, "a pod record cannot be read and is dropped"),
            }
        }
        Ok(Self { dir, boot: boot.to_owned(), loaded: Mutex::new(loaded) })
    }

    /// A pod's record; empty when there is none.
    pub fn get(&self, pod: &PodUid) -> PodRecord {
        self.lock().get(pod).cloned().unwrap_or_default()
    }

    /// Shows all of them, without a copy. Others wait meanwhile.
    pub fn each(&self, mut show: impl FnMut(&PodUid, &PodRecord)) {
        for (pod, record) in &*self.lock() {
            show(pod, record);
        }
    }

    /// Pods that have one.
    pub fn list(&self) -> Vec<PodUid> {
        self.lock().keys().cloned().collect()
    }

    /// Changes a record and writes it when it is another one then.
    pub fn update(&self, pod: &PodUid, change: impl FnOnce(&mut PodRecord)) {
        let mut loaded = self.lock();
        let new = || PodRecord { boot: self.boot.clone(), ..PodRecord::default() };
        let record = loaded.entry(pod.clone()).or_insert_with(new);
        let before = record.clone();
        change(record);
        if *record == before {
            return;
        }
        let against = if lasting(record) == lasting(&before) { Against::Crash } else { Against::PowerCut };
        // Under the lock: two writers of one file would race for the rename.
        if let Err(error) = self.write(pod, record, against) {
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

    fn write(&self, pod: &PodUid, record: &PodRecord, against: Against) -> io::Result<()> {
        durable::replace(&self.path(pod), &serde_json::to_vec(record)?, against)
    }

    fn path(&self, pod: &PodUid) -> PathBuf {
        self.dir.join(format!("{pod}.json"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PodUid, PodRecord>> {
        // A record is replaced as a whole: a panic elsewhere cannot leave half of one.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part that a power cut must not take: how the pod has ended.
fn lasting(record: &PodRecord) -> Option<(&str, Option<&str>)> {
    let status = record.status.as_ref()?;
    let phase = status.phase.as_deref().filter(|phase| matches!(*phase, "Succeeded" | "Failed"))?;
    Some((phase, status.reason.as_deref()))
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
        let records = Records::open(dir.path().to_owned(), "b1").unwrap();
        records.update(&pod, |record| record.of_mut(&web, 2).unwrap().ready = true);
        // What is late about an attempt before this one changes nothing.
        records.update(&pod, |record| assert!(record.of_mut(&web, 1).is_none()));
        fs::write(dir.path().join("uid-2.json"), "{").unwrap();
        fs::write(dir.path().join("uid-3.json.tmp"), "{").unwrap();

        let again = Records::open(dir.path().to_owned(), "b1").unwrap();
        assert!(again.get(&pod).of(&web, 2).unwrap().ready);
        assert_eq!(again.get(&pod).of(&web, 3), None);
        assert_eq!(again.list(), vec![pod.clone()]);
        assert!(!dir.path().join("uid-3.json.tmp").exists());
        again.remove(&pod);
        assert!(Records::open(dir.path().to_owned(), "b1").unwrap().list().is_empty());
    }

    #[test]
    fn a_reboot_leaves_the_status_and_says_which_attempts_are_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, web) = (PodUid::from("uid-1"), ContainerName::from("web"));
        let status = serde_json::json!({"phase": "Failed", "reason": "DeadlineExceeded",
            "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [{"name": "web", "image": "i", "imageID": "", "ready": false, "restartCount": 2}]});
        let status: k8s_openapi::api::core::v1::PodStatus = serde_json::from_value(status).unwrap();
        let records = Records::open(dir.path().to_owned(), "b1").unwrap();
        records.update(&pod, |record| {
            record.of_mut(&web, 2).unwrap().ready = true;
            record.status = Some(status.clone().into());
        });
        let again = Records::open(dir.path().to_owned(), "b2").unwrap().get(&pod);
        assert_eq!(again.status.as_deref(), Some(&status));
        assert_eq!(again.of(&web, 2), None);
        assert!(again.is_of_earlier_boot(&web, 2) && !again.is_of_earlier_boot(&web, 3));
    }
}
