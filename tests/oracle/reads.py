"""Reads: lists by selectors and fields, in pages, at revisions and in other forms, error bodies, discovery, and the
OpenAPI documents."""

import json
import re
import urllib.parse

import kinds
from common import diff, plain, service

TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
FORMS = ["application/json", TABLE, TABLE.replace("v=v1", "v=v1beta1"), METADATA_LIST, METADATA,
         "application/yaml", "application/xml", "application/json;q=0.5, */*", "application/vnd.kubernetes.protobuf"]
LABELS = ["tier=a", "tier==a", "tier!=a", "tier", "!tier", "tier in (a,b)", "tier notin (a)", "tier>2", "tier<3", "tier=a,",
          ",tier=a", "-a=1", "x/y/z=1", "tier in ()", "tier=", "a b", "tier=a,app=web", "(", "tier in (a", "tier=a b"]
FIELDS = ["metadata.name=r1", "metadata.name!=r1", "metadata.namespace=oracle", "metadata.name=r1,metadata.namespace=oracle",
          "spec.nodeName=", "status.phase=Pending", "source=x", "type=Opaque", "metadata.labels=x", "bad", "=", "metadata.name=",
          "spec.clusterIP=None", "involvedObject.name=p", "reason=x", "metadata.name==r1", "metadata.name=r1,"]
QUERIES = ["limit=1", "limit=0", "limit=-1", "limit=abc", "continue=abc", "limit=1&continue=", "resourceVersion=0",
           "resourceVersion=1", "resourceVersion=abc", "resourceVersion=99999999", "resourceVersionMatch=Exact",
           "resourceVersion=0&resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=NotOlderThan",
           "resourceVersion=1&resourceVersionMatch=Bad", "timeoutSeconds=abc", "timeout=abc", "sendInitialEvents=true",
           "watch=abc&timeoutSeconds=1", "allowWatchBookmarks=true", "pretty=true", "unknown=1"]
