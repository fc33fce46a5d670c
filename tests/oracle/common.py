"""What all oracle scripts share: the two servers, answers made comparable, and the record of what differs."""

import base64
import collections
import http.client
import json
import re
import ssl
import tempfile
import urllib.parse

JSON = "application/json"


class Answer:
    """One HTTP answer."""

    def __init__(self, code, body, warnings, media):
        self.code, self.text, self.warnings, self.media = code, body, warnings, media
        try:
            self.body = json.loads(body) if body else {}
        except ValueError:
            self.body = body.decode(errors="replace")

    @property
    def ok(self):
        return self.code < 300

    @property
    def message(self):
        return self.body.get("message", "") if isinstance(self.body, dict) else str(self.body)


class Server:
    """A server that a kubeconfig points at, over one kept connection."""

    def __init__(self, kubeconfig):
        import yaml

        with open(kubeconfig) as file:
            config = yaml.safe_load(file)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.tls = ssl.create_default_context(cafile=self.file(cluster, "certificate-authority"))
        self.tls.load_cert_chain(self.file(user, "client-certificate"), self.file(user, "client-key"))
        self.tls.check_hostname = False
        self.address = urllib.parse.urlparse(cluster["server"])
        self.connection = None

    @staticmethod
    def file(holder, name):
        if name in holder:
            return holder[name]
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(base64.b64decode(holder[name + "-data"]))
        return file.name

    def ask(self, method, path, body=None, media=JSON, accept=JSON):
        """Sends one request; a connection that broke is opened again once."""
        headers = {"Accept": accept, "User-Agent": "oracle"}
        if body is not None:
            headers["Content-Type"] = media
            if not isinstance(body, (str, bytes)):
                body = json.dumps(body)
        for last in (False, True):
            if self.connection is None:
                self.connection = http.client.HTTPSConnection(
                    self.address.hostname, self.address.port, context=self.tls, timeout=30
                )
            try:
                self.connection.request(method, path, body=body, headers=headers)
                response = self.connection.getresponse()
                text = response.read()
                warnings = [re.sub(r"^\S+ \S+ ", "", w) for w in response.headers.get_all("Warning") or []]
                return Answer(response.status, text, sorted(warnings), response.headers.get("Content-Type", ""))
            except (OSError, http.client.HTTPException):
                self.connection = None
                if last:
                    raise


# What no two servers have alike.
UNIQUE = ("uid", "creationTimestamp", "resourceVersion", "selfLink")
# The controllers of the server under test run beside it; upstream's run elsewhere.
OURS = re.compile(r"gantry.*|.*-controller|kube-.*")


def plain(obj):
    """An object without what no two servers have alike; its managed fields apart."""
    obj = json.loads(json.dumps(obj))
    if not isinstance(obj, dict):
        return obj, None
    metadata = obj.get("metadata") or {}
    for name in UNIQUE:
        metadata.pop(name, None)
    managed = metadata.pop("managedFields", None)
    if (metadata.get("labels") or {}).get("pod-template-hash"):
        metadata["labels"]["pod-template-hash"] = "HASH"
    if obj.get("kind") == "Service":
        service(obj.get("spec") or {})
    return obj, managed


def service(spec):
    """Addresses and ports that a server draws."""
    if spec.get("clusterIP") not in (None, "None", ""):
        spec["clusterIP"] = "IP"
    if spec.get("clusterIPs"):
        spec["clusterIPs"] = ["IP" if ip != "None" else ip for ip in spec["clusterIPs"]]
    for port in spec.get("ports") or []:
        if port.get("nodePort"):
            port["nodePort"] = "PORT"
    if spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = "PORT"


def owners(managed):
    """Managed fields by owner, without times and without controllers."""
    found = (
        [m.get("manager"), m.get("operation"), m.get("apiVersion"), m.get("subresource", ""), m.get("fieldsV1")]
        for m in managed or []
        if not OURS.fullmatch(m.get("manager") or "")
    )
    return sorted(found, key=json.dumps)


def short(value):
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 100 else text[:97] + "..."


def diff(a, b, at=""):
    """Where two JSON values differ, as lines."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = []
        for name in sorted(a.keys() | b.keys()):
            if name not in a:
                out.append(f"{at}.{name}: absent | {short(b[name])}")
            elif name not in b:
                out.append(f"{at}.{name}: {short(a[name])} | absent")
            else:
                out += diff(a[name], b[name], f"{at}.{name}")
        return out
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b)) for line in diff(x, y, f"{at}[{i}]")]
    return [] if a == b and type(a) is type(b) else [f"{at}: {short(a)} | {short(b)}"]


def classify(theirs, ours):
    """How two answers to one write relate: a class, and what differs."""
    if theirs.code >= 500 and ours.code < 500:
        return "oracle 5xx", theirs.message[:300]
    if theirs.ok and ours.ok:
        (a, their_managed), (b, our_managed) = plain(theirs.body), plain(ours.body)
        if found := diff(a, b):
            return "object", found[:8]
        if theirs.warnings != ours.warnings:
            return "warnings", [theirs.warnings, ours.warnings]
        a, b = owners(their_managed), owners(our_managed)
        if a != b:
            return "managed", [[x for x in a if x not in b][:2], [x for x in b if x not in a][:2]]
        return "same", ""
    if theirs.ok:
        return "we refuse", ours.message[:400]
    if ours.ok:
        return "we accept", theirs.message[:400]
    if theirs.code != ours.code:
        return "code", [theirs.code, ours.code, theirs.message[:300], ours.message[:300]]
    if theirs.message != ours.message:
        return "message", [theirs.message[:400], ours.message[:400]]
    a, b = (refused(v.body) for v in (theirs, ours))
    return ("details", diff(a, b)[:4]) if a != b else ("same", "")


def refused(status):
    """What a refusal says beside its words. Upstream names the managers of a conflict in no order."""
    details = dict(status.get("details") or {})
    if status.get("reason") == "Conflict" and details.get("causes"):
        details["causes"] = sorted(details["causes"], key=lambda cause: cause.get("message", ""))
    return {"reason": status.get("reason"), "details": details}


class Record:
    """Rows of requests with both answers, as JSON lines, and their counts by group and class."""

    def __init__(self, path):
        self.out = open(path, "w")
        self.counts = collections.defaultdict(collections.Counter)

    def count(self, group, cls):
        self.counts[group][cls] += 1

    def row(self, group, cls, request, theirs, ours, detail):
        """Counts; keeps the row when the answers are not the same."""
        self.count(group, cls)
        if cls != "same":
            row = {"group": group, "class": cls, "request": request, "detail": detail,
                   "oracle": summary(theirs), "ours": summary(ours)}
            self.out.write(json.dumps(row) + "\n")

    def table(self):
        """The counts as a Markdown table."""
        classes = sorted({c for counts in self.counts.values() for c in counts} - {"same"})
        lines = ["| | all | same | " + " | ".join(classes) + " |", "|---" * (len(classes) + 3) + "|"]
        total = collections.Counter()
        for group, counts in sorted(self.counts.items()):
            total.update(counts)
            lines.append(self.line(group, counts, classes))
        lines.append(self.line("total", total, classes))
        return "\n".join(lines)

    @staticmethod
    def line(name, counts, classes):
        cells = [name, sum(counts.values()), counts["same"], *(counts[c] for c in classes)]
        return "| " + " | ".join(map(str, cells)) + " |"


def summary(answer):
    if answer is None:
        return None
    return {"code": answer.code, "message": answer.message[:2000]} if not answer.ok else {"code": answer.code, "body": answer.body}
