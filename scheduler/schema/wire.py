#!/usr/bin/env python3
"""Writes wire-facts.txt: the protobuf field numbers of the Kubernetes types.

kubectl sends some objects in protobuf only (`kubectl create namespace`, `create deployment`, ...). Types and JSON
names come from the k8s-openapi crate, as everywhere; what it lacks are the numbers. This script takes them from the
source of the crate `k8s-pb`, which is generated from the published .proto files, and matches them to JSON names with
the schemas in the wheel that facts.py uses:

    cargo vendor (in a scratch crate that depends on k8s-pb 0.9.0); python3 wire.py vendor/k8s-pb wheel > wire-facts.txt

One line a message: its fields as number=JSON-name, or number>message for a struct that JSON shows inline:

    io.k8s.api.core.v1.Volume 1=name 2>io.k8s.api.core.v1.VolumeSource
"""

import json
import pathlib
import re
import sys

from facts import ROOTS, VERSION

ROOTS = ROOTS + ["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]
FIELD = re.compile(
    r'#\[prost\([^\]]*?tag = "(?P<tag>\d+)"\s*\)\]\s+pub (?:r#)?(?P<name>\w+):\s*(?P<type>.*?),(?=\n    (?:///|#)|\s*\Z)', re.S
)
STRUCT = re.compile(r"pub struct (?P<name>\w+) \{(?P<body>.*?)\n\}", re.S)


def plain(name):
    """A name as both sides have it: without underscores and capitals."""
    return name.replace("_", "").lower()


def messages(crate):
    """Every message: (package, plain name) -> (name, [(number, plain field name, Rust type)])."""
    found = {}
    for path in (pathlib.Path(crate) / "src").rglob("mod.rs"):
        package = "io.k8s." + ".".join(path.parent.relative_to(pathlib.Path(crate) / "src").parts)
        for struct in STRUCT.finditer(path.read_text()):
            fields = [(int(f["tag"]), plain(f["name"]), f["type"]) for f in FIELD.finditer(struct["body"])]
            found[package, plain(struct["name"])] = (struct["name"], fields)
    return found


def referenced(rust_type, package):
    """The message that a Rust type names: (package, plain name), or None for scalars."""
    rust_type = re.sub(r"\s+", "", rust_type)
    inner = re.sub(r"::core::option::Option<|::prost::alloc::(vec::Vec|boxed::Box|collections::BTreeMap)<|>|,$", " ", rust_type)
    last = inner.strip(" ,").split(",")[-1].strip()
    if last.startswith("::prost") or last in ("bool", "i32", "i64", "f64", "u8"):
        return None
    parts = last.split("::")
    base = package.split(".")[2:]
    while parts[0] == "super":
        base, parts = base[:-1], parts[1:]
    return "io.k8s." + ".".join(base + parts[:-1]), plain(parts[-1])


def main(crate, wheel):
    path = pathlib.Path(wheel) / "kubernetes_validate/kubernetes-json-schema" / f"{VERSION}-local"
    document = json.loads((path / "_definitions.json").read_text())
    definitions = document.get("$defs") or document["definitions"]
    names = {(n.rsplit(".", 1)[0], plain(n.rsplit(".", 1)[1])): n for n in definitions}
    known = messages(crate)
    lines = {}

    def visit(key, parent):
        """`parent` is the definition whose JSON shows this message's fields."""
        definition = names.get(key, parent)
        if key not in known or f"{key[0]}.{known[key][0]}" in lines or definition is None:
            return
        name = names.get(key) or f"{key[0]}.{known[key][0]}"
        if name in lines:
            return
        properties = {plain(p): p for p in definitions[definition].get("properties", {})}
        if not properties:
            return  # Time, Quantity, IntOrString and the like: the decoder knows them.
        lines[name], words = None, []
        for number, field, rust_type in sorted(known[key][1]):
            target = referenced(rust_type, key[0])
            if field in properties:
                words.append(f"{number}={properties[field]}")
                if target:
                    visit(target, None)
            elif target and target in known:
                words.append(f"{number}>{names.get(target) or target[0] + '.' + known[target][0]}")
                visit(target, definition)
            else:
                print(f"{name}: field {number} {field} is not in {VERSION}: left out", file=sys.stderr)
        lines[name] = " ".join(words)

    for root in ROOTS:
        package, last = root.rsplit(".", 1)
        visit((package, plain(last)), None)
    print("# Made by wire.py; see there.")
    for name, words in sorted(lines.items()):
        if words:
            print(name, words)


main(*sys.argv[1:])
