#!/usr/bin/env python3
"""Writes openapi-facts.txt: what the published OpenAPI documents say of the Kubernetes types beside their shape.

The shapes and descriptions come from the k8s-openapi crate. What it lacks (required fields and their order, defaults,
enumerations and what their values mean, and the x-kubernetes-* extensions) stands in the documents of upstream's API server of the same version,
such as the one that `cargo xtask oracle` starts:

    python3 openapi.py KUBECONFIG > openapi-facts.txt

One line per type: its name, and a JSON schema that is merged into the crate's; `words` go behind a description.
"""

import json
import subprocess
import sys

from facts import ROOTS, references

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
MORE = [META + name for name in ("APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "DeleteOptions", "Status")]
MORE += ["io.k8s.apimachinery.pkg.version.Info", "io.k8s.api.authentication.v1.SelfSubjectReview"]
MORE += [f"io.k8s.api.authorization.v1.{name}" for name in (
    "LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"
)]
BELOW = ("properties", "items", "additionalProperties")
# How a description goes on that says what the values of an enumeration mean: of that the crate knows nothing.
ENUM = "\n\nPossible enum values:"


def kept(node):
    """A schema without its shape."""
    out = {}
    for name, value in node.items():
        if name == "properties":
            below = {field: facts for field, schema in value.items() if (facts := kept(schema))}
        elif name in BELOW and isinstance(value, dict):
            below = kept(value)
        elif name == "description" and ENUM in str(value):
            out["words"] = value[value.index(ENUM) :]
            continue
        elif name in ("default", "enum", "required") or name.startswith("x-kubernetes-") and not name.endswith("version-kind"):
            out[name] = value
            continue
        else:
            continue
        if below:
            out[name] = below
    return out


def get(kubeconfig, path):
    return json.loads(subprocess.check_output(["kubectl", "--kubeconfig", kubeconfig, "get", "--raw", path]))


def main(kubeconfig):
    schemas = {}
    for document in get(kubeconfig, "/openapi/v3")["paths"].values():
        schemas.update(get(kubeconfig, document["serverRelativeURL"])["components"].get("schemas", {}))
    reached, pending = set(), ROOTS + MORE
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(references(schemas[name]))
    print("# Made by openapi.py from the OpenAPI documents of Kubernetes v1.37.2; do not edit.")
    for name in sorted(reached):
        if facts := kept(schemas[name]):
            print(name, json.dumps(facts, separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    main(sys.argv[1])
