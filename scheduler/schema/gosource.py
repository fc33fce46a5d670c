#!/usr/bin/env python3
"""Writes wire-facts.txt, presence-facts.txt and name-facts.txt from the published Go types of Kubernetes.

The types themselves come from the k8s-openapi crate. What it lacks stands only in the struct tags of the modules
k8s.io/api and k8s.io/apimachinery of the same version: the protobuf numbers, and which fields can be absent.

    go mod download k8s.io/api@v0.37.2 k8s.io/apimachinery@v0.37.2
    python3 gosource.py "$(go env GOMODCACHE)/k8s.io/api@v0.37.2" "$(go env GOMODCACHE)/k8s.io/apimachinery@v0.37.2"

wire-facts.txt has a line for each message: its fields as number=JSON-name, or number>message for a struct that JSON
shows inline:

    io.k8s.api.core.v1.Volume 1=name 2>io.k8s.api.core.v1.VolumeSource

presence-facts.txt has a line for each type with fields that are no pointers (a pointer, list or map that is left out
when it is empty is the rule and not listed):

    io.k8s.api.core.v1.Container zero=name,resources drop=image,stdin null=... default=protocol:"TCP"

`zero`: the field is always shown, with its type's zero value when nobody set it. `null`: always shown, as null then.
`drop`: its zero value is absence. `default`: what the type itself says an absent field means.

name-facts.txt has a line for each type with fields whose Go type has a name that its JSON does not show, by which
Go's decoder calls it:

    io.k8s.api.core.v1.PodSpec restartPolicy=v1.RestartPolicy dnsPolicy=v1.DNSPolicy
"""

import pathlib
import re
import sys

