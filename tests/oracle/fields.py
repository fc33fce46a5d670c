"""Every field of every kind, set to good and bad values and sent as a strict dry run."""

import json

import kinds
from common import classify
from schemas import Schema


def run(oracle, ours, record, names, random, every):
    for kind in kinds.served(ours, names):
        schema = Schema(oracle, kind)
        cases = [(path, value) for path, node in schema.paths() for value in schema.values(node)]
        if every < 1:
            cases = random.sample(cases, int(len(cases) * every))
        url = kinds.collection(kind) + "?dryRun=All&fieldValidation=Strict&fieldManager=t"
        for path, value in cases:
            obj = kinds.smallest(kind)
            try:
                schema.put(obj, path, json.loads(json.dumps(value)))
            except (KeyError, TypeError, AttributeError):
                # The path leads through something that the smallest object has otherwise.
                record.count(kind, "not made")
                continue
            theirs, our = oracle.ask("POST", url, obj), ours.ask("POST", url, obj)
            cls, detail = classify(theirs, our)
            record.row(kind, cls, ["POST", url, obj], theirs, our, detail)
