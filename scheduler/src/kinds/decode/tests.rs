//! What is refused, dropped and brought into the stored form, and in which words.

use serde_json::json;

use super::*;
use crate::{kinds::builtin, model::Resource};

fn pod(mut object: Value) -> Result<(Value, Vec<String>), String> {
    let unknown =
        decode(builtin().by_resource(Resource::PODS).unwrap(), &mut object).map_err(|e| e.to_string())?;
    Ok((object, unknown))
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    let body = json!({"metadata": {"name": "p", "lables": {}},
        "spec": {"containers": [{"name": "c", "imagePullpolicy": "Always"}]}});
    let (object, unknown) = pod(body).unwrap();
    assert_eq!(object, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}));
    let expected =
        ["unknown field \"metadata.lables\"", "unknown field \"spec.containers[0].imagePullpolicy\""];
    assert_eq!(unknown, expected);
}

#[test]
fn wrong_types_are_refused_in_the_words_of_go() {
    for (spec, expected) in [
        (
            json!({"terminationGracePeriodSeconds": "30"}),
            "json: cannot unmarshal string into Go struct field \
             PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            json!({"containers": [{"env": [{"name": "A", "value": 1}]}]}),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            json!({"containers": {"name": "c"}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {"items": [{"mode": "x"}]}}]}),
            "json: cannot unmarshal string into Go struct field KeyToPath.spec.volumes.VolumeSource.secret.items.mode \
             of type int32",
        ),
        (
            json!({"containers": [{"livenessProbe": {"exec": 5}}]}),
            "json: cannot unmarshal number into Go struct field Probe.spec.containers.livenessProbe.ProbeHandler.exec \
             of type v1.ExecAction",
        ),
        (
            json!({"priority": 1.5}),
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            json!({"containers": [{"resources": {"limits": {"cpu": "1 core"}}}]}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"containers": [{"livenessProbe": {"httpGet": {"port": true}}}]}),
            "json: cannot unmarshal bool into Go struct field \
             HTTPGetAction.spec.containers.livenessProbe.ProbeHandler.httpGet.port of type int32",
        ),
        (
            json!({"restartPolicy": 1}),
            "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            json!({"volumes": [{"hostPath": {"type": 1}}]}),
            "json: cannot unmarshal number into Go struct field \
             HostPathVolumeSource.spec.volumes.VolumeSource.hostPath.type of type v1.HostPathType",
        ),
        (
            json!({"containers": [{"securityContext": {"capabilities": {"add": [1]}}}]}),
            "json: cannot unmarshal number into Go struct field \
             Capabilities.spec.containers.securityContext.capabilities.add of type v1.Capability",
        ),
        (
            json!({"containers": [{"securityContext": {"capabilities": {"add": 1}}}]}),
            "json: cannot unmarshal number into Go struct field \
             Capabilities.spec.containers.securityContext.capabilities.add of type []v1.Capability",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}, 5]}]}),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.ports of type v1.ContainerPort",
        ),
        (
            json!({"containers": [{"resources": {"limits": 5}}]}),
            "json: cannot unmarshal number into Go struct field ResourceRequirements.spec.containers.resources.limits of \
             type v1.ResourceList",
        ),
        (
            json!({"nodeSelector": {"a": 1}}),
            "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector of type string",
        ),
    ] {
        assert_eq!(pod(json!({ "spec": spec })).unwrap_err(), expected);
    }
}

#[test]
fn of_several_wrong_values_the_first_in_the_body_is_told() {
    let told = |body: &str| {
        let mut object: Value = serde_json::from_str(body).unwrap();
        let error = decode(builtin().by_resource(Resource::PODS).unwrap(), &mut object).unwrap_err();
        error.told(Some(body.as_bytes())).rsplit_once(' ').unwrap().0.to_owned()
    };
    let field = |name: &str| format!("json: cannot unmarshal number into Go struct field {name} of type");
    let labels = field("ObjectMeta.metadata.labels");
    let both = r#"{"spec": {"nodeName": 1}, "metadata": {"labels": {"a": 1}}}"#;
    assert_eq!(told(both), field("PodSpec.spec.nodeName"));
    let both = r#"{"metadata": {"labels": {"a": 1}}, "spec": {"nodeName": 1}}"#;
    assert_eq!(told(both), labels);
    let items = r#"{"spec": {"containers": [{"name": "c", "image": 1}, {"args": [1]}], "nodeName": 1}}"#;
    assert_eq!(told(items), field("Container.spec.containers.image"));
    // A type that reads itself ends the decoding.
    let own = r#"{"metadata": {"labels": {"a": 1}, "creationTimestamp": "x"}, "spec": {"nodeName": 1}}"#;
    assert!(told(own).starts_with("parsing time \"x\""));
}

