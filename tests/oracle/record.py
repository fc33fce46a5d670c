"""Records a compact corpus of writes with upstream's answers, which `cargo test` replays without upstream
(scheduler/tests/recorded.rs). A line is a sequence of writes that starts from nothing, with what a comparison needs of
each answer:

    {"id": ..., "kind": "Pod", "steps": [{"ask": [method, path, body, media], "code": 201, "object": ..., "owners": ...,
      "warnings": [...]}, {"ask": ..., "code": 422, "message": ..., "reason": ..., "causes": [...]}]}
"""

import gzip
import hashlib
import json
import random

import kinds
from common import owners, plain
from merges import PATCHES, Maker
from schemas import Schema

FIELDS, SEQUENCES, FIELDS_PER_KIND = 2400, 350, 500


def answer(server, request):
    found = server.ask(*request)
    step = {"ask": list(request), "code": found.code}
    if found.ok:
        obj, managed = plain(found.body)
        return step | {"object": obj, "owners": owners(managed)} | ({"warnings": found.warnings} if found.warnings else {})
    details = found.body.get("details") or {}
    causes = [[c.get("reason"), c.get("field"), c.get("message")] for c in details.get("causes") or []]
    return step | {"message": found.message, "reason": found.body.get("reason", "")} | ({"causes": causes} if causes else {})


def fields(server, names, rand):
    """Every field of the kinds, in a sample that gives each kind its part."""
    for kind in names:
        schema = Schema(server, kind)
        cases = [(path, value) for path, node in schema.paths() for value in schema.values(node)]
        url = kinds.collection(kind) + "?dryRun=All&fieldValidation=Strict&fieldManager=t"
        share = min(len(cases), FIELDS_PER_KIND, max(40, FIELDS // len(names)))
        for path, value in rand.sample(cases, share):
            obj = kinds.smallest(kind)
            try:
                schema.put(obj, path, json.loads(json.dumps(value)))
            except (KeyError, TypeError, AttributeError):
                continue
            yield kind, [answer(server, ("POST", url, obj, "application/json"))]


def sequences(server, names, rand):
    maker = Maker(rand)
    mine = [kind for kind in ("Deployment", "Service", "ConfigMap") if kind in names]
    for number in range(SEQUENCES):
        kind, name = rand.choice(mine), f"m{number}"
        path = f"{kinds.collection(kind)}/{name}"
        steps = [answer(server, maker.step(kind, name, path, n == 0)[1]) for n in range(rand.randint(2, 6))]
        yield kind, steps
        server.ask("PATCH", path, {"metadata": {"finalizers": None}}, PATCHES["merge"])
        server.ask("DELETE", path)


def run(server, names, seed, path):
    rand, count = random.Random(seed), 0
    names = kinds.served(server, names)
    with gzip.GzipFile(path, "wb", 9, mtime=0) as out:
        for source in (fields, sequences):
            for kind, steps in source(server, names, rand):
                asked = json.dumps([step["ask"] for step in steps], sort_keys=True)
                line = {"id": hashlib.sha256(asked.encode()).hexdigest()[:12], "kind": kind, "steps": steps}
                out.write((json.dumps(line, separators=(",", ":")) + "\n").encode())
                count += len(steps)
    print(f"{count} writes recorded in {path}")
