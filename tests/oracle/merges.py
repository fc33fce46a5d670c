"""Random sequences of writes to one object by two managers: apply, strategic, merge and JSON patches, updates. Object,
managed fields and words are compared after every step; a sequence ends with its first difference."""

import json
import time

import kinds
from common import classify, diff, owners, plain

PATCHES = {
    "apply": "application/apply-patch+yaml",
    "strategic": "application/strategic-merge-patch+json",
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
}
# Fields that name an item or that every object needs.
NEVER_NULL = {"name", "apiVersion", "kind", "containerPort", "port", "mountPath", "ip", "metadata", "spec"}
KEYED = (("containers", "name"), ("env", "name"), ("ports", "containerPort"), ("volumes", "name"))


class Maker:
    """Makes random parts of objects."""

    def __init__(self, random):
        self.r = random

    def some(self, things):
        return self.r.sample(things, self.r.randint(1, len(things)))

    def maybe(self, holder, name, make, chance=0.4):
        if self.r.random() < chance:
            holder[name] = make()

    def env(self):
        def variable(name):
            if self.r.random() < 0.8:
                return {"name": name, "value": self.r.choice(["1", "2", "$(A)"])}
            return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}

        return [variable(name) for name in self.some(list("ABCD"))]

    def container(self, name, whole):
        r, c = self.r, {"name": name}
        if whole or r.random() < 0.5:
            c["image"] = r.choice(["i:1", "i:2"])
        self.maybe(c, "env", self.env)
        self.maybe(c, "args", lambda: self.some(["x", "y", "z"]))
        self.maybe(c, "imagePullPolicy", lambda: r.choice(["Always", "IfNotPresent"]), 0.2)
        self.maybe(c, "ports", lambda: [
            {"containerPort": p} | ({"protocol": "UDP"} if r.random() < 0.2 else {}) for p in self.some([80, 81, 82])])
        self.maybe(c, "resources", lambda: {"requests": {
            k: r.choice(["1", "1000m", "0.5"]) for k in self.some(["cpu", "memory"])}}, 0.3)
        self.maybe(c, "volumeMounts", lambda: [{"name": "v1", "mountPath": p} for p in self.some(["/a", "/b"])], 0.15)
        self.maybe(c, "securityContext", lambda: {"capabilities": {"add": self.some(["NET_ADMIN", "CHOWN"])}}, 0.2)
        return c

    def pod_spec(self, whole):
        r, spec = self.r, {}
        if whole:
            spec["containers"] = [self.container(n, True) for n in self.some(list("abc"))]
            spec["volumes"] = [{"name": "v1", "emptyDir": {}}]
        else:
            self.maybe(spec, "containers", lambda: [self.container(n, False) for n in self.some(list("abcd"))], 0.8)
            self.maybe(spec, "volumes", lambda: [
                {"name": n} | r.choice([{"emptyDir": {}}, {"configMap": {"name": "c"}}])
                for n in self.some(["v1", "v2", "v3"])], 0.3)
        self.maybe(spec, "tolerations", lambda: [{"key": k, "operator": "Exists"} for k in self.some(list("pqr"))], 0.3)
        self.maybe(spec, "nodeSelector", lambda: {k: r.choice("xy") for k in self.some(list("mn"))}, 0.3)
        self.maybe(spec, "hostAliases", lambda: [
            {"ip": ip, "hostnames": self.some(["h", "g"])} for ip in self.some(["1.1.1.1", "1.1.1.2"])], 0.2)
        self.maybe(spec, "imagePullSecrets", lambda: [{"name": n} for n in self.some(["s1", "s2"])], 0.2)
        self.maybe(spec, "topologySpreadConstraints", lambda: [
            {"maxSkew": 1, "topologyKey": k, "whenUnsatisfiable": "ScheduleAnyway",
             "labelSelector": {"matchLabels": {"a": "b"}}} for k in self.some(["z", "y"])], 0.2)
        self.maybe(spec, "initContainers", lambda: [self.container(n, True) for n in self.some(["ia", "ib"])], 0.2)
        return spec

    def metadata(self, name):
        r, metadata = self.r, {"name": name}
        self.maybe(metadata, "labels", lambda: {k: r.choice("xy") for k in self.some(list("klm"))})
        self.maybe(metadata, "annotations", lambda: {k: r.choice("xy") for k in self.some(list("klm"))}, 0.3)
        self.maybe(metadata, "finalizers", lambda: ["ex.com/" + k for k in self.some(list("ab"))], 0.1)
        return metadata

    def obj(self, kind, name, whole):
        made = {"apiVersion": kinds.api_version(kind), "kind": kind, "metadata": self.metadata(name)}
        return made | getattr(self, kind.lower())(whole)

    def deployment(self, whole):
        r, spec = self.r, {}
        if whole:
            spec["selector"] = {"matchLabels": {"a": "b"}}
        self.maybe(spec, "replicas", lambda: r.randint(0, 3))
        self.maybe(spec, "strategy", lambda: r.choice(
            [{"type": "Recreate"}, {"type": "RollingUpdate"}, {"rollingUpdate": {"maxSurge": "30%"}}]), 0.2)
        spec["template"] = {"spec": self.pod_spec(whole)}
        if whole:
            spec["template"]["metadata"] = {"labels": {"a": "b"}}
        return {"spec": spec}

    def service(self, whole):
        r, spec = self.r, {}

        def ports():
            def port(number):
                made = {"port": number, "name": f"p{number}"}
                self.maybe(made, "protocol", lambda: r.choice(["UDP", "TCP"]), 0.3)
                self.maybe(made, "targetPort", lambda: r.choice([8080, "http"]))
                return made

            return [port(number) for number in self.some([80, 81, 82])]

        if whole:
            spec |= {"ports": ports(), "selector": {"a": "b"}}
        else:
            self.maybe(spec, "ports", ports, 0.7)
            self.maybe(spec, "selector", lambda: {k: "v" for k in self.some(list("ab"))})
        self.maybe(spec, "sessionAffinity", lambda: r.choice(["ClientIP", "None"]), 0.3)
        self.maybe(spec, "type", lambda: r.choice(["ClusterIP", "NodePort", "LoadBalancer"]), 0.3)
        self.maybe(spec, "externalIPs", lambda: self.some(["9.9.9.9", "9.9.9.8"]), 0.2)
        return {"spec": spec}

    def configmap(self, _):
        made = {}
        self.maybe(made, "data", lambda: {k: self.r.choice("xyz") for k in self.some(list("abc"))}, 0.8)
        return made

    def nulls(self, value):
        """Some fields set to null."""
        if isinstance(value, dict):
            return {k: None if k not in NEVER_NULL and self.r.random() < 0.12 else self.nulls(v) for k, v in value.items()}
        return [self.nulls(v) for v in value] if isinstance(value, list) else value

    def directives(self, value):
        """Some directives of strategic merge."""
        if isinstance(value, list):
            return [self.directives(v) for v in value]
        if not isinstance(value, dict):
            return value
        value = {k: self.directives(v) for k, v in value.items()}
        for name, key in KEYED:
            items = value.get(name)
            if not isinstance(items, list) or not items or not all(isinstance(i, dict) and key in i for i in items):
                continue
            if self.r.random() < 0.15:
                self.r.choice(items)["$patch"] = self.r.choice(["delete", "replace"])
            elif self.r.random() < 0.2:
                value["$setElementOrder/" + name] = [{key: i[key]} for i in self.r.sample(items, len(items))]
        return value

    def operations(self, name):
        return [self.r.choice([
            {"op": "add", "path": "/metadata/labels", "value": {"j": "1"}},
            {"op": "remove", "path": "/metadata/annotations"},
            {"op": "test", "path": "/metadata/name", "value": name},
            {"op": "copy", "from": "/metadata/name", "path": "/metadata/annotations/n"},
        ])]

    def step(self, kind, name, path, first):
        """One write: how, and its request."""
        how = "apply" if first else self.r.choice(["apply", "apply", "strategic", "merge", "json", "put"])
        url = f"{path}?fieldManager={self.r.choice(['m1', 'm2'])}"
        force = self.r.random() < 0.5
        if how == "apply":
            body = self.obj(kind, name, first or self.r.random() < 0.3)
            return how, ("PATCH", url + ("&force=true" if force else ""), body, PATCHES[how])
        if how == "put":
            return how, ("PUT", url, self.obj(kind, name, True), "application/json")
        if how == "json":
            body = self.operations(name)
        elif how == "strategic":
            body = self.directives(self.nulls(self.obj(kind, name, False)))
        else:
            body = self.nulls(self.obj(kind, name, self.r.random() < 0.3))
        return how, ("PATCH", url, body, PATCHES[how])


