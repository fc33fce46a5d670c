//! What all workloads do with the pod template in their spec: preparing it for the store, and warning about it.
//! Never: its defaults and its validation, which are those of any template.

use serde_json::Value;

use crate::kinds::{
    base::{drop_status, keep_status},
    json::{member_mut, text},
    pod,
    validate::{Path, names},
};

/// A new Deployment or ReplicaSet has no status, and its template nothing that is behind a gate.
pub(in crate::kinds) fn prepare_create(object: &mut Value) {
    drop_status(object);
    drop_gated(object);
}

/// The same of a changed one, whose status stays.
pub(in crate::kinds) fn prepare_update(new: &mut Value, old: &Value) {
    keep_status(new, old);
    drop_gated(new);
}

/// Takes what is behind a gate out of the template in the spec.
pub(in crate::kinds) fn drop_gated(object: &mut Value) {
    let spec = object.as_object_mut().and_then(|object| member_mut(object, "spec"));
    if let Some(template) = spec.and_then(|spec| member_mut(spec, "template")) {
        pod::prepare::drop_gated(template);
    }
}

/// Warnings about a new workload: of its name, and of its template.
pub(in crate::kinds) fn warnings(object: &Value) -> Vec<String> {
    let complaints = names::dns_label(text(&object["metadata"], "name"));
    let mut out = template_warnings(object);
    if !complaints.is_empty() {
        let why = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
                   recommended";
        out.insert(0, format!("metadata.name: {why}: [{}]", complaints.join(" ")));
    }
    out
}

/// Warnings about a changed workload: those of its template, whenever a change counts.
pub(in crate::kinds) fn update_warnings(new: &Value, old: &Value) -> Vec<String> {
    if counted(new, old) { template_warnings(new) } else { Vec::new() }
}

/// Whether an update raised the generation.
pub(in crate::kinds) fn counted(new: &Value, old: &Value) -> bool {
    new["metadata"]["generation"] != old["metadata"]["generation"]
}

/// Warnings about the template in a workload's spec.
pub(in crate::kinds) fn template_warnings(object: &Value) -> Vec<String> {
    pod::warnings::template(&object["spec"]["template"], &Path::new("spec").field("template"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kinds::builtin;

    const HOLDERS: [&str; 4] = ["Deployment", "ReplicaSet", "ReplicationController", "PodTemplate"];

    #[test]
    fn what_is_behind_a_gate_leaves_a_template_after_its_defaults() {
        let given = json!({"spec": {"evictionResponders": [{"name": "a"}],
            "containers": [{"name": "c", "image": "i", "lifecycle": {"stopSignal": "SIGTERM"}}]}});
        for kind in builtin().all().iter().filter(|kind| HOLDERS.contains(&&*kind.kind)) {
            let mut object = json!({"spec": {"template": given}, "template": given});
            let at = if kind.kind == "PodTemplate" { "/template/spec" } else { "/spec/template/spec" };
            kind.rules.defaults(&mut object);
            let meant = object.pointer(at).unwrap();
            assert!(meant["evictionResponders"].is_array(), "{}: managers come to own it", kind.kind);
            let old = object.clone();
            let mut changed = object.clone();
            kind.rules.prepare_create(&mut object);
            kind.rules.prepare_update(&mut changed, &old);
            for made in [object, changed] {
                let spec = made.pointer(at).unwrap();
                assert!(spec.get("evictionResponders").is_none(), "{}", kind.kind);
                assert!(spec["containers"][0].get("lifecycle").is_none(), "{}", kind.kind);
            }
        }
    }

    #[test]
    fn what_names_are_generated_from_is_asked_for_at_creation_only() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for kind in builtin().all().iter().filter(|kind| HOLDERS.contains(&&*kind.kind)) {
            let selector =
                if kind.group.is_empty() { json!({"a": "b"}) } else { json!({"matchLabels": {"a": "b"}}) };
            let mut object = json!({"metadata": {"name": "o", "generateName": "A_b"}, "template": template,
                "spec": {"selector": selector, "template": template}});
            kind.rules.defaults(&mut object);
            // A controller of old looks at the name that was made of it.
            let complaints = usize::from(kind.kind != "ReplicationController");
            assert_eq!(kind.rules.validate(&object, None).len(), complaints, "{}", kind.kind);
            assert!(kind.rules.validate(&object, Some(&object)).is_empty(), "{}", kind.kind);
        }
    }

    #[test]
    fn a_workload_is_warned_about_its_name_once_and_its_template_at_each_change() {
        let spec = json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}});
        let object = |generation: i64, spec: &serde_json::Value| {
            json!({"metadata": {"name": "a.b", "generation": generation}, "spec": {"template": {"spec": spec}},
                "template": {"spec": spec}})
        };
        for kind in builtin().all().iter().filter(|kind| HOLDERS.contains(&&*kind.kind)) {
            let new = kind.rules.warnings(&object(1, &spec));
            let named = new.iter().filter(|w| {
                w.as_str()
                    == "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; \
                        a DNS label is recommended: [must not contain dots]"
            });
            assert_eq!(named.count(), usize::from(kind.kind != "PodTemplate"), "{}", kind.kind);
            let warned = |old: i64| kind.rules.update_warnings(&object(2, &spec), &object(old, &spec));
            assert_eq!(warned(1).len(), 1, "{}", kind.kind);
            assert!(warned(1)[0].contains("nodeSelector"), "{}", kind.kind);
            assert!(warned(2).is_empty(), "{}", kind.kind);
        }
    }
}
