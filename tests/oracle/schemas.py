"""Walks a kind's published schema (the server's own OpenAPI v3 document) and makes values for its fields, good and bad."""

import json
import re

import kinds

SERVER_SETS = {"managedFields", "uid", "creationTimestamp", "resourceVersion", "selfLink", "deletionTimestamp",
               "deletionGracePeriodSeconds"}
TEXTS = ["", "a", "A_b c", "x" * 64, "1.2.3.4", "/a/../b", "a/b", "10.0.0.0/8", "FOO", "None", "http"]
RESOURCES = {"limits", "requests", "capacity", "allocatable", "hard", "default", "min", "max"}


class Schema:
    """The schema of one kind."""

    def __init__(self, server, kind):
        path = kinds.KINDS[kind][0].removeprefix("/")
        self.all = json.loads(server.ask("GET", "/openapi/v3/" + path).text)["components"]["schemas"]
        self.root = next(
            name for name, schema in self.all.items()
            if any(g["kind"] == kinds.bare(kind) and kinds.api_version(kind) == "/".join(filter(None, (g["group"], g["version"])))
                   for g in schema.get("x-kubernetes-group-version-kind", []))
        )

    def resolve(self, node):
        """A node with its reference followed; `name` is the type's."""
        while True:
            if "$ref" in node:
                name = node["$ref"].rsplit("/", 1)[1]
                node = self.all[name] | {"name": name}
            elif len(node.get("allOf", ())) == 1:
                node = self.resolve(node["allOf"][0]) | {k: v for k, v in node.items() if k == "description"}
            else:
                return node

    def paths(self, node=None, at=(), seen=()):
        """Every field below the object as (path, node); list items are 0, map entries a fitting key."""
        node = self.resolve(node or {"$ref": "/" + self.root})
        if at:
            yield at, node
        if len(at) > 13 or seen.count(node.get("name")) > 1 or scalars(node) is not None:
            return
        seen += (node.get("name"),) if node.get("name") else ()
        if node.get("type") == "array":
            yield from self.paths(node["items"], at + (0,), seen)
        elif "properties" in node:
            for name, below in node["properties"].items():
                skip = name in ("status", "apiVersion", "kind") if not at else at[-1] == "metadata" and name in SERVER_SETS
                if not skip:
                    yield from self.paths(below, at + (name,), seen)
        elif isinstance(node.get("additionalProperties"), dict):
            yield from self.paths(node["additionalProperties"], at + (key_for(at),), seen)

    def smallest(self, node, depth=0):
        """A smallest value of a type: its required fields."""
        node = self.resolve(node)
        values = scalars(node)
        if values is not None:
            named = enums(node)
            return named[0] if named else {"string": "a", "integer": 1, "boolean": True}.get(node.get("type"), values[0])
        if node.get("type") == "array":
            return []
        return {name: self.smallest(node["properties"][name], depth + 1) for name in node.get("required", []) if depth < 5}

    def values(self, node):
        """What to try in a field."""
        values = scalars(node)
        if values is not None:
            return values
        if node.get("type") != "array":
            return [{}, None]
        return [[], None, [self.smallest(node["items"]), self.smallest(node["items"])]]

    def put(self, obj, path, value):
        """Sets a field, making what lies above it."""
        here, node = obj, {"$ref": "/" + self.root}
        for i, step in enumerate(path):
            node = self.resolve(node)
            below = node["items"] if isinstance(step, int) else (node.get("properties") or {}).get(step) or node.get("additionalProperties")
            new = value if i == len(path) - 1 else None
            if isinstance(step, int):
                if not here:
                    here.append(self.smallest(below) if new is None else new)
                elif i == len(path) - 1:
                    here[0] = new
            elif i == len(path) - 1:
                here[step] = new
            elif here.get(step) is None:
                here[step] = self.smallest(below)
            here, node = here[step], below


def key_for(at):
    if at and at[-1] == "annotations":
        return "example.com/k"
    return "cpu" if at and at[-1] in RESOURCES else "k"


def enums(node):
    return re.findall(r'- `\\?"([^"`\\]+)\\?"`', node.get("description") or "")


def scalars(node):
    """Values for a field without parts; None for objects, lists and maps."""
    name, kind = node.get("name", ""), node.get("type")
    if name.endswith("Quantity"):
        return ["1", "100m", "-1", "0.0001", "1Gi", "abc", 2, "1e3", "1.5"]
    if name.endswith("IntOrString"):
        return [0, 1, 70000, "http", "25%", "-1%", "101%", "", "8"]
    if name.endswith("Time"):
        return ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678901Z", "bad"]
    if kind == "string":
        return ["YQ==", "%%", ""] if node.get("format") == "byte" else enums(node) + TEXTS
    return {"boolean": [True, False], "integer": [-1, 0, 1, 7, 65536, 2**31], "number": [0.5]}.get(kind)