# What a server says of its own state.
STATE = ("resourceVersion", "continue", "remainingItemCount", "age", "managedFields", "serverAddress")
# What is of one build.
BUILD = ("buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "platform")
REVISION = "deployment.kubernetes.io/revision"


def comparable(value):
    """An answer without revisions, tokens, ages and what each server has for itself."""
    if isinstance(value, str):
        return re.sub(r"current: \d+", "current: N", value)
    if isinstance(value, dict):
        value, _ = plain(value)
        spec = value.get("spec") if isinstance(value.get("spec"), dict) else {}
        if "clusterIP" in spec:
            service(spec)
        if "selector" in spec and "template" in spec:
            # A controller's.
            value.pop("status", None)
            annotations = (value.get("metadata") or {}).get("annotations") or {}
            if annotations.pop(REVISION, None) and not annotations:
                del value["metadata"]["annotations"]
        if "gitVersion" in value:
            value = {k: v for k, v in value.items() if k not in BUILD}
        if value.get("kind") == "Table":
            value["rows"] = [table_row(row) for row in value.get("rows") or []]
        return {k: comparable(v) for k, v in value.items() if k not in STATE}
    return [comparable(v) for v in value] if isinstance(value, list) else value


def table_row(row):
    cells = ["AGE" if re.fullmatch(r"(\d+[smhd])+|<unknown>", str(c)) else "IP" if re.fullmatch(r"10\.128\.\d+\.\d+", str(c)) else c
             for c in row.get("cells") or []]
    return {**row, "cells": cells}


def compare(theirs, ours):
    if theirs.code != ours.code:
        return "code", [theirs.code, ours.code, theirs.message[:200], ours.message[:200]]
    a, b = comparable(theirs.body), comparable(ours.body)
    if isinstance(a, str) or isinstance(b, str):
        # YAML and protobuf are compared by what they are, not by what is in them.
        same = theirs.media.split(";")[0] == ours.media.split(";")[0]
        return ("same", "") if same else ("media", [theirs.media, ours.media])
    found = diff(a, b)
    if not found:
        return "same", ""
    return ("object" if theirs.ok else "message"), found[:8]


def ask(record, group, oracle, ours, method, path, accept="application/json", body=None, media="application/json"):
    theirs, our = (server.ask(method, path, body, media, accept) for server in (oracle, ours))
    cls, detail = compare(theirs, our)
    asked = body.decode("latin-1") if isinstance(body, bytes) else body
    record.row(group, cls, [method, path, accept, asked], theirs, our, detail)


def lists(oracle, ours, record, kind, random, every):
    collection = kinds.collection(kind)
    for number in (1, 2, 3):
        for server in (oracle, ours):
            obj = kinds.quiet(kind, f"r{number}")
            if kind == "Node":
                obj["spec"] = {"podCIDR": f"10.9.{number}.0/24"}
            obj["metadata"]["labels"] = {"app": "web", "tier": "a" if number < 3 else "3"}
            server.ask("POST", collection, obj)
    own = "labelSelector=" + urllib.parse.quote("app=web")
    cases = [("selectors", "labelSelector=" + urllib.parse.quote(s), "application/json") for s in LABELS]
    cases += [("fields", own + "&fieldSelector=" + urllib.parse.quote(s), "application/json") for s in FIELDS]
    cases += [("options", own + "&" + q, "application/json") for q in QUERIES]
    cases += [("forms", own, form) for form in FORMS]
    for group, query, accept in random.sample(cases, int(len(cases) * every)):
        # A selector alone finds what else the server has: only the refusals and our own objects are comparable.
        extra = "" if group != "selectors" else "," + urllib.parse.quote("app=web")
        ask(record, f"{kind} {group}", oracle, ours, "GET", f"{collection}?{query}{extra}", accept)
    for form in FORMS:
        ask(record, f"{kind} forms", oracle, ours, "GET", f"{collection}/r1", form)
    for number in (1, 2, 3):
        for server in (oracle, ours):
            server.ask("DELETE", f"{collection}/r{number}?gracePeriodSeconds=0")


def errors(oracle, ours, record, kind):
    collection, group = kinds.collection(kind), kind + " errors"
    gone = "gone-" + kind.lower()
    obj = kinds.smallest(kind, gone)
    ask(record, group, oracle, ours, "GET", collection + "/absent")
    ask(record, group, oracle, ours, "DELETE", collection + "/absent")
    ask(record, group, oracle, ours, "PUT", collection + "/absent", body=obj)
    ask(record, group, oracle, ours, "PUT", f"{collection}/{gone}", body=obj)
    for media in ("merge-patch+json", "strategic-merge-patch+json", "json-patch+json", "apply-patch+yaml", "x"):
        path = collection + "/absent?fieldManager=t"
        ask(record, group, oracle, ours, "PATCH", path, body="{}" if media != "json-patch+json" else "[]", media="application/" + media)
    for body in ("", "{", "[]", "1", "{}", '{"kind": 1}', '{"kind": "Other", "apiVersion": "v1"}', '{"apiVersion": "v9"}',
                 '{"metadata": []}', '{"metadata": {"name": 1}}', '{"metadata": {"name": "A_b"}}', "a: [", "\u00ff"):
        ask(record, group, oracle, ours, "POST", collection + "?dryRun=All", body=body.encode())
    for query in ("dryRun=x", "fieldManager=" + "x" * 129, "fieldManager=a%0Ab", "fieldValidation=x"):
        ask(record, group, oracle, ours, "POST", f"{collection}?{query}&dryRun=All", body=obj)
    ask(record, group, oracle, ours, "POST", collection + "/x", body=obj)
    ask(record, group, oracle, ours, "GET", collection + "/a/b")


def both(documents, names):
    """Discovery documents without what one of the servers, or neither script, has."""
    plurals = {kinds.KINDS[name][1] for name in names}
    groups = [{group_name(g) for g in d.get("groups") or d.get("items") or []} for d in documents]
    for document in documents:
        for part in ("groups", "items"):
            if part in document:
                document[part] = [g for g in document[part] if group_name(g) in groups[0] & groups[1]]
        for group in document.get("items") or []:
            for version in group["versions"]:
                version["resources"] = [r for r in version["resources"] if r["resource"] in plurals]
                for resource in version["resources"]:
                    resource["subresources"] = [s["subresource"] for s in resource.get("subresources") or []]
                    resource["subresources"] = [s for s in resource["subresources"] if s not in LATER]
    return documents


# Subresources that come with a later version.
LATER = ("ephemeralcontainers", "resize", "token")


def group_name(group):
    return group.get("name") or (group.get("metadata") or {}).get("name", "")


def discovery(oracle, ours, record, names):
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    resources = {kinds.KINDS[name][1] for name in names}
    for path in sorted({kinds.KINDS[name][0] for name in names}):
        theirs, our = oracle.ask("GET", path), ours.ask("GET", path)
        lists = [{r["name"]: r for r in a.body.get("resources", []) if r["name"].split("/")[0] in resources} for a in (theirs, our)]
        for name in sorted(lists[0].keys() | lists[1].keys()):
            a, b = ({k: v for k, v in (found.get(name) or {}).items() if k != "storageVersionHash"} for found in lists)
            found = diff(a, b)
            record.row("discovery", "object" if found else "same", ["GET", path, name], theirs, our, found[:8])
    for path in ("/api", "/apis", "/version"):
        for accept in ("application/json", aggregated):
            theirs, our = (server.ask("GET", path, accept=accept) for server in (oracle, ours))
            both([theirs.body, our.body], names)
            cls, detail = compare(theirs, our)
            record.row("discovery", cls, ["GET", path, accept], theirs, our, detail)
    for path in ("/", "/healthz", "/livez", "/readyz", "/readyz?verbose", "/metrics", "/api/v1/absent", "/apis/absent/v1", "/absent"):
        theirs, our = oracle.ask("GET", path), ours.ask("GET", path)
        cls = "same" if (theirs.code, theirs.media.split(";")[0]) == (our.code, our.media.split(";")[0]) else "code"
        record.row("paths", cls, ["GET", path], theirs, our, [theirs.code, our.code, theirs.media, our.media])


def documents(oracle, ours, record, names):
    """The schemas of the served kinds, type by type."""
    for path in sorted({kinds.KINDS[name][0].removeprefix("/") for name in names}):
        documents = [server.ask("GET", "/openapi/v3/" + path) for server in (oracle, ours)]
        if not all(isinstance(d.body, dict) and "components" in d.body for d in documents):
            record.row("openapi", "code", ["GET", path], *documents, [d.code for d in documents])
            continue
        theirs, our = (d.body["components"]["schemas"] for d in documents)
        for name in sorted(our):
            found = diff(without_text(theirs.get(name)), without_text(our[name]))
            record.count("openapi", "object" if found else "same")
            if found:
                row = {"group": "openapi", "class": "object", "request": ["GET", path, name], "detail": found[:6]}
                record.out.write(json.dumps(row) + "\n")


def without_text(node):
    """A schema without descriptions, which say nothing about behaviour."""
    if isinstance(node, dict):
        return {k: without_text(v) for k, v in node.items() if k != "description" or not isinstance(v, str)}
    return [without_text(v) for v in node] if isinstance(node, list) else node


def run(oracle, ours, record, names, random, every):
    names = kinds.served(ours, names)
    for kind in names:
        lists(oracle, ours, record, kind, random, every)
        errors(oracle, ours, record, kind)
    discovery(oracle, ours, record, names)
    documents(oracle, ours, record, names)
