//! The image of a container: looked up, pulled when the policy says so, waited for with back-off.

use k8s_openapi::api::core::v1::Container;

use super::{
    backoff::{FRESH_MS, delay_ms},
    containers::{Draft, Subjects},
    pod::pull_policy,
    step::{ImageRequest, PullPolicy, Step},
};
use crate::{
    images::ImageInfo,
    model::{ContainerName, ImageState},
};

/// The image when it is there for this attempt. Otherwise plans its look-up or says what it waits for.
pub fn look_up<'a>(
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
        Some(ImageState::Pulling) => None,
        Some(ImageState::Failed { reason, message, count, at_ms }) => {
            let until = at_ms + delay_ms(*count);
            let now = subjects.seen.now_ms;
            if now < at_ms + FRESH_MS || !pullable(reason) {
                draft.wait(&name, reason, message.clone());
                draft.wake_at(at_ms + FRESH_MS);
            } else {
                let text = format!("Back-off pulling image {:?}: {reason}: {message}", request.reference);
                draft.wait(&name, "ImagePullBackOff", text);
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
