//! The image of a container: looked up, pulled when the policy says so, waited for with back-off.

use k8s_openapi::api::core::v1::Container;

use super::{
    backoff::{FRESH_MS, delay_ms},
    creating,
    step::{ImageRequest, PullPolicy, Step},
};
use crate::{
    model::{ContainerName, ImageFailure, ImageInfo, ImageState, spec::pull_policy},
    plan::draft::{Draft, Subjects},
};

/// The image when it is there for this attempt. Otherwise plans its look-up or says what it waits for.
pub(super) fn look_up<'a>(
    subjects: &Subjects<'a>,
    draft: &mut Draft,
    container: &Container,
    attempt: u32,
) -> Option<&'a ImageInfo> {
    let name = ContainerName::new(container.name.as_str());
    let request = request(subjects, container, &name, attempt);
    match subjects.seen.images.get(&name) {
        Some(ImageState::Present { info, checked_for })
            if info.reference == request.reference
                && (request.policy != PullPolicy::Always || *checked_for >= attempt) =>
        {
            Some(info)
        }
        Some(ImageState::Pulling { after, progress }) => {
            // A repeated pull shows why the last one failed until it succeeds.
            if let Some(failure) = after.as_ref().filter(|failure| failure.reference == request.reference) {
                draft.wait(&name, "ImagePullBackOff", back_off_text(failure));
            } else if let Some(progress) = progress {
                draft.wait(&name, creating(subjects.spec), progress.clone());
            }
            None
        }
        Some(ImageState::Failed(failure)) if failure.reference == request.reference => {
            let until = failure.at_ms + delay_ms(failure.count);
            let now = subjects.seen.now_ms;
            if now < failure.at_ms + FRESH_MS || !pullable(failure.reason) {
                draft.wait(&name, failure.reason, failure.message.clone());
                if now < failure.at_ms + FRESH_MS {
                    draft.wake_at(failure.at_ms + FRESH_MS);
                }
            } else {
                draft.wait(&name, "ImagePullBackOff", back_off_text(failure));
            }
            if now >= until {
                draft.steps.push(Step::Image(request));
            } else {
                draft.wake_at(until);
            }
            None
        }
        _ => {
            draft.steps.push(Step::Image(request));
            None
        }
    }
}

fn back_off_text(failure: &ImageFailure) -> String {
    format!("Back-off pulling image {:?}: {}: {}", failure.reference, failure.reason, failure.message)
}

/// Only pulls back off under another name; the other reasons stay.
fn pullable(reason: &str) -> bool {
    reason == "ErrImagePull"
}

fn request(
    subjects: &Subjects<'_>,
    container: &Container,
    name: &ContainerName,
    attempt: u32,
) -> ImageRequest {
    let secrets = subjects.spec.image_pull_secrets.iter().flatten();
    ImageRequest {
        container: name.clone(),
        attempt,
        reference: container.image.clone().unwrap_or_default(),
        policy: match pull_policy(container) {
            "Always" => PullPolicy::Always,
            "Never" => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        },
        secrets: secrets.map(|secret| secret.name.clone()).collect(),
    }
}
