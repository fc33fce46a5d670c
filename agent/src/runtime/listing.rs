//! Observation of containers: containerd's records joined with its tasks. A record tells who a container is and
//! what became of it; a task tells whether it runs. Records without a task that never started are left-overs of a
//! killed agent: they are removed once, at the first observation.

use std::collections::HashMap;

use containerd_client::{
    services::v1::{Container, ListContainersRequest, ListTasksRequest},
    types::v1::{Process, Status as Task},
};

use super::{
    ContainerState, ObservedContainer, Runtime, RuntimeError,
    containerd::ContainerdRuntime,
    errors::call,
    facts,
    labels::{self, native_id},
};
use crate::model::{ContainerId, PodUid};

/// Exit code of a container whose program could not be started.
const START_FAILED: i32 = 128;

impl ContainerdRuntime {
    pub(super) async fn observe(&self) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.recovered.get_or_try_init(|| self.remove_left_overs()).await?;
        let (records, tasks) = self.records_and_tasks().await?;
        let mut observed = Vec::with_capacity(records.len());
        for record in &records {
            observed.extend(self.observed(record, tasks.get(&record.id)).await);
        }
        Ok(observed)
    }

    /// Asks only for the pod's own: a pass over one pod must not cost more on a fuller node.
    pub(super) async fn observe_pod(&self, pod: &PodUid) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.recovered.get_or_try_init(|| self.remove_left_overs()).await?;
        let mut observed = Vec::new();
        for record in self.records(vec![format!("labels.{:?}=={:?}", labels::POD_UID, pod.as_str())]).await? {
            let task = self.task(&our_id(&record)).await?;
            observed.extend(self.observed(&record, task.as_ref()).await);
        }
        Ok(observed)
    }

    async fn records(&self, filters: Vec<String>) -> Result<Vec<Container>, RuntimeError> {
        let failed = call("list", "containers");
        let request = self.client.request(ListContainersRequest { filters });
        let mut stream = self.client.containers().list_stream(request).await.map_err(&failed)?.into_inner();
        let mut records = Vec::new();
        while let Some(message) = stream.message().await.map_err(&failed)? {
            records.extend(message.container.filter(|c| c.labels.contains_key(labels::ID)));
        }
        Ok(records)
    }

    async fn records_and_tasks(&self) -> Result<(Vec<Container>, HashMap<String, Process>), RuntimeError> {
        // Records first: a task without a record here is just being created.
        let records = self.records(Vec::new()).await?;
        let request = self.client.request(ListTasksRequest::default());
        let tasks =
            self.client.tasks().list(request).await.map_err(call("list", "tasks"))?.into_inner().tasks;
        let by_id = |task: Process| {
            let id = if task.container_id.is_empty() { task.id.clone() } else { task.container_id.clone() };
            (id, task)
        };
        Ok((records, tasks.into_iter().map(by_id).collect()))
    }

    async fn remove_left_overs(&self) -> Result<(), RuntimeError> {
        self.execs.remove_left_overs();
        let (records, tasks) = self.records_and_tasks().await?;
        for record in records {
            if !tasks.contains_key(&record.id) && !has_history(&record) {
                self.remove(&our_id(&record)).await?;
            }
        }
        Ok(())
    }

    async fn observed(&self, record: &Container, task: Option<&Process>) -> Option<ObservedContainer> {
        let id = our_id(record);
        let (pod, container, attempt) = id.parts()?;
        let state = self.state(record, task).await?;
        Some(ObservedContainer {
            pod,
            container,
            attempt,
            image: record.image.clone(),
            image_id: record.labels.get(labels::IMAGE_ID).cloned().unwrap_or_default(),
            state,
            labels: record.labels.clone().into_iter().collect(),
            id,
        })
    }

    /// `None` while it is being created.
    async fn state(&self, record: &Container, task: Option<&Process>) -> Option<ContainerState> {
        if record.labels.contains_key(labels::START_ERROR) {
            let finished_ms = number(record, labels::FINISHED).unwrap_or_default();
            return Some(ContainerState::Exited {
                code: START_FAILED,
                started_ms: finished_ms,
                finished_ms,
                oom_killed: false,
            });
        }
        let started = number(record, labels::STARTED);
        match task.map(|task| (task.status(), task)) {
            Some((Task::Created, _)) => Some(ContainerState::Created),
            Some((Task::Running | Task::Paused | Task::Pausing, task)) => Some(ContainerState::Running {
                pid: task.pid,
                started_ms: started.unwrap_or_else(|| facts::process_started_ms(task.pid)),
            }),
            Some((Task::Stopped, task)) => {
                let exit = facts::Exit::of_task(task, record, &self.options.cgroup_mount);
                if facts::Exit::recorded(record).is_none() {
                    facts::settle(&self.client, record, exit).await;
                }
                Some(exit.state(started))
            }
            Some((Task::Unknown, _)) => Some(ContainerState::Unknown),
            None => match facts::Exit::recorded(record) {
                Some(exit) => Some(exit.state(started)),
                None => started.map(|_| ContainerState::Unknown),
            },
        }
    }
}

fn our_id(record: &Container) -> ContainerId {
    let id = ContainerId::new(record.labels.get(labels::ID).cloned().unwrap_or_default());
    debug_assert_eq!(native_id(&id), record.id);
    id
}

fn number(record: &Container, label: &str) -> Option<i64> {
    record.labels.get(label)?.parse().ok()
}

/// It started, ended, or failed to start: something that must be reported.
fn has_history(record: &Container) -> bool {
    [labels::STARTED, labels::START_ERROR, labels::EXIT_CODE].iter().any(|l| record.labels.contains_key(*l))
}
