#!/usr/bin/env python3
"""Differential test of reads: the same few dozen objects are made in a real kube-apiserver and in the server under test,
then a few thousand requests go to both (lists with selectors, limits, continue tokens and versions, all forms of Accept,
watches, discovery, OpenAPI, health, wrong methods and media types) and their answers are compared.

usage: requests.py ORACLE_KUBECONFIG OURS_KUBECONFIG OUT.jsonl [FILTER]

FILTER is a regular expression over "METHOD path accept". OUT gets one line for each difference. What cannot be the same
is made equal before the comparison: uids, times, versions, tokens, kinds that only one of the two serves, objects
that the server's own control loops made, and what this project does otherwise on purpose: it says beside a 404 what is not
served, and sends JSON to clients that take it beside protobuf (so that is not asked for here)."""
import base64
import collections
import concurrent.futures
import http.client
import json
import os
import re
import ssl
import sys
import tempfile
import time
import urllib.parse
import zlib

import yaml

TIMES = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
AGE = re.compile(r"^(\d+[smhdy])+$|^<unknown>$")
FREE = {"uid", "resourceVersion", "creationTimestamp", "time", "continue", "selfLink"}
NAMESPACES = ["reads-a", "reads-b"]
# Another one in each run, so that a change is a change.
RUN = str(int(time.time()))
GENERIC = "the server could not find the requested resource"
MARK = "reads"


class Server:
    """One API server, reached by a kubeconfig."""

    def __init__(self, kubeconfig):
        config = yaml.safe_load(open(kubeconfig))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.host = urllib.parse.urlsplit(cluster["server"])
        context = ssl.create_default_context(cafile=self.file(cluster, "certificate-authority"))
        context.check_hostname = False
        context.load_cert_chain(self.file(user, "client-certificate"), self.file(user, "client-key"))
        self.context, self.connection = context, None
        self.versions = {}

    @staticmethod
    def file(section, name):
        if name in section:
            return section[name]
        handle, path = tempfile.mkstemp()
        os.write(handle, base64.b64decode(section[name + "-data"]))
        os.close(handle)
        return path

    def ask(self, method, path, headers=None, body=None):
        """Status, headers, body."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        headers = {"User-Agent": "reads/1", **(headers or {})}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        for attempt in (1, 2):
            if self.connection is None:
                self.connection = http.client.HTTPSConnection(self.host.hostname, self.host.port, context=self.context, timeout=15)
            try:
                self.connection.request(method, path, body=body, headers=headers)
                answer = self.connection.getresponse()
                content = answer.read()
                return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content
            except TimeoutError:
                self.connection = None
                return 0, {}, b"no end within 15 s"
            except (http.client.HTTPException, OSError) as error:
                self.connection = None
                if attempt == 2:
                    return 0, {}, repr(error).encode()

    def fill(self, path):
        """The placeholders of versions: this server's own."""
        for name, value in self.versions.items():
            path = path.replace("{%s}" % name, value)
        return path


# ---- the objects -------------------------------------------------------------------------------------------------

def meta(name, namespace=None, **labels):
    out = {"name": name, "labels": {MARK: "x", **labels}}
    if namespace:
        out["namespace"] = namespace
    return out


def container(**more):
    return {"name": "c", "image": "example.com/i:1", **more}