# Every version-1 package whose kinds are or will be served; types of other versions come in by reference.
PACKAGES = [
    "core/v1", "apps/v1", "batch/v1", "networking/v1", "rbac/v1", "storage/v1", "autoscaling/v1", "autoscaling/v2",
    "coordination/v1", "discovery/v1", "events/v1", "policy/v1", "node/v1", "scheduling/v1", "authentication/v1",
    "authorization/v1",
]
META = "pkg/apis/meta/v1"
STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.S | re.M)
ALIAS = re.compile(r"^type (\w+) (?!struct|interface|func)([\w\[\]\*\.]+)", re.M)
FIELD = re.compile(r'^\t(?:(?P<name>\w+)[ \t]+)?(?P<type>[\w\[\]\*\.]+)[ \t]+`(?P<tag>[^`]*)`')
SCALARS = {"string", "bool", "byte", "int", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float64", "float32"}
# Structs that JSON shows as something else than an object, with how an unset value looks.
SPECIAL = {"Time": "null", "MicroTime": "null", "Quantity": "zero", "IntOrString": "zero", "RawExtension": "null",
           "FieldsV1": "zero", "Duration": "zero"}


class Package:
    """The structs and named types of one package."""

    def __init__(self, path, name):
        self.name, self.structs, self.aliases, self.imports = name, {}, {}, {}
        for file in sorted(path.glob("*.go")):
            if file.name.endswith("_test.go") or file.name.startswith(("zz_", "generated")):
                continue
            text = file.read_text()
            for alias, target in re.findall(r'^\s+(\w+) "k8s\.io/(?:api|apimachinery)/([^"]+)"', text, re.M):
                self.imports[alias] = target
            self.aliases.update(ALIAS.findall(text))
            for struct, body in STRUCT.findall(text):
                self.structs[struct] = list(fields(body))


def fields(body):
    """(Go type, JSON name or "" for inline, JSON options, protobuf number, default) of each field."""
    default = None
    for line in body.split("\n"):
        if found := re.match(r"\s*// \+default=(.*)", line):
            default = found[1].strip()
        if not (found := FIELD.match(line)):
            continue
        json = re.search(r'json:"([^"]*)"', found["tag"])
        proto = re.search(r'protobuf:"\w+,(\d+)', found["tag"])
        if json:
            name, *options = json[1].split(",")
            yield found["type"], name, options, proto and int(proto[1]), default
        default = None


def main(api, machinery):
    packages = {p: Package(pathlib.Path(api) / p, "io.k8s.api." + p.replace("/", ".")) for p in PACKAGES}
    packages[META] = Package(pathlib.Path(machinery) / META, "io.k8s.apimachinery.pkg.apis.meta.v1")

    def resolve(package, go_type):
        """A Go type as (kind, package, name): kind is pointer, list, map, scalar, special or struct."""
        if go_type.startswith("*"):
            return ("pointer",) + resolve(package, go_type[1:])[1:]
        if go_type.startswith("[]"):
            return ("list",) + resolve(package, go_type[2:])[1:]
        if go_type.startswith("map["):
            return ("map",) + resolve(package, go_type.split("]", 1)[1])[1:]
        last = go_type.split(".")[-1]
        if go_type in SCALARS or last == "UID":
            return "scalar", None, go_type
        if last in SPECIAL:
            return "special", None, last
        if "." in go_type:
            package = packages.get(package.imports.get(go_type.split(".")[0]))
            if package is None:
                return "special", None, "RawExtension"
        if last in package.structs:
            return "struct", package, last
        if last in package.aliases:
            return resolve(package, package.aliases[last])
        raise SystemExit(f"{package.name}: unknown type {go_type}")

    def named(package, go_type):
        """A Go type as its decoder prints it, and whether JSON hides a name in it."""
        if go_type.startswith("*"):
            return named(package, go_type[1:])
        if go_type.startswith("[]"):
            inner, hidden = named(package, go_type[2:])
            return "[]" + inner, hidden
        if go_type.startswith("map["):
            (key, first), (value, second) = named(package, go_type[4:].split("]")[0]), named(package, go_type.split("]", 1)[1])
            return f"map[{key}]{value}", first or second
        if go_type in SCALARS:
            return {"byte": "uint8"}.get(go_type, go_type), False
        last, owner, path = go_type.split(".")[-1], package, package.name
        if "." in go_type:
            path = package.imports.get(go_type.split(".")[0], go_type.split(".")[0]).replace("/", ".")
            owner = packages.get(package.imports.get(go_type.split(".")[0]))
        hidden = last == "UID" or last not in SPECIAL and owner is not None and last in owner.aliases
        return f"{path.split('.')[-1]}.{last}", hidden

    def names(package, struct):
        """The fields of a struct whose types have such names."""
        for go_type, name, *_ in package.structs[struct]:
            kind, owner, target = resolve(package, go_type)
            if name and name != "-":
                shown, hidden = named(package, go_type)
                if hidden:
                    yield f"{name}={shown}"
            elif not name and kind == "struct" and target != "TypeMeta":
                yield from names(owner, target)

    wire, presence, hidden = {}, {}, {}
    for package in packages.values():
        for struct, found in package.structs.items():
            words, facts = [], {}
            for go_type, name, options, number, default in found:
                kind, owner, target = resolve(package, go_type)
                if not name:
                    if target != "TypeMeta" and number:
                        words.append((number, f"{number}>{owner.name}.{target}"))
                    if kind == "struct" and owner.structs[target] and target != "TypeMeta":
                        inline(facts, owner, target, resolve)
                    continue
                if name == "-":
                    continue
                if number:
                    words.append((number, f"{number}={name}"))
                fact(facts, kind, target, name, options, default)
            full = f"{package.name}.{struct}"
            if words:
                wire[full] = " ".join(word for _, word in sorted(words))
            if found := list(names(package, struct)):
                hidden[full] = " ".join(found)
            if facts:
                order = ("zero", "null", "drop", "default")
                presence[full] = " ".join(f"{k}={','.join(facts[k])}" for k in order if k in facts)
    here = pathlib.Path(__file__).parent
    for file, lines in (("wire-facts.txt", wire), ("presence-facts.txt", presence), ("name-facts.txt", hidden)):
        text = "".join(f"{name} {line}\n" for name, line in sorted(lines.items()))
        (here / file).write_text(f"# Made by gosource.py; see there.\n{text}")


def fact(facts, kind, target, name, options, default):
    """Notes how a field is shown when nobody set it."""
    if default is not None and not default.startswith(("ref(", "{")):
        facts.setdefault("default", []).append(f"{name}:{default}")
    omit = "omitempty" in options
    if kind in ("pointer", "list", "map"):
        how = None if omit else "null"
    elif kind == "scalar":
        how = "drop" if omit else "zero"
    elif "omitzero" in options:
        how = None
    elif kind == "special":
        # FieldsV1 and the like are never values; a time that is not set is null whatever the tag says.
        how = SPECIAL[target]
    else:
        how = "zero"
    if how:
        facts.setdefault(how, []).append(name)


def inline(facts, package, struct, resolve):
    """Notes the fields of a struct that JSON shows inline."""
    for go_type, name, options, _, default in package.structs[struct]:
        kind, owner, target = resolve(package, go_type)
        if name and name != "-":
            fact(facts, kind, target, name, options, default)
        elif not name and kind == "struct":
            inline(facts, owner, target, resolve)


main(*sys.argv[1:])