REVISION = "deployment.kubernetes.io/revision"
# How long our controller may take to number a Deployment.
NUMBERED_WITHIN = 1.0


def give_number(oracle, ours, path):
    """Gives the oracle's Deployment the number that our controller gave ours: a patch that takes the annotations away, or
    adds to them, finds them on both servers or on neither."""
    since = time.time()
    while True:
        live = ours.ask("GET", path)
        if not live.ok or live.body["metadata"].get("deletionTimestamp"):
            return
        annotations = live.body["metadata"].get("annotations") or {}
        if REVISION in annotations or time.time() - since > NUMBERED_WITHIN:
            break
        time.sleep(0.005)
    if REVISION in annotations:
        patch = {"metadata": {"annotations": {REVISION: annotations[REVISION]}}}
        oracle.ask("PATCH", path + "?fieldManager=gantry-deployments", patch, PATCHES["merge"])


# What controllers write, which the oracle runs without.
def without_controllers(obj):
    obj.pop("status", None)
    metadata = obj.get("metadata") or {}
    metadata.pop("generation", None)
    annotations = metadata.get("annotations") or {}
    annotations.pop(REVISION, None)
    if not annotations:
        metadata.pop("annotations", None)
    return obj


def without_shared_annotations(entries):
    """The map of annotations is there before a manager's first one when a controller wrote one."""
    for entry in entries:
        ((entry[4] or {}).get("f:metadata") or {}).get("f:annotations", {}).pop(".", None)
    return entries


