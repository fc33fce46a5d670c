//! Volumes: what is refused and in which words, what passes, and what is filled in. Expected answers are upstream's
//! own.

use serde_json::{Value, json};

use super::{defaults, validate};

/// The problems of a pod `p` with these volumes; paths without `spec.`.
fn volumes(volumes: &Value) -> Vec<String> {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {
        "containers": [{"name": "c", "image": "i:1"}], "serviceAccountName": "s", "volumes": volumes}});
    defaults::pod(&mut pod);
    let text = |c: &crate::model::Cause| format!("{}: {}", c.field.trim_start_matches("spec."), c.message);
    validate::pod(&pod, None).iter().map(text).collect()
}

/// The problems of one volume `v` with this source; paths without the volume.
fn source(source: &Value) -> Vec<String> {
    let mut volume = source.clone();
    volume["name"] = json!("v");
    volumes(&json!([volume])).into_iter().map(|p| p.replace("volumes[0].", "")).collect()
}

fn each(cases: &[(Value, &[&str])]) {
    for (value, expected) in cases {
        assert_eq!(source(value), *expected, "{value}");
    }
}

/// One source of a projected volume.
fn projected(part: &Value) -> Vec<String> {
    let problems = source(&json!({"projected": {"sources": [part]}}));
    problems.into_iter().map(|p| p.replace("projected.sources[0].", "")).collect()
}

