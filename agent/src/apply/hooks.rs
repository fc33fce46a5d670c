//! postStart and preStop: run in the background, their end is written into the pod's record.

use std::{future::Future, time::Duration};

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::{Apply, EventPod, Job};
use crate::{
    handlers::{
        exec::{self, Children},
        http,
    },
    model::{EventType, Hook, HookKind},
    plan::{HookCall, probes::http_check},
};

/// A hook's request may take so long; the kernel would wait for minutes.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

impl Apply {
    pub(super) fn post_start(&self, job: &Job, call: &HookCall) {
        let apply = self.clone();
        self.in_background(job, call, HookKind::PostStart, {
            let (call, job) = (call.clone(), job.clone());
            async move {
                let outcome = apply.run_hook(&call).await;
                if let Err(error) = &outcome {
                    let message = format!("PostStartHook failed: {error}");
                    apply.hook_event(&job, &call, "FailedPostStartHook", message);
                }
                apply.records.update(&job.uid, |record| {
                    let record = record.of_mut(&call.target.container, call.target.attempt);
                    let Some(record) = record else { return };
                    record.post_start = match outcome {
                        Ok(()) => Hook::Done,
                        Err(error) => Hook::Failed(error),
                    };
                });
            }
        });
    }

    pub(super) fn pre_stop(&self, job: &Job, call: &HookCall) {
        let apply = self.clone();
        self.in_background(job, call, HookKind::PreStop, {
            let (call, job) = (call.clone(), job.clone());
            async move {
                let run = tokio::time::timeout(call.limit().unwrap_or_default(), apply.run_hook(&call));
                let outcome =
                    run.await.unwrap_or_else(|_| Err("it did not end within the grace period".into()));
                if let Err(error) = outcome {
                    apply.hook_event(
                        &job,
                        &call,
                        "FailedPreStopHook",
                        format!("PreStopHook failed: {error}"),
                    );
                }
                apply.records.update(&job.uid, |record| {
                    let record = record.of_mut(&call.target.container, call.target.attempt);
                    if let Some(stop) = record.and_then(|record| record.stop.as_mut()) {
                        stop.pre_stop_done = true;
                    }
                });
            }
        });
    }

    /// Spawns it; rings the bell when it is over.
    fn in_background(
        &self,
        job: &Job,
        call: &HookCall,
        kind: HookKind,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = (call.target.id.clone(), kind);
        job.state.memory().hooks.insert(id.clone());
        let state = job.state.clone();
        tokio::spawn(async move {
            work.await;
            state.memory().hooks.remove(&id);
            state.bell.notify_one();
        });
    }

    async fn run_hook(&self, call: &HookCall) -> Result<(), String> {
        let handler: &LifecycleHandler = &call.handler;
        if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(action) = &handler.exec {
            let command = action.command.clone().unwrap_or_default();
            let (runtime, id) = (&*self.ports.runtime, &call.target.id);
            let outcome = exec::run(runtime, id, &command, call.limit(), Children::Stay).await?;
            return match outcome.code {
                0 => Ok(()),
                code => Err(format!("command {command:?} exited with {code}: {}", outcome.output)),
            };
        }
        if let Some(action) = &handler.http_get {
            let host =
                action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| call.host.clone());
            let check = http_check(action, host, &call.ports).ok_or("the hook's port is not known")?;
            return http::probe(&check, HTTP_TIMEOUT).await.map(drop);
        }
        Err("the hook has no action that this node knows: use exec, httpGet or sleep".to_owned())
    }

    fn hook_event(&self, job: &Job, call: &HookCall, reason: &'static str, message: String) {
        if let Some(pod) = &job.pod {
            self.events.container(
                &EventPod::of(pod),
                &call.target.container,
                EventType::Warning,
                reason,
                message,
            );
        }
    }
}
