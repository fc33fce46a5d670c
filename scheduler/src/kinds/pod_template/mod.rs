//! PodTemplates.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use super::{
    Column, Kind, Rules,
    json::member_mut,
    pod,
    print::{NAME, column, name},
    validate::{Path, Problems},
    workload::{
        self,
        print::{container_cells, label_text},
        template::counted,
    },
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind { generation: true, columns: Cow::Borrowed(COLUMNS), ..Kind::published::<PodTemplate>(Templates) }
}

struct Templates;

impl Rules for Templates {
    fn defaults(&self, template: &mut Value) {
        if let Some(template) = template.as_object_mut() {
            pod::defaults::template(template);
        }
    }

    fn prepare_create(&self, template: &mut Value) {
        drop_gated(template);
    }

    fn prepare_update(&self, new: &mut Value, _: &Value) {
        drop_gated(new);
    }

    fn validate(&self, template: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(template, old)
    }

    fn warnings(&self, template: &Value) -> Vec<String> {
        warnings(template)
    }

    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        if counted(new, old) { warnings(new) } else { Vec::new() }
    }

    fn cells(&self, template: &Value, _: i64) -> Vec<Value> {
        cells(template)
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Containers", "string", "Names of each container in the template."),
    column("Images", "string", "Images referenced by each container in the template."),
    column("Pod Labels", "string", "The labels for the pod template."),
];

fn cells(object: &Value) -> Vec<Value> {
    let template = &object["template"];
    let [names, images] = container_cells(template);
    vec![name(object), names, images, label_text(&template["metadata"]["labels"])]
}

fn drop_gated(template: &mut Value) {
    if let Some(template) = template.as_object_mut().and_then(|object| member_mut(object, "template")) {
        pod::prepare::drop_gated(template);
    }
}

fn warnings(template: &Value) -> Vec<String> {
    pod::warnings::template(&template["template"], &Path::new("template"))
}

/// A PodTemplate. Unlike that of a workload its pods may end.
fn validate(template: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    workload::metadata(template, old, &mut problems);
    pod::validate::any_template(&template["template"], &Path::new("template"), &mut problems);
    problems.into_causes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(causes: &[Cause]) -> String {
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_pods_of_a_template_may_end() {
        let mut template = json!({"metadata": {"name": "t"}, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i:1"}]}}});
        Templates.defaults(&mut template);
        assert_eq!(template["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(told(&validate(&template, None)), "");
        template["template"]["spec"]["containers"] = json!([]);
        assert_eq!(told(&validate(&template, None)), "template.spec.containers: Required value");
    }
}