#[test]
fn names_and_sources() {
    assert_eq!(
        volumes(
            &json!([{"name": "", "emptyDir": {}}, {"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}])
        ),
        ["volumes[0].name: Required value", "volumes[2].name: Duplicate value: \"a\""]
    );
    each(&[
        (json!({"emptyDir": {"medium": "anything"}}), &[]),
        (
            json!({"emptyDir": {}, "secret": {}, "cephfs": {}, "downwardAPI": {}}),
            &[
                "secret: Forbidden: may not specify more than 1 volume type",
                "cephFS: Forbidden: may not specify more than 1 volume type",
                "downwarAPI: Forbidden: may not specify more than 1 volume type",
            ],
        ),
        (json!({"hostPath": {"path": "/run/x.sock", "type": "Socket"}}), &[]),
        (
            json!({"nfs": {"server": "s", "path": ""}}),
            &["nfs.path: Required value", "nfs.path: Invalid value: \"\": must be an absolute path"],
        ),
        (json!({"persistentVolumeClaim": {}}), &["persistentVolumeClaim.claimName: Required value"]),
        (
            json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "A"}}}),
            &[
                "csi.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
               characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
               regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        (
            json!({"image": {"pullPolicy": "x"}}),
            &[
                "image.reference: Required value",
                "image.pullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
    ]);
}

#[test]
fn sources_that_left_the_tree_are_still_checked() {
    each(&[
        (json!({"gitRepo": {}}), &["gitRepo.repository: Required value"]),
        (
            json!({"gcePersistentDisk": {"partition": 256}}),
            &[
                "persistentDisk.pdName: Required value",
                "persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
            ],
        ),
        (
            json!({"flocker": {}}),
            &["flocker: Required value: one of datasetName and datasetUUID is required"],
        ),
        (
            json!({"iscsi": {"targetPortal": "t", "iqn": "iqn.x", "lun": 256, "chapAuthSession": true}}),
            &[
                "iscsi.iqn: Invalid value: \"iqn.x\": must be valid format",
                "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "iscsi.secretRef: Required value",
            ],
        ),
        (json!({"iscsi": {"targetPortal": "t", "iqn": "iqn.2001-04.com.example:storage.sys1"}}), &[]),
        (
            json!({"iscsi": {"targetPortal": "t", "iqn": "eui.0123456789abcdef", "initiatorName": "x"}}),
            &[
                "iscsi.initiatorname: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
            ],
        ),
        (json!({"rbd": {"monitors": []}}), &["rbd.monitors: Required value", "rbd.image: Required value"]),
        (
            json!({"quobyte": {"registry": "a", "volume": "v"}}),
            &[
                "quobyte.registry: Invalid value: \"a\": must be a host:port pair or multiple pairs separated by commas",
            ],
        ),
        (json!({"quobyte": {"registry": "a:1,[b]:2", "volume": "v"}}), &[]),
        (
            json!({"fc": {"targetWWNs": ["a"], "wwids": ["b"]}}),
            &[
                "fc.targetWWNs: Invalid value: [\"a\"]: targetWWNs and wwids can not be specified simultaneously",
                "fc.lun: Required value: lun is required if targetWWNs is specified",
            ],
        ),
        (
            json!({"flexVolume": {"driver": "d", "options": {"a.k8s.io/x": "y"}}}),
            &[
                "flexVolume.options[a.k8s.io/x]: Invalid value: \"a.k8s.io/x\": kubernetes.io and k8s.io namespaces are \
               reserved",
            ],
        ),
        (
            json!({"azureDisk": {"diskName": "d", "diskURI": "u", "kind": "Managed"}}),
            &["azureDisk.diskURI: Unsupported value: \"u\": supported values: \
               \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\""],
        ),
        (
            json!({"storageos": {"volumeName": "a", "secretRef": {}}}),
            &["storageos.secretRef.name: Required value"],
        ),
    ]);
}

#[test]
fn claim_templates() {
    let requests = json!({"requests": {"storage": "1Gi"}});
    let template = |metadata: Value, spec: Value| json!({"ephemeral": {"volumeClaimTemplate": {"metadata": metadata, "spec": spec}}});
    let good = json!({"accessModes": ["ReadWriteOnce"], "resources": requests});
    let shown = |problems: Vec<String>| -> Vec<String> {
        problems.into_iter().map(|p| p.replace("ephemeral.volumeClaimTemplate.", "")).collect()
    };
    assert!(source(&template(json!({"labels": {"a": "b"}}), good.clone())).is_empty());
    assert_eq!(
        shown(source(&template(json!({"name": "n", "uid": "u"}), good.clone()))),
        ["metadata.name: Forbidden: cannot be set", "metadata.uID: Forbidden: cannot be set"]
    );
    assert_eq!(
        shown(source(&template(json!({}), json!({})))),
        [
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value",
        ]
    );
    let mut odd = good.clone();
    odd["accessModes"] = json!(["ReadWriteOncePod", "ReadWriteOnce", "x"]);
    odd["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "a"});
    odd["dataSourceRef"] = json!({"kind": "PersistentVolumeClaim", "name": "b"});
    odd["resources"]["requests"]["storage"] = json!("0");
    assert_eq!(
        shown(source(&template(json!({}), odd))),
        [
            "spec.accessModes: Unsupported value: \"x\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \
             \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
            "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            "spec: Invalid value: {}: must match dataSourceRef",
        ]
    );
    assert_eq!(source(&json!({"ephemeral": {}})), ["ephemeral.volumeClaimTemplate: Required value"]);
    let made = json!([
        {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": good}}},
        {"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}},
    ]);
    assert_eq!(
        volumes(&made),
        [
            "volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not reference a PVC that gets \
          created for an ephemeral volume"
        ]
    );
}

#[test]
fn projected_sources() {
    assert_eq!(
        projected(&json!({"serviceAccountToken": {"path": "../x", "expirationSeconds": 1}})),
        [
            "serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            "projected.path: Invalid value: \"../x\": must not contain '..'",
        ]
    );
    assert_eq!(
        projected(&json!({"clusterTrustBundle": {"path": "p"}})),
        ["clusterTrustBundle: Required value: either name or signerName must be specified"]
    );
    assert_eq!(
        projected(&json!({"clusterTrustBundle": {"name": "a", "signerName": "b", "path": "p"}})),
        ["clusterTrustBundle: Invalid value: {\"Name\":\"a\",\"SignerName\":\"b\",\"LabelSelector\":null,\
             \"Optional\":null,\"Path\":\"p\",\"User\":null}: only one of name and signerName may be used"]
    );
    assert_eq!(
        projected(
            &json!({"clusterTrustBundle": {"name": "a:b", "path": "p", "labelSelector": {"matchLabels": {"c": "d"}}}})
        ),
        [
            "clusterTrustBundle.labelSelector: Invalid value: {\"matchLabels\":{\"c\":\"d\"}}: labelSelector must be \
             unset if name is specified"
        ]
    );
    assert_eq!(
        projected(&json!({"clusterTrustBundle": {"signerName": "a/b", "path": ""}})),
        [
            "clusterTrustBundle.signerName: Invalid value: \"a\": should be a domain with at least two segments \
             separated by dots",
            "clusterTrustBundle.path: Required value",
        ]
    );
    assert_eq!(
        projected(&json!({"podCertificate": {"signerName": "x", "keyType": "DSA", "maxExpirationSeconds": 1,
            "userAnnotations": {"a": "b"}}})),
        [
            "podCertificate.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form \
             'example.com/signer-name'",
            "podCertificate.userAnnotations: Invalid value: \"a\": must be a domain-prefixed key (such as \
             \"acme.io/foo\")",
            "podCertificate.keyType: Unsupported value: \"DSA\": supported values: \"RSA3072\", \"RSA4096\", \
             \"ECDSAP256\", \"ECDSAP384\", \"ECDSAP521\", \"ED25519\"",
            "podCertificate.maxExpirationSeconds: Invalid value: 1: if provided, maxExpirationSeconds must be >= 3600",
            "podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and \
             certificateChainPath",
        ]
    );
    assert_eq!(
        source(&json!({"projected": {"sources": [
            {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}, "configMap": {"name": "c"}},
            {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]}})),
        [
            "projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            "projected: Invalid value: \"p\": conflicting duplicate paths",
        ]
    );
}

#[test]
fn tokens_need_an_account() {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}],
        "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}});
    defaults::pod(&mut pod);
    for field in ["serviceAccountName", "serviceAccount"] {
        pod["spec"].as_object_mut().unwrap().remove(field);
    }
    let causes = validate::pod(&pod, None);
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!(causes[0].field, "spec.volumes[0].projected.sources[0].serviceAccountToken");
    assert_eq!(causes[0].message, "Forbidden: must not be specified when serviceAccountName is not set");
}

#[test]
fn defaults_of_volumes() {
    let mut pod = json!({"spec": {"containers": [], "volumes": [
        {"name": "a"},
        {"name": "b", "iscsi": {}},
        {"name": "c", "rbd": {"user": "u"}},
        {"name": "d", "azureDisk": {"fsType": ""}},
        {"name": "e", "scaleIO": {}},
        {"name": "f", "image": {"reference": "r:1"}},
        {"name": "g", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
    ]}});
    defaults::pod(&mut pod);
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
            {"name": "a", "emptyDir": {}},
            {"name": "b", "iscsi": {"iscsiInterface": "default"}},
            {"name": "c", "rbd": {"user": "u", "pool": "rbd", "keyring": "/etc/ceph/keyring"}},
            {"name": "d", "azureDisk": {"fsType": "", "cachingMode": "ReadWrite", "readOnly": false, "kind": "Shared"}},
            {"name": "e", "scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"}},
            {"name": "f", "image": {"reference": "r:1", "pullPolicy": "IfNotPresent"}},
            {"name": "g", "ephemeral": {"volumeClaimTemplate": {"spec": {"volumeMode": "Filesystem"}}}},
        ])
    );
}
