#!/usr/bin/env python3
"""Writes internal-facts.txt: how upstream prints whole objects in refusals.

Validation upstream sees its internal types. They have no JSON names, so that an object in a refusal shows the fields
as Go declares them, in that order, with what is not set too. This script takes the declarations from upstream's source
(the Go modules k8s.io/kubernetes, k8s.io/api and k8s.io/apimachinery):

    python3 internal.py MODULES > internal-facts.txt      (MODULES: the directory that holds k8s.io/kubernetes@VERSION ...)

One line a type: its fields as GoName=jsonName, then `:Type` where it holds an object or a list of objects, then
`!value` for what stands for an absent one (else null; `!{}` is an object in which everything is absent). A `?` before
a field marks one that is left out when it is absent.
"""

import pathlib
import re
import sys

VERSIONS = {"kubernetes": "v1.37.2", "api": "v0.37.2", "apimachinery": "v0.37.2"}
ROOTS = ["PodSpec", "PodIP", "HostIP", "Taint", "SessionAffinityConfig", "ObjectReference", "EventSource",
         "metav1.OwnerReference", "ServiceCIDRSpec"]
TYPE = re.compile(r"\ntype (\w+) struct \{\n(.*?)\n\}", re.S)
NAMED = re.compile(r"\ntype (\w+) (\[\]\w+|map\[\w+\][\w.]+|\w+)\n")
FIELD = re.compile(r"^(?:(\w+)\s+)?(\*?(?:\[\]|map\[\w+\])?\*?[\w.]+)(?:\s+`json:\"([^\"]*)\".*`)?$")
ZERO = {"string": '""', "bool": "false", "int32": "0", "int64": "0", "int": "0", "float64": "0"}
# They print themselves.
OWN_TEXT = {"resource.Quantity": '"0"', "metav1.Time": "null", "metav1.MicroTime": "null", "intstr.IntOrString": "0",
            "types.UID": '""'}


def declarations(text):
    """Every struct: name -> [(Go name or None when embedded, type, JSON tag)]; and every other named type."""
    structs = {}
    for name, body in TYPE.findall(text):
        fields = []
        for line in body.split("\n"):
            line = re.sub(r"\s*//.*$", "", line).strip()
            match = FIELD.match(line)
            if match and line:
                fields.append(match.groups())
        structs[name] = fields
    return structs, dict(NAMED.findall(text))


def main(modules):
    source = lambda module, path: (
        pathlib.Path(modules) / f"{module}@{VERSIONS[module]}" / path
    ).read_text()
    internal, named = declarations(source("kubernetes", "pkg/apis/core/types.go"))
    versioned, _ = declarations(source("api", "core/v1/types.go"))
    # No type of this group has the name of one of core.
    internal |= declarations(source("kubernetes", "pkg/apis/networking/types.go"))[0]
    versioned |= declarations(source("api", "networking/v1/types.go"))[0]
    meta, of_meta = declarations(source("apimachinery", "pkg/apis/meta/v1/types.go"))
    named |= of_meta
    lines = {}

    def flat(name, structs):
        """Fields with those of embedded structs in their place."""
        for go, ty, tag in structs.get(name, []):
            if go is None:
                prefix, _, inner = ty.lstrip("*").rpartition(".")
                yield from flat(inner, meta if prefix == "metav1" else structs)
            else:
                yield go, ty, tag, structs is meta

    def words(name):
        own = name.startswith("metav1.")
        structs = meta if own else internal
        short = name.rpartition(".")[2]
        tags = {go: tag.split(",")[0] for go, _, tag, _ in flat(short, meta if own else versioned) if tag}
        for go, ty, tag, tagged in flat(short, structs):
            if go not in tags:
                continue  # Not of the version that clients see.
            shape = re.sub(r"^[*\[\]]+", "", ty)
            pointer = ty.startswith(("*", "[]", "map["))
            shape = "metav1." + shape if tagged and shape in meta else shape
            shape = shape.replace("metav1.FieldsV1", "FieldsV1")
            under = named.get(shape, shape)
            struct = shape in internal or (shape.startswith("metav1.") and shape not in OWN_TEXT)
            struct = struct and not ty.startswith("map[")
            word = f"{tags[go] if tagged else go}={tags[go]}"
            if struct:
                word += ":" + shape
                visit(shape)
            if tagged and tag and "omit" in tag:
                word = "?" + word
            elif struct and not pointer:
                word += "!{}"
            elif not pointer and shape in OWN_TEXT:
                word += "!" + OWN_TEXT[shape]
            elif not pointer and under in ZERO:
                word += "!" + ZERO[under]
            yield word

    def visit(name):
        if name not in lines:
            lines[name] = ""
            lines[name] = " ".join(words(name))

    for root in ROOTS:
        visit(root)
    print("# Made by internal.py; see there.")
    for name in sorted(lines):
        print(name, lines[name])


main(sys.argv[1])