def compare(theirs, ours):
    if not (theirs.ok and ours.ok):
        return classify(theirs, ours)
    (a, their_managed), (b, our_managed) = plain(theirs.body), plain(ours.body)
    if found := diff(without_controllers(a), without_controllers(b)):
        return "object", found[:8]
    a, b = (without_shared_annotations(owners(m)) for m in (their_managed, our_managed))
    return ("managed", [[x for x in a if x not in b][:2], [x for x in b if x not in a][:2]]) if a != b else ("same", "")


def run(oracle, ours, record, names, random, every):
    maker = Maker(random)
    mine = [kind for kind in ("Deployment", "Service", "ConfigMap") if kind in names]
    for number in range(int(2000 * every)):
        kind, name = random.choice(mine), f"m{number}"
        path = f"{kinds.collection(kind)}/{name}"
        history, outcome = [], "same"
        for step in range(random.randint(2, 6)):
            how, request = maker.step(kind, name, path, step == 0)
            if kind == "Deployment" and step > 0:
                give_number(oracle, ours, path)
            theirs, our = oracle.ask(*request), ours.ask(*request)
            history.append(request)
            cls, detail = compare(theirs, our)
            if cls == "same":
                continue
            record.row(f"{kind} {how}", cls, history, theirs, our, detail)
            # Other words of a refusal leave both objects alike: the sequence goes on.
            if cls not in ("message", "details", "code"):
                outcome = "other"
                break
        record.count("sequences", outcome)
        for server in (oracle, ours):
            server.ask("PATCH", path, {"metadata": {"finalizers": None}}, PATCHES["merge"])
            server.ask("DELETE", path)