def objects():
    """(collection path, object) in the order of creation."""
    core, apps = "/api/v1", "/apis/apps/v1"
    for namespace in NAMESPACES:
        yield f"{core}/namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": meta(namespace, team="red" if namespace.endswith("a") else "blue")}
    for n in range(3):
        yield f"{core}/nodes", {"kind": "Node", "apiVersion": "v1", "metadata": meta(f"reads-n{n}", zone=f"z{n % 2}"), "spec": {"podCIDR": f"10.9.{n}.0/24", **({"unschedulable": True} if n == 2 else {})}}
    for namespace in NAMESPACES:
        at = f"{core}/namespaces/{namespace}"
        for n in range(7):
            labels = {"app": ["web", "db", "web"][n % 3], "tier": str(n), **({"odd": ""} if n % 2 else {}), "example.com/part": f"p{n % 2}"}
            yield f"{at}/configmaps", {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta(f"cm-{n}", namespace, **labels), "data": {"k": str(n), "html": "<a&b>"}}
        for n in range(3):
            yield f"{at}/secrets", {"kind": "Secret", "apiVersion": "v1", "metadata": meta(f"s-{n}", namespace, tier=str(n)), "type": ["Opaque", "example.com/t", "kubernetes.io/basic-auth"][n], "data": {"username": "YQ=="}}
        for n in range(2):
            yield f"{at}/serviceaccounts", {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": meta(f"sa-{n}", namespace, tier=str(n))}
        for n in range(4):
            # Never scheduled: the answers then stay the same for as long as the test runs.
            spec = {"containers": [container()], "restartPolicy": ["Always", "Never", "OnFailure", "Always"][n], "schedulerName": "nobody", "automountServiceAccountToken": False, "serviceAccountName": "default",
                    **({"hostNetwork": True} if n == 1 else {}), **({"nodeName": "reads-n0"} if n == 3 else {})}
            yield f"{at}/pods", {"kind": "Pod", "apiVersion": "v1", "metadata": meta(f"p-{n}", namespace, app="web", tier=str(n)), "spec": spec}
        base = 10 if namespace.endswith("a") else 20
        for n, kind in enumerate(["ClusterIP", "ExternalName", "NodePort"]):
            spec = {"type": kind, "externalName": "x.example.com"} if kind == "ExternalName" else {
                "type": kind, "clusterIP": f"10.128.7.{base + n}", "ports": [{"port": 80, "name": "http", **({"nodePort": 30100 + base + n} if kind == "NodePort" else {})}]}
            yield f"{at}/services", {"kind": "Service", "apiVersion": "v1", "metadata": meta(f"svc-{n}", namespace, tier=str(n)), "spec": spec}
        # Where a controller makes one, it is there at once.
        yield f"{at}/configmaps", {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "kube-root-ca.crt", "namespace": namespace}}
        yield f"{at}/serviceaccounts", {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default", "namespace": namespace}}
        yield f"{at}/endpoints", {"kind": "Endpoints", "apiVersion": "v1", "metadata": meta("ep-0", namespace), "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]}
        yield f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", {
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": meta("es-0", namespace), "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": True}}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
        yield f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", {
            "kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": meta("l-0", namespace), "spec": {"holderIdentity": "me", "leaseDurationSeconds": 10}}
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container()], "schedulerName": "nobody"}}
        for n in range(2):
            spec = {"replicas": 0, "paused": True, "selector": {"matchLabels": {"a": "b"}}, "template": template}
            yield f"{apps}/namespaces/{namespace}/deployments", {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": meta(f"d-{n}", namespace, tier=str(n)), "spec": spec}
            spec = {"replicas": 0, "selector": {"matchLabels": {"a": f"rs{n}"}}, "template": {**template, "metadata": {"labels": {"a": f"rs{n}"}}}}
            yield f"{apps}/namespaces/{namespace}/replicasets", {"kind": "ReplicaSet", "apiVersion": "apps/v1", "metadata": meta(f"rs-{n}", namespace, tier=str(n)), "spec": spec}
        for n in range(4):
            about = {"kind": "Pod", "namespace": namespace, "name": f"p-{n}", "uid": f"u{n}", "apiVersion": "v1", "resourceVersion": str(n), "fieldPath": "spec.containers{c}"}
            yield f"{at}/events", {
                "kind": "Event", "apiVersion": "v1", "metadata": meta(f"e-{n}", namespace), "involvedObject": about, "reason": ["Pulled", "Started"][n % 2], "message": "m", "type": ["Normal", "Warning"][n % 2],
                "source": {"component": "kubelet"} if n < 2 else {}, "reportingComponent": "kubelet" if n == 0 else "example.com/c", "reportingInstance": "i", "action": "a",
                "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1 + n}


def make(server):
    for path, thing in objects():
        status, _, body = server.ask("POST", path, body=thing)
        if status not in (201, 409) and b"already allocated" not in body:
            print(f"  {server.host.port}: {path} {thing['metadata']['name']}: {status} {body[:300]!r}")
    _, _, body = server.ask("GET", "/api/v1/namespaces/reads-a/configmaps")
    now = json.loads(body)["metadata"]["resourceVersion"]
    # One version back: the state before the last configmap is changed.
    server.ask("PUT", "/api/v1/namespaces/reads-a/configmaps/cm-6", body={
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": meta("cm-6", "reads-a", app="web", tier="6"), "data": {"k": RUN}})
    _, _, body = server.ask("GET", "/api/v1/namespaces/reads-a/configmaps")
    server.versions = {"before": now, "now": json.loads(body)["metadata"]["resourceVersion"], "future": "99999999"}


# ---- the requests ------------------------------------------------------------------------------------------------

LABELS = """app=web|app==web|app!=web|app in (web,db)|app in (web)|app notin (db)|app|!app|odd|!odd|odd=|odd!=|tier>2|tier<3|tier>2,tier<5|tier>x|tier>|
tier<-1|a>1|app=web,tier=0|app=web,tier!=0|app=web, tier in (0, 3)|app in ()|app in (,)|app in (web,|app in web|app in (web|app notin|app in|app=web,|,app=web|,|,,|-a=1|a-=1|
x/y/z=1|example.com/part=p0|example.com/part|/part=1|EXAMPLE.com/x=1|_.com/x=1|app=web=db|app===web|app=!web|app=-web|app=web-|app=we b|app=(web)|app web|!app=web|!!app|!app,app|( |)|=|=web|!=web|
in=1|notin=1|in in (in)|in in (in,notin)|notin notin (in)|app=in|app in (in)|app=%s|%s=1|app=wéb|app=web!|app!web|app<>1|app><1|app=<1|>1|app in (web db)|app in ((web))|app exists|
  app  =  web  |app\tin\t(web)|reads=x,app|reads=x,app=web,app=db|a.b.c/d.e=f_g|tier>=1|tier in (1,1,2)|tier notin (1,2,,)|!|! app|app!|"app"=web|app='web'|app=web\n|0=0|a/=b|app in (a,b""" % ("v" * 64, "k" * 64)

FIELDS = """metadata.name=cm-1|metadata.name!=cm-1|metadata.name==cm-1|metadata.namespace=reads-a|metadata.namespace!=reads-a|metadata.name=cm-1,metadata.namespace=reads-a|metadata.name=|metadata.name|=|!=|a=b|
metadata.uid=x|metadata.labels=x|data.k=1|spec.nodeName=reads-n0|spec.nodeName=|spec.nodeName!=|spec.host=reads-n0|spec.restartPolicy=Never|spec.schedulerName=nobody|spec.serviceAccountName=default|
spec.serviceAccountName=|spec.hostNetwork=true|spec.hostNetwork=false|status.phase=Pending|status.phase!=Running|status.podIP=|status.podIPs=|status.nominatedNodeName=|spec.unschedulable=true|spec.unschedulable=false|
name=reads-a|status.phase=Active|type=Opaque|type!=Opaque|type=Warning|spec.clusterIP=10.128.7.10|spec.type=NodePort|status.replicas=0|status.replicas=1|spec.replicas=0|involvedObject.kind=Pod|involvedObject.name=p-1|
involvedObject.namespace=reads-b|involvedObject.uid=u1|involvedObject.apiVersion=v1|involvedObject.resourceVersion=1|involvedObject.fieldPath=spec.containers{c}|reason=Pulled|reason!=Pulled|reportingComponent=kubelet|source=kubelet|
source=example.com/c|source!=kubelet|regarding.kind=Pod|regarding.name=p-1|reportingController=kubelet|note=m|metadata.name=a\\,b|metadata.name=a\\=b|metadata.name=a\\b|metadata.name=a=b|metadata.name=a\\|
,metadata.name=cm-1|metadata.name=cm-1,|metadata.name = cm-1|metadata.name=cm-1 |metadata.name in (a)|metadata.name=cm-1,x|status.podIP!=1.1.1.1,spec.nodeName=reads-n0|!metadata.name|metadata.name>1"""

QUERIES = """limit=2|limit=0|limit=-1|limit=x|limit=1.5|limit=|limit=99999999999999999999|limit=100|continue=x|continue=!!|continue=e30|continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJ4In0|
continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTAwLCJzdGFydCI6IiJ9|continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTAwLCJzdGFydCI6Ii4uL3gifQ|continue=eyJ2IjoidjIiLCJydiI6MTAwLCJzdGFydCI6IngifQ|continue=x&resourceVersion=5|
continue=x&limit=1|resourceVersion=0|resourceVersion={now}|resourceVersion={before}|resourceVersion=1|resourceVersion=x|resourceVersion=-1|resourceVersion=1.0|resourceVersion=|resourceVersion={now}&limit=2|
resourceVersion={before}&limit=2|resourceVersion=1&limit=2|resourceVersion=0&limit=2|resourceVersionMatch=Exact|resourceVersionMatch=NotOlderThan|resourceVersionMatch=Foo|resourceVersion=0&resourceVersionMatch=Exact|
resourceVersion=0&resourceVersionMatch=NotOlderThan|resourceVersion={now}&resourceVersionMatch=Exact|resourceVersion={before}&resourceVersionMatch=Exact|resourceVersion={now}&resourceVersionMatch=NotOlderThan|
resourceVersion={before}&resourceVersionMatch=NotOlderThan|resourceVersion={now}&resourceVersionMatch=exact|resourceVersion=1&resourceVersionMatch=Exact|resourceVersion={now}&resourceVersionMatch=Exact&limit=3|
resourceVersion={now}&resourceVersionMatch=NotOlderThan&limit=3|resourceVersion=x&resourceVersionMatch=Exact|continue=x&resourceVersionMatch=Exact&resourceVersion=1|continue=x&resourceVersionMatch=Exact|
sendInitialEvents=true|sendInitialEvents=false|sendInitialEvents=x|sendInitialEvents=true&resourceVersionMatch=NotOlderThan|allowWatchBookmarks=true|allowWatchBookmarks=x|timeoutSeconds=5|timeoutSeconds=x|timeoutSeconds=-1|
timeoutSeconds=|timeout=abc|timeout=5s|timeout=1|timeout=0|timeout=-5s|timeout=1h|timeout=|pretty=true|pretty=false|pretty=x|pretty|watch=false|watch=0|watch=F&timeoutSeconds=1|watch=x&timeoutSeconds=1|watch&timeoutSeconds=1|unknown=1|labelSelector=|fieldSelector=|
labelSelector=app=web&limit=2|fieldSelector=metadata.name!=cm-0&limit=2|labelSelector=app=web&labelSelector=app=db|limit=2&limit=3|fieldManager=x|dryRun=All|dryRun=x|export=true|includeUninitialized=true|;|a=b;c=d|%zz|
includeObject=None|includeObject=x|resourceVersion={future}&resourceVersionMatch=Exact"""

WATCHES = """|resourceVersion=0|resourceVersion={now}|resourceVersion={before}|resourceVersion=x|resourceVersion=1|resourceVersion={future}|allowWatchBookmarks=true|allowWatchBookmarks=true&resourceVersion={now}|
sendInitialEvents=true|sendInitialEvents=true&resourceVersionMatch=NotOlderThan|sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true|
sendInitialEvents=false&resourceVersionMatch=NotOlderThan|sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={before}|sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion={before}&allowWatchBookmarks=true|
sendInitialEvents=true&resourceVersionMatch=Exact|sendInitialEvents=true&resourceVersionMatch=Foo|resourceVersionMatch=NotOlderThan|resourceVersionMatch=NotOlderThan&resourceVersion={now}|sendInitialEvents=x|
labelSelector=app=web|fieldSelector=metadata.name=cm-1|labelSelector=tier>4|labelSelector=-a=1|fieldSelector=data.k=1|limit=2|continue=x|sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x|
resourceVersion={before}&labelSelector=tier=6|resourceVersion={before}&labelSelector=odd|includeObject=None|includeObject=x"""

JSON, TABLE, PARTIAL = "application/json", "application/json;as=Table;g=meta.k8s.io;v=v1", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
ACCEPTS = ["", "*/*", "application/*", JSON, "application/json;charset=utf-8", "application/yaml", "application/vnd.kubernetes.protobuf",
           "text/html", "text/html, */*", "text/plain", "application/cbor", "application/xml, application/json;q=0.5", "application/json;q=0.1, application/yaml;q=0.9", "bogus", "application/json;pretty=1",
           "application/yaml, application/json", "*/*;as=Table;g=meta.k8s.io;v=v1", TABLE, TABLE + ", application/json", TABLE.replace("=v1", "=v1beta1"), TABLE.replace("=v1", "=v2"), TABLE.replace("=v1", "=v2") + ", application/json",
           "application/json;as=Table;g=meta.k8s.io", "application/json;as=Table", "application/json;as=Table;v=v1", "application/json;as=Tablet;g=meta.k8s.io;v=v1", "application/json;as=Table;g=example.com;v=v1",
           "application/json;g=meta.k8s.io;v=v1", "application/yaml;as=Table;g=meta.k8s.io;v=v1", "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1",
           "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1, application/json", PARTIAL, PARTIAL + ", application/json", PARTIAL.replace("=v1", "=v1beta1"), PARTIAL.replace("=v1", "=v2"),
           PARTIAL.replace("Metadata;", "MetadataList;"), PARTIAL.replace("Metadata;", "MetadataList;").replace("=v1", "=v1beta1"), PARTIAL.replace("Metadata;", "MetadataList;") + ", application/json",
           "application/yaml;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
           "application/json;stream=watch", "application/json;stream=x", "application/json;sv=v1", "application/json;export=1"]


def split(text):
    return [part for part in text.replace("|\n", "|").split("|")]


def query(name, value):
    return f"{name}={urllib.parse.quote(value)}"


def kinds(server):
    """(base path, plural, namespaced, subresources) of what a server's discovery lists."""
    out = {}
    groups = json.loads(server.ask("GET", "/apis")[2])["groups"]
    bases = ["/api/v1"] + [f"/apis/{v['groupVersion']}" for g in groups for v in g["versions"]]
    for base in bases:
        status, _, body = server.ask("GET", base)
        for resource in json.loads(body)["resources"] if status == 200 else []:
            if "/" not in resource["name"] and "list" in resource["verbs"]:
                out[(base, resource["name"])] = resource["namespaced"]
    return out


def requests(served):
    """(method, path, headers, body) of everything that is asked."""
    for (base, plural), namespaced in sorted(served.items()):
        at = f"{base}/namespaces/reads-a/{plural}" if namespaced else f"{base}/{plural}"
        everywhere = f"{base}/{plural}"
        full = plural in ("configmaps", "pods", "events", "nodes")
        for accept in ACCEPTS:
            if full or accept in (JSON, TABLE, PARTIAL, "application/yaml", PARTIAL.replace("Metadata;", "MetadataList;")):
                yield "GET", at + "?labelSelector=reads", accept, None
        for include in ("None", "Metadata", "Object", "x", ""):
            yield "GET", f"{at}?labelSelector=reads&includeObject={include}", TABLE, None
        labels, fields, queries = split(LABELS), split(FIELDS), split(QUERIES)
        for text in labels if full else labels[:6]:
            yield "GET", f"{at}?{query('labelSelector', text)}", JSON, None
        for text in fields:
            yield "GET", f"{at}?{query('fieldSelector', text)}&labelSelector=reads", JSON, None
        for text in queries if full else queries[:1] + queries[17:24]:
            yield "GET", f"{at}?{text}" if "labelSelector" in text or "imit=" in text or "ontinue=" in text else f"{at}?{text}&labelSelector=reads", JSON, None
        if namespaced:
            for text in ["labelSelector=reads", "labelSelector=reads&fieldSelector=metadata.namespace%3Dreads-b", "labelSelector=reads,tier%3D0", "fieldSelector=metadata.namespace!%3Dreads-b&labelSelector=reads"]:
                yield "GET", f"{everywhere}?{text}", JSON, None
                yield "GET", f"{everywhere}?{text}", TABLE, None
            yield "GET", f"{base}/namespaces/absent/{plural}", JSON, None
            yield "GET", f"{base}/namespaces/absent/{plural}/x", JSON, None
            yield "POST", everywhere, JSON, "{}"
            yield "DELETE", everywhere, JSON, None
        for method in ("PUT", "PATCH", "POST", "HEAD", "OPTIONS", "TRACE", "FOO"):
            yield method, at, JSON, None
        for method in ("POST", "HEAD", "OPTIONS", "FOO"):
            yield method, f"{at}/absent", JSON, None
        for text in split(WATCHES) if full else split(WATCHES)[:1]:
            text = text.replace(">", "%3E")
            more = text if "labelSelector" in text else f"{text}&labelSelector=reads"
            yield "GET", f"{at}?watch=1&timeoutSeconds=1&{more}", JSON, None
    yield from single(served)
    yield from paths()


NAMES = {"configmaps": "cm-1", "pods": "p-1", "secrets": "s-1", "services": "svc-0", "events": "e-1", "deployments": "d-0", "replicasets": "rs-0", "nodes": "reads-n0", "namespaces": "reads-a",
         "leases": "l-0", "endpoints": "ep-0", "endpointslices": "es-0", "serviceaccounts": "sa-0"}


def single(served):
    for (base, plural), namespaced in sorted(served.items()):
        if plural not in NAMES:
            continue
        at = f"{base}/namespaces/reads-a/{plural}" if namespaced else f"{base}/{plural}"
        one = f"{at}/{NAMES[plural]}"
        for accept in ACCEPTS if plural in ("configmaps", "pods", "deployments") else [JSON, TABLE, PARTIAL]:
            yield "GET", one, accept, None
            if plural != "pods":
                yield "GET", f"{one}/absent-subresource", accept, None
        for text in ["resourceVersion=0", "resourceVersion={now}", "resourceVersion=x", "resourceVersion=1", "resourceVersionMatch=Exact", "pretty=true", "timeout=abc", "export=1", "fieldSelector=a%3Db", "watch=1&timeoutSeconds=1",
                     "limit=x", "includeObject=None"]:
            yield "GET", f"{one}?{text}", JSON, None
        yield "GET", f"{at}/absent", JSON, None
        yield "GET", f"{at}/absent", TABLE, None
        yield "GET", f"{at}/absent", "application/yaml", None
        yield "GET", f"{at}/absent", "text/html", None
        yield "GET", f"{at}/UPPER_case", JSON, None
        yield "GET", f"{at}/{NAMES[plural][:-1]}%{ord(NAMES[plural][-1]):02x}", JSON, None
        yield "GET", f"{at}/a%2Fb", JSON, None
        yield "GET", f"{at}/a%20b", JSON, None
        yield "GET", f"{one}/", JSON, None
        yield "GET", f"{at}/", JSON, None
        yield "GET", f"/{one}", JSON, None
        for sub in ("status", "scale", "binding", "log", "exec", "eviction", "finalize", "approval", "ephemeralcontainers", "resize", "token", "proxy", "nope"):
            if sub in ("exec", "log", "proxy"):
                continue
            yield "GET", f"{one}/{sub}", JSON, None
            yield "GET", f"{one}/{sub}", TABLE, None
        watched = f"{base}/watch/namespaces/reads-a/{plural}" if namespaced else f"{base}/watch/{plural}"
        yield "GET", f"{watched}?timeoutSeconds=1&labelSelector=reads", JSON, None
        yield "GET", f"{watched}/{NAMES[plural]}?timeoutSeconds=1", JSON, None
        if namespaced:
            yield "GET", f"{base}/watch/{plural}?timeoutSeconds=1&labelSelector=reads", JSON, None
        for media in ("text/plain", "application/xml", "application/json;x=y", "application/cbor", "bogus", "application/merge-patch+json"):
            yield "POST", at, JSON, (media, "{}")
            yield "PUT", one, JSON, (media, "{}")
            yield "PATCH", one, JSON, (media + "+nope", "{}")
        for body in ("", "{", "[]", "null", "1", '{"kind":"Nope","apiVersion":"v1"}', '{"kind":"Pod","apiVersion":"v9"}', '{"apiVersion":"v1"}', '{"kind":"Pod"}', '{"kind":"Status","apiVersion":"v1"}', "a: b: c", '{"metadata":[]}', '{"metadata":{"name":1}}'):
            yield "POST", f"{at}?dryRun=All", JSON, ("application/json", body)
            yield "PUT", f"{one}?dryRun=All", JSON, ("application/json", body)
        for text in ("fieldManager=" + "m" * 129, "fieldManager=a%00b", "fieldManager=a%0Ab", "dryRun=x", "fieldValidation=x", "dryRun=All&dryRun=x", "timeout=abc", "pretty=x"):
            yield "POST", f"{at}?{text}", JSON, ("application/json", "{}")
            yield "PATCH", f"{one}?{text}&dryRun=All", JSON, ("application/merge-patch+json", "{}")
            yield "PUT", f"{one}?{text}", JSON, ("application/json", "{}")
        for text in ("dryRun=x", "propagationPolicy=x", "gracePeriodSeconds=x", "orphanDependents=x"):
            yield "DELETE", f"{one}?{text}&dryRun=All", JSON, None


def paths():
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    discovery = ["/", "/api", "/api/", "/apis", "/apis/", "/api/v1", "/api/v1/", "/api/v2", "/apis/apps", "/apis/apps/", "/apis/apps/v1", "/apis/apps/v9", "/apis/nope", "/apis/nope/v1", "/apis/authorization.k8s.io", "/apis/authorization.k8s.io/v1",
                 "/apis/authentication.k8s.io/v1", "/apis/events.k8s.io/v1", "/apis/coordination.k8s.io/v1", "/apis/discovery.k8s.io/v1"]
    for path in discovery:
        for accept in ["", JSON, aggregated, aggregated.replace("v=v2", "v=v2beta1"), aggregated + "," + aggregated.replace("v=v2", "v=v2beta1") + ",application/json", aggregated.replace("v=v2", "v=v3"), aggregated.replace("v=v2", "v=v1") + ",application/json",
                       "application/yaml", "application/vnd.kubernetes.protobuf", "text/html", "*/*", "application/json;g=apidiscovery.k8s.io;v=v2", "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList, " + aggregated, "application/cbor", "application/json, " + aggregated, aggregated + ";profile=nopeer"]:
            yield "GET", path, accept, None
        for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
            yield method, path, JSON, None
    for path in ["/version", "/version/", "/healthz", "/livez", "/readyz", "/healthz/", "/healthz/ping", "/livez/ping", "/readyz/ping", "/readyz/nope", "/readyz?verbose", "/livez?verbose", "/healthz?verbose", "/readyz?exclude=ping", "/readyz?verbose&exclude=ping",
                 "/readyz?exclude=nope", "/readyz/etcd", "/metrics", "/openapi", "/openapi/", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openapi/v3/api", "/openapi/v3/apis", "/openapi/v3/api/v1", "/openapi/v3/apis/apps/v1", "/openapi/v3/apis/apps", "/openapi/v3/nope",
                 "/openapi/v3/apis/nope/v1", "/openapi/v3/apis/authorization.k8s.io/v1", "/openapi/v3/apis/authentication.k8s.io/v1", "/openapi/v3/version", "/openapi/v1", "/swagger.json", "/swaggerapi", "/nope", "/logs", "/logs/", "/debug/pprof", "/api/v1/nope",
                 "/api/v1/namespaces/reads-a/nope", "/api/v1/namespaces/reads-a/nope/x", "/apis/apps/v1/nope", "/api/v1/namespaces/reads-a", "/api/v1/namespaces/reads-a/", "/api/v1/namespaces/reads-a/status", "/api/v1/namespaces/", "/api/v1//namespaces", "//api/v1",
                 "/api/v1/namespaces/reads-a/pods/p-1/status/x", "/api/v1/namespaces/reads-a/namespaces", "/api/v1/pods/p-1", "/api/v1/namespaces/reads-a/nodes", "/api/v1/nodes/x/y/z", "/api/v1/watch", "/api/v1/watch/", "/api/v1/watch/nope", "/API/v1", "/api/V1", "/apis/Apps/v1",
                 "/api/v1/../v1", "/api/%76%31", "/apis/apps/v1/namespaces/reads%2Da/deployments", "/.well-known/openid-configuration", "/openid/v1/jwks", "/statusz", "/flagz", "/api/v1/namespaces/reads-a/configmaps/cm%2D1", "/api/v1/namespaces/reads-a/pods/p-1%2Fstatus"]:
        for accept in ("", JSON, "text/html"):
            yield "GET", path, accept, None
        yield "POST", path, JSON, None
        yield "HEAD", path, JSON, None
    for review in ("authorization.k8s.io/v1/selfsubjectaccessreviews", "authorization.k8s.io/v1/selfsubjectrulesreviews", "authentication.k8s.io/v1/selfsubjectreviews"):
        kind = {"selfsubjectaccessreviews": "SelfSubjectAccessReview", "selfsubjectrulesreviews": "SelfSubjectRulesReview", "selfsubjectreviews": "SelfSubjectReview"}[review.rsplit("/", 1)[1]]
        spec = {"selfsubjectaccessreviews": {"resourceAttributes": {"verb": "get", "resource": "pods"}}, "selfsubjectrulesreviews": {"namespace": "default"}}.get(review.rsplit("/", 1)[1])
        body = {"kind": kind, "apiVersion": review.rsplit("/", 1)[0], **({"spec": spec} if spec else {})}
        for accept in ACCEPTS:
            yield "POST", f"/apis/{review}", accept, json.dumps(body)
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            yield method, f"/apis/{review}", JSON, None
            yield method, f"/apis/{review}/x", JSON, None
        for text in ("", "{", "[]", "{}", '{"kind":"Pod","apiVersion":"v1"}', json.dumps({**body, "spec": {}}), json.dumps({**body, "nope": 1}), json.dumps({**body, "metadata": {"name": "x"}})):
            yield "POST", f"/apis/{review}", JSON, text


# ---- the comparison ----------------------------------------------------------------------------------------------

def foreign(item):
    """An object that the test did not make."""
    metadata = item.get("metadata") or {}
    return MARK not in (metadata.get("labels") or {})


def normal(value, name=""):
    """What cannot be the same, made equal. What objects are made of is compared by fields.py: here the defaults and the
    status that other scripts judge are left out."""
    if isinstance(value, dict):
        out = {}
        workload = isinstance(value.get("spec"), dict) and {"selector", "template"} <= set(value["spec"])
        for key, inner in value.items():
            if key in ("managedFields", "taints", "ownerReferences", "podCIDR", "podCIDRs", "serviceAccount", "serviceAccountName", "remainingItemCount") or inner is None:
                continue
            if key in FREE and isinstance(inner, (str, int)):
                out[key] = f"<{key}>" if inner not in ("", None) else inner
            elif key == "status" and isinstance(inner, dict) and (workload or set(inner) & {"nodeInfo", "daemonEndpoints", "qosClass", "conditions"} or not inner):
                continue
            elif key == "userInfo":
                out[key] = sorted(set(inner) - {"extra", "uid"})
            elif key in ("resourceRules", "nonResourceRules"):
                out[key] = sorted(json.dumps(rule, sort_keys=True) for rule in inner)
            else:
                out[key] = normal(inner, key)
        if str(out.get("message", "")).startswith(GENERIC):
            # This version says beside it what is not served, and of which kind.
            out["message"], out["details"] = GENERIC, {}
        if value.get("kind") == "Node" or (name == "items" and "spec" in out and not out["spec"]):
            out.pop("spec", None)
        return out
    if isinstance(value, list):
        if name == "items":
            value = [v for v in value if not (isinstance(v, dict) and "metadata" in v and foreign(v))]
        if name == "rows":
            value = [v for v in value if not (isinstance(v.get("object"), dict) and foreign(v["object"]))]
        if name == "cells":
            return [v.split(",")[-1].replace("NotReady", "Unknown") if isinstance(v, str) and "eady" in v else "<age>" if isinstance(v, str) and AGE.match(v) else v for v in value]
        return [normal(v, name if name == "items" else "") for v in value]
    if isinstance(value, str):
        if TIMES.match(value):
            return "<time>"
        if name == "message":
            return re.sub(r"(?<=[ :(])\d{2,}", "N", value)
    return value


class Catalog:
    """The kinds that both servers serve, to leave the others out of discovery documents."""

    def __init__(self, oracle, ours):
        self.served = {k: v for k, v in kinds(ours).items() if k in kinds(oracle)}
        self.resources, self.groups = collections.defaultdict(set), set()
        for base in {b for b, _ in self.served} | {"/apis/authorization.k8s.io/v1", "/apis/authentication.k8s.io/v1"}:
            both = [{r["name"] for r in json.loads(s.ask("GET", base)[2]).get("resources", [])} for s in (oracle, ours)]
            self.resources[base.split("/", 2)[2]] = both[0] & both[1]
            self.groups.add(base.split("/")[2] if base.startswith("/apis") else "")

    def cut(self, value):
        """A discovery document without what only one serves."""
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind == "APIGroupList":
            value["groups"] = [g for g in value["groups"] if g["name"] in self.groups]
            for group in value["groups"]:
                group["versions"] = [v for v in group["versions"] if v["groupVersion"] in self.resources]
        elif kind == "APIGroup":
            value["versions"] = [v for v in value["versions"] if v["groupVersion"] in self.resources]
        elif kind == "APIResourceList":
            value["resources"] = [r for r in value["resources"] if r["name"] in self.resources[value["groupVersion"]]]
            for resource in value["resources"]:
                resource.pop("storageVersionHash", None)
        elif kind == "APIVersions":
            value.pop("serverAddressByClientCIDRs", None)
        elif kind == "APIGroupDiscoveryList":
            value["items"] = [g for g in value["items"] if g["metadata"].get("name", "") in self.groups]
            for group in value["items"]:
                name = group["metadata"].get("name", "")
                full = lambda v: f"{name}/{v}" if name else v
                group["versions"] = [v for v in group["versions"] if full(v["version"]) in self.resources]
                for version in group["versions"]:
                    known = self.resources[full(version["version"])]
                    version["resources"] = [r for r in version["resources"] if r["resource"] in known]
                    for resource in version["resources"]:
                        resource["subresources"] = [s for s in resource.get("subresources", []) if f"{resource['resource']}/{s['subresource']}" in known]
        elif isinstance(value, dict) and set(value) == {"paths"} and isinstance(value["paths"], list):
            value["paths"] = [p for p in value["paths"] if p.startswith(("/api", "/openapi", "/version", "/healthz/ping", "/readyz/ping")) and (p.count("/") < 2 or p.split("/", 2)[2].split("/")[0] in self.groups)]
        elif isinstance(value, dict) and set(value) == {"paths"}:
            value["paths"] = {p: "<url>" for p, v in value["paths"].items() if p.split("/", 1)[-1] in self.resources}
        elif isinstance(value, dict) and "gitVersion" in value:
            return sorted(value)
        elif isinstance(value, dict) and ("openapi" in value or "swagger" in value):
            return {"openapi": value.get("openapi"), "swagger": value.get("swagger")}
        return value


def protobuf(body):
    """The shape of a message in Kubernetes' envelope: its prefix, version and kind."""
    return {"prefix": body[:4].hex(), "head": sorted(word.decode() for word in re.findall(rb"[A-Za-z][A-Za-z0-9./]{3,}", body[4:60])[:1])}


def meaning(answer, catalog):
    """An answer in a form that can be compared."""
    status, headers, body = answer
    media = headers.get("content-type", "")
    if headers.get("content-encoding") == "gzip":
        body = zlib.decompress(body, 31)
    out = {"status": status, "media": media}
    if "protobuf" in media:
        out["body"] = protobuf(body)
    elif "yaml" in media:
        out["body"] = normal(catalog.cut(yaml.safe_load(body)))
    elif "json" in media:
        text = body.decode("utf-8", "replace")
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) > 1 and all(line.startswith('{"type":') for line in lines) or (lines and lines[0].startswith('{"type":"') and '"object":' in lines[0]):
            # The first events of a watch come in no order that is promised.
            events = [normal(json.loads(line)) for line in lines]
            events = [e for e in events if e["type"] in ("ERROR", "BOOKMARK") or e["object"].get("kind") == "Table" or not foreign(e["object"])]
            out["body"] = sorted(events, key=lambda e: json.dumps(e, sort_keys=True))
        else:
            try:
                out["body"] = normal(catalog.cut(json.loads(text)))
                if text.lstrip("{ \n").startswith(('"kind', '"apiV')):
                    out["first"] = re.sub(r"\s", "", text[:12])[:7]
            except ValueError:
                out["body"] = text
    else:
        out["body"] = re.sub(rb"\d+", b"N", body[:400]).decode("utf-8", "replace")
        if media.startswith("text/plain; version"):
            out["body"] = "<metrics>"
    return out


def difference(a, b, path=""):
    """The places at which two values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b), key=str):
            yield from difference(a.get(key, "<absent>"), b.get(key, "<absent>"), f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b)):
            yield from difference(x, y, f"{path}[{index}]")
    elif a != b:
        yield path, a, b


def chains(servers, catalog):
    """Lists in pages, followed to their ends."""
    for path in ("/api/v1/namespaces/reads-a/configmaps?limit=2", "/api/v1/namespaces/reads-a/configmaps?limit=3&labelSelector=tier", "/api/v1/namespaces/reads-a/configmaps?limit=1&labelSelector=app%3Dweb",
                 "/api/v1/namespaces/reads-a/pods?limit=1", "/api/v1/configmaps?limit=3&labelSelector=reads", "/api/v1/namespaces/reads-a/events?limit=3&fieldSelector=type%3DWarning", "/api/v1/namespaces/reads-a/configmaps?limit=7",
                 "/api/v1/namespaces/reads-a/configmaps?limit=6", "/apis/events.k8s.io/v1/namespaces/reads-a/events?limit=1"):
        for accept in (JSON, TABLE, PARTIAL.replace("Metadata;", "MetadataList;")):
            tokens = ["", ""]
            for page in range(12):
                asked = [f"{path}&continue={token}" if token else path for token in tokens]
                answers = [s.ask("GET", p, {"Accept": accept}) for s, p in zip(servers, asked)]
                tokens = [(json.loads(a[2]).get("metadata") or {}).get("continue", "") for a in answers]
                yield f"page {page} of {path}", accept, [meaning(a, catalog) for a in answers]
                if not all(tokens):
                    break


def main():
    oracle, ours = Server(sys.argv[1]), Server(sys.argv[2])
    wanted = re.compile(sys.argv[4]) if len(sys.argv) > 4 else None
    for server in (oracle, ours):
        make(server)
    catalog = Catalog(oracle, ours)
    counts, causes, seen = collections.Counter(), collections.Counter(), set()
    with open(sys.argv[3], "w") as out, concurrent.futures.ThreadPoolExecutor(2) as pool:

        def compare(name, accept, meanings):
            theirs, own = meanings
            counts["all"] += 1
            if theirs == own:
                counts["identical"] += 1
                return
            places = list(difference(theirs, own))
            if theirs["status"] != own["status"]:
                counts["status"] += 1
            if theirs.get("body") != own.get("body"):
                counts["body"] += 1
            cause = re.sub(r"\[\d+\]", "[]", " ".join(sorted({p for p, _, _ in places})[:4])) + (f" {theirs['status']}/{own['status']}" if theirs["status"] != own["status"] else "")
            causes[cause] += 1
            out.write(json.dumps({"name": name, "accept": accept, "cause": cause, "places": [[p, a, b] for p, a, b in places[:8]]}) + "\n")

        for method, path, accept, body in requests(catalog.served):
            media = None
            if isinstance(body, tuple):
                media, body = body
            name = f"{method} {path}" + (f" [{media}] {body}" if body is not None else "")
            if (name, accept) in seen or wanted and not wanted.search(f"{name} {accept}"):
                continue
            seen.add((name, accept))
            headers = {"Accept": accept} if accept else {}
            if media:
                headers["Content-Type"] = media
            asked = [pool.submit(s.ask, method, s.fill(path), dict(headers), body) for s in (oracle, ours)]
            answers = [a.result() for a in asked]
            if os.environ.get("SHOW"):
                print(name, accept, *(a[2][:600] for a in answers), sep="\n    ")
            compare(name, accept, [meaning(a, catalog) for a in answers])
        for name, accept, meanings in chains((oracle, ours), catalog) if not wanted or wanted.search("chain") else ():
            compare(name, accept, meanings)
    total = max(counts["all"], 1)
    print(f"{counts['all']} requests, {counts['identical']} identical; status the same {100 - 100 * counts['status'] / total:.2f} %, body the same {100 - 100 * counts['body'] / total:.2f} %")
    for cause, count in causes.most_common(60):
        print(f"{count:6} {cause}")


if __name__ == "__main__":
    main()