#[test]
fn the_stored_form_has_canonical_quantities_and_no_empties() {
    let body = json!({
        "metadata": {"name": "p", "creationTimestamp": null, "labels": {}},
        "spec": {
            "containers": [{"name": "c", "env": [], "resources": {"limits": {"cpu": "1000m", "memory": 1024}}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    let expected = json!({
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    assert_eq!(pod(body).unwrap().0, expected);
}

#[test]
fn resources_are_rounded_up_to_thousandths() {
    let body = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "c", "resources": {
            "limits": {"cpu": "100u", "memory": "0.0001"}, "requests": {"cpu": 0.0015}}}],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "0.0001"}}]}});
    let spec = &pod(body).unwrap().0["spec"];
    let expected = json!({"limits": {"cpu": "1m", "memory": "1m"}, "requests": {"cpu": "2m"}});
    assert_eq!(spec["containers"][0]["resources"], expected);
    assert_eq!(spec["volumes"][0]["emptyDir"]["sizeLimit"], "100u", "no list of resources");
}

#[test]
fn a_null_item_is_the_zero_value_of_its_type() {
    let body = json!({"spec": {"nodeSelector": {"k": null}, "containers": [null,
        {"name": "c", "args": [null], "resources": {"limits": {"cpu": null}}}]}});
    let expected = json!({"spec": {"nodeSelector": {"k": ""}, "containers": [{},
        {"name": "c", "args": [""], "resources": {"limits": {"cpu": "0"}}}]}});
    assert_eq!(pod(body).unwrap().0, expected);
}

#[test]
fn the_zero_value_of_a_field_that_is_no_pointer_is_absence() {
    let body = json!({"spec": {"hostNetwork": false, "nodeName": "", "hostUsers": false,
        "terminationGracePeriodSeconds": 0, "priorityClassName": ""}});
    let expected = json!({"spec": {"hostUsers": false, "terminationGracePeriodSeconds": 0}});
    assert_eq!(pod(body).unwrap().0, expected);
}

#[test]
fn micro_times_have_six_digits() {
    let kind = builtin().by_resource(Resource::LEASES).unwrap();
    let decoded = |text: &str| {
        let mut lease = json!({"spec": {"renewTime": text}});
        decode(kind, &mut lease).map(|_| lease["spec"]["renewTime"].clone()).map_err(|e| e.to_string())
    };
    assert_eq!(decoded("2026-01-02T03:04:05.678901Z").unwrap(), "2026-01-02T03:04:05.678901Z");
    assert_eq!(
        decoded("2026-01-02T03:04:05Z").unwrap_err(),
        "parsing time \"2026-01-02T03:04:05Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \
         \".000000\""
    );
    assert!(
        decoded("2026-01-02T03:04:05.123456789Z")
            .unwrap_err()
            .ends_with("cannot parse \"789Z\" as \"Z07:00\"")
    );
}

#[test]
fn secrets_must_be_base64() {
    let kind = builtin().by_resource(Resource::SECRETS).unwrap();
    let refused = |data: &str| decode(kind, &mut json!({"data": {"k": data}})).unwrap_err().to_string();
    assert_eq!(refused("not base64!"), "illegal base64 data at input byte 3");
    assert!(decode(kind, &mut json!({"data": {"k": "aGVsbG8=\n"}})).is_ok());
}

#[test]
fn refusals_name_the_kind() {
    let kind = builtin().by_resource(Resource::DEPLOYMENTS).unwrap();
    assert_eq!(
        strict_refusal(kind, &["unknown field \"spec.x\"".to_owned()]).message,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.x\""
    );
}
