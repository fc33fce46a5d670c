//! Looking images up and pulling them. The pull runs in the background; its outcome is in the pod's memory.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::{
    Apply, EventPod, Job,
    credentials::credentials,
    progress::{Shown, Teller},
};
use crate::{
    images::{ImageError, Progress},
    model::{EventType, ImageFailure, ImageInfo, ImageState, chain},
    plan::{ImageRequest, PullPolicy},
};

impl Apply {
    pub(super) async fn image(&self, job: &Job, request: ImageRequest) {
        if request.policy != PullPolicy::Always {
            match self.ports.images.find(&request.reference).await {
                Ok(Some(info)) => return self.present(job, &request, info),
                Ok(None) if request.policy == PullPolicy::Never => {
                    let error = ImageError::NeverPull { reference: request.reference.clone() };
                    return self.image_failed(job, &request, &error);
                }
                Ok(None) => {}
                Err(error) => return self.image_failed(job, &request, &error),
            }
        }
        let Some(pod) = &job.pod else { return };
        {
            let mut memory = job.state.memory();
            let after = match memory.images.remove(&request.container) {
                Some(ImageState::Failed(failure)) => Some(failure),
                _ => None,
            };
            let state = ImageState::Pulling { after, progress: None };
            memory.images.insert(request.container.clone(), state);
        }
        self.tell_image(
            job,
            &request,
            EventType::Normal,
            "Pulling",
            format!("Pulling image {:?}", request.reference),
        );
        let credentials = credentials(&job.desired, &pod.name.namespace, &request.secrets);
        let (apply, job) = (self.clone(), job.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let progress = apply.progress(&job, &request, began);
            match apply.ports.images.pull(&request.reference, &credentials, progress).await {
                Ok(info) => apply.pulled(&job, &request, info, began),
                Err(error) => apply.image_failed(&job, &request, &error),
            }
            job.state.bell.notify_one();
        });
    }

    /// Shows how far the pull is, in the pod's status and events.
    fn progress(
        &self,
        job: &Job,
        request: &ImageRequest,
        began: Instant,
    ) -> Arc<dyn Fn(Progress) + Send + Sync> {
        let (apply, job, request) = (self.clone(), job.clone(), request.clone());
        let teller = Mutex::new(Teller::new(&request.reference));
        Arc::new(move |progress| {
            let told = teller.lock().unwrap_or_else(PoisonError::into_inner).tell(began.elapsed(), progress);
            let Some(Shown { status, event }) = told else { return };
            if let Some(ImageState::Pulling { progress, .. }) =
                job.state.memory().images.get_mut(&request.container)
            {
                *progress = Some(status);
            }
            if let Some(event) = event {
                apply.tell_image(&job, &request, EventType::Normal, "Pulling", event);
            }
            job.state.bell.notify_one();
        })
    }

    fn present(&self, job: &Job, request: &ImageRequest, info: ImageInfo) {
        let message = format!(
            "Container image {:?} already present on machine and can be accessed by the pod",
            request.reference
        );
        self.tell_image(job, request, EventType::Normal, "Pulled", message);
        self.have(job, request, info);
    }

    fn pulled(&self, job: &Job, request: &ImageRequest, info: ImageInfo, began: Instant) {
        let elapsed =
            std::time::Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let message = format!(
            "Successfully pulled image {:?} in {elapsed:?} ({elapsed:?} including waiting). Image size: {} bytes.",
            request.reference, info.size
        );
        self.tell_image(job, request, EventType::Normal, "Pulled", message);
        self.have(job, request, info);
    }

    fn have(&self, job: &Job, request: &ImageRequest, mut info: ImageInfo) {
        info.reference.clone_from(&request.reference);
        let state = ImageState::Present { info, checked_for: request.attempt };
        job.state.memory().images.insert(request.container.clone(), state);
    }

    fn image_failed(&self, job: &Job, request: &ImageRequest, error: &ImageError) {
        let message = chain(error);
        tracing::warn!(pod = %job.uid, image = %request.reference, error = %message, "an image is not to be had");
        let reason = match error {
            ImageError::InvalidName { .. } => "InvalidImageName",
            ImageError::NeverPull { .. } => "ErrImageNeverPull",
            ImageError::Pull { .. } | ImageError::Store { .. } => "ErrImagePull",
        };
        let mut memory = job.state.memory();
        let before = match memory.images.get(&request.container) {
            Some(ImageState::Failed(failure) | ImageState::Pulling { after: Some(failure), .. })
                if failure.reference == request.reference =>
            {
                failure.count
            }
            _ => 0,
        };
        let failure = ImageFailure {
            reference: request.reference.clone(),
            reason,
            message,
            count: before + 1,
            at_ms: (self.clock)(),
        };
        memory.images.insert(request.container.clone(), ImageState::Failed(failure));
    }

    fn tell_image(
        &self,
        job: &Job,
        request: &ImageRequest,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        if let Some(pod) = &job.pod {
            self.events.container(&EventPod::of(pod), &request.container, kind, reason, message);
        }
    }
}
