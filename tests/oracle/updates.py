"""Updates of live objects: every scalar field changed from one value to another (immutable fields, what a change of one
field makes of those that it governs), and writes of the status and scale subresources."""

import itertools
import json
import time

import kinds
from common import Answer, classify
from schemas import Schema, scalars

# How many values of a field take part in its pairs.
VALUES = 4
# Changes tried of one kind: templates of pods have tens of thousands, and each is five requests.
MOST = 400
BAD = {"x" * 64, "A_b c", "/a/../b"}


def transitions(schema):
    """(path, from, to) of every scalar field below the object."""
    for path, node in schema.paths():
        values = scalars(node)
        if values is None:
            continue
        values = [v for v in values if v not in BAD][:VALUES]
        for old, new in itertools.permutations([None, *values], 2):
            yield path, old, new


def made(schema, kind, path, value):
    obj = kinds.quiet(kind)
    if value is not None:
        schema.put(obj, path, json.loads(json.dumps(value)))
    return obj


def ask_both(record, group, oracle, ours, request, without=()):
    theirs, our = oracle.ask(*request), ours.ask(*request)
    cls, detail = classify(*(bare(answer, without) for answer in (theirs, our)))
    record.row(group, cls, list(request), theirs, our, detail)
    return theirs.ok and our.ok


def bare(answer, without):
    """An answer without parts of its object."""
    if not (answer.ok and isinstance(answer.body, dict)):
        return answer
    out = Answer(answer.code, b"", answer.warnings, answer.media)
    out.body = {name: value for name, value in answer.body.items() if name not in without}
    return out


def change_fields(oracle, ours, record, kind, random, every):
    schema = Schema(oracle, kind)
    cases = list(transitions(schema))
    cases = random.sample(cases, min(MOST, int(len(cases) * every)))
    collection = kinds.collection(kind)
    without = ("status",) if kind in kinds.CONTROLLED else ()
    for path, old, new in cases:
        try:
            before, after = made(schema, kind, path, old), made(schema, kind, path, new)
        except (KeyError, TypeError, AttributeError):
            continue
        if before == after:
            continue
        name = before["metadata"].get("name") or "o"
        answers = [server.ask("POST", collection + "?fieldManager=t", before) for server in (oracle, ours)]
        # What creation makes of a field is another script's matter.
        if all(answer.ok for answer in answers):
            name = answers[0].body["metadata"]["name"]
            ask_both(record, kind + " update", oracle, ours, ("PUT", f"{collection}/{name}?fieldManager=t", after), without)
        remove(oracle, ours, f"{collection}/{name}")


def remove(oracle, ours, path):
    for server in (oracle, ours):
        if path.startswith("/api/v1/namespaces/") and path.count("/") == 4:
            # Without a controller nobody takes the content away.
            name = path.rsplit("/", 1)[1]
            server.ask("DELETE", path)
            server.ask("PUT", path + "/finalize", {"metadata": {"name": name}, "spec": {"finalizers": []}})
        answer = server.ask("DELETE", path + "?gracePeriodSeconds=0")
        if answer.ok and isinstance(answer.body, dict) and (answer.body.get("metadata") or {}).get("finalizers"):
            server.ask("PATCH", path, {"metadata": {"finalizers": None}}, "application/merge-patch+json")


def settle(oracle, ours, path):
    """Waits for the controllers of the server under test, and tells the other server what they said by their names."""
    body, since = None, time.time()
    while time.time() - since < 5:
        now = ours.ask("GET", path).body
        if now == body:
            break
        body = now
        time.sleep(0.4)
    for entry in body["metadata"].get("managedFields") or []:
        if entry["manager"] == "t":
            continue
        theirs = oracle.ask("GET", path).body
        theirs["metadata"].pop("resourceVersion", None)
        theirs |= {part: body[part] for part in ("spec", "status") if part in body}
        if "annotations" in body["metadata"]:
            theirs["metadata"]["annotations"] = body["metadata"]["annotations"]
        sub = "/status" if entry.get("subresource") == "status" else ""
        oracle.ask("PUT", f"{path}{sub}?fieldManager={entry['manager']}", theirs)


def write_status(oracle, ours, record, kind, random, every):
    """The status fields by PUT and by each patch, and what else such a write says."""
    schema, path = Schema(oracle, kind), f"{kinds.collection(kind)}/o"
    for server in (oracle, ours):
        server.ask("POST", kinds.collection(kind) + "?fieldManager=t", kinds.quiet(kind))
    settle(oracle, ours, path)
    node = schema.resolve({"$ref": "/" + schema.root})["properties"]["status"]
    cases = [(at, value) for at, below in schema.paths(node, ("status",)) for value in (scalars(below) or [])[:2]]
    cases += [(("metadata", "labels"), {"x": "y"}), (("metadata", "annotations"), {"x": "y"}),
              (("metadata", "finalizers"), ["example.com/x"]), (("metadata", "ownerReferences"), [])]
    for at, value in random.sample(cases, max(8, int(len(cases) * every))):
        obj = kinds.quiet(kind)
        try:
            schema.put(obj, at, value)
        except (KeyError, TypeError, AttributeError):
            continue
        query = "?dryRun=All&fieldManager=s"
        ask_both(record, kind + " status", oracle, ours, ("PUT", path + "/status" + query, obj))
        patch = {key: obj[key] for key in ("metadata", "status") if key in obj}
        for media in ("merge-patch+json", "strategic-merge-patch+json"):
            request = ("PATCH", path + "/status" + query, patch, "application/" + media)
            ask_both(record, kind + " status", oracle, ours, request)
        request = ("PATCH", path + "/status" + query, obj, "application/apply-patch+yaml")
        ask_both(record, kind + " status", oracle, ours, request)
    remove(oracle, ours, path)


def write_scale(oracle, ours, record, kind):
    path = f"{kinds.collection(kind)}/o"
    for server in (oracle, ours):
        server.ask("POST", kinds.collection(kind) + "?fieldManager=t", kinds.quiet(kind))
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "o", "namespace": kinds.NAMESPACE}}
    for replicas in (0, 2, -1, 2**31, "1", None):
        body, query = scale | {"spec": {"replicas": replicas}}, "/scale?fieldManager=s"
        group = kind + " scale"
        # How many there are is a controller's to say.
        ask_both(record, group, oracle, ours, ("PUT", path + query, body), ("status",))
        patch = {"spec": {"replicas": replicas}}
        for media in ("merge-patch+json", "strategic-merge-patch+json"):
            ask_both(record, group, oracle, ours, ("PATCH", path + query, patch, "application/" + media), ("status",))
        request = ("PATCH", path + query + "&force=true", body, "application/apply-patch+yaml")
        ask_both(record, group, oracle, ours, request, ("status",))
        ask_both(record, group, oracle, ours, ("GET", path), ("status",))
        ask_both(record, group, oracle, ours, ("GET", path + "/scale"), ("status",))
    remove(oracle, ours, path)


def run(oracle, ours, record, names, random, every):
    for kind in kinds.served(ours, names):
        change_fields(oracle, ours, record, kind, random, every)
        if kind in kinds.WITH_STATUS:
            write_status(oracle, ours, record, kind, random, every)
        if kind in kinds.WITH_SCALE:
            write_scale(oracle, ours, record, kind)
