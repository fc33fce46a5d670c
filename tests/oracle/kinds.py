"""The kinds that the scripts write: where they live, and a smallest object that is accepted."""

POD_SPEC = {"containers": [{"name": "c", "image": "i"}]}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC}
SCALED = {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}

NEWER_EVENT = {
    "regarding": {"namespace": "oracle", "kind": "Pod", "name": "p"}, "eventTime": "2026-01-02T03:04:05.678901Z", "action": "A",
    "reason": "R", "type": "Normal", "reportingController": "example.com/c", "reportingInstance": "i",
}

# kind: (API path, plural, namespaced, smallest object); of a kind that two groups have, the newer one is named with it
KINDS = {
    "Pod": ("/api/v1", "pods", True, {"spec": POD_SPEC}),
    "Service": ("/api/v1", "services", True, {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
    "ConfigMap": ("/api/v1", "configmaps", True, {}),
    "Secret": ("/api/v1", "secrets", True, {}),
    "Endpoints": ("/api/v1", "endpoints", True, {}),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True, {}),
    "Event": ("/api/v1", "events", True, {"involvedObject": {"namespace": "oracle", "kind": "Pod", "name": "p"}}),
    "Event.events.k8s.io": ("/apis/events.k8s.io/v1", "events", True, NEWER_EVENT),
    "PodTemplate": ("/api/v1", "podtemplates", True, {"template": TEMPLATE}),
    "ReplicationController": ("/api/v1", "replicationcontrollers", True, {"spec": {"selector": {"a": "b"}, "template": TEMPLATE}}),
    "Node": ("/api/v1", "nodes", False, {}),
    "Namespace": ("/api/v1", "namespaces", False, {}),
    "Deployment": ("/apis/apps/v1", "deployments", True, {"spec": SCALED}),
    "ReplicaSet": ("/apis/apps/v1", "replicasets", True, {"spec": SCALED}),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases", True, {}),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices", True, {"addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}]}),
    "Ingress": ("/apis/networking.k8s.io/v1", "ingresses", True, {"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
    "IngressClass": ("/apis/networking.k8s.io/v1", "ingressclasses", False, {"spec": {"controller": "example.com/c"}}),
    "RuntimeClass": ("/apis/node.k8s.io/v1", "runtimeclasses", False, {"handler": "h"}),
}
WITH_STATUS = {"Pod", "Service", "Node", "Namespace", "Deployment", "ReplicaSet", "ReplicationController", "Ingress"}
WITH_SCALE = {"Deployment", "ReplicaSet", "ReplicationController"}
NAMESPACE = "oracle"


def collection(kind):
    prefix, plural, namespaced, _ = KINDS[kind]
    return f"{prefix}/namespaces/{NAMESPACE}/{plural}" if namespaced else f"{prefix}/{plural}"


def api_version(kind):
    return KINDS[kind][0].removeprefix("/apis/").removeprefix("/api/")


def bare(kind):
    """The kind as objects name it."""
    return kind.split(".")[0]


def smallest(kind, name="o"):
    import copy

    return {"apiVersion": api_version(kind), "kind": bare(kind), "metadata": {"name": name}} | copy.deepcopy(KINDS[kind][3])


# What keeps the controllers of the server under test away: upstream's run in another program.
QUIET = {
    "Node": {"podCIDR": "10.9.0.0/24"},
    "Pod": {"schedulerName": "nobody", "serviceAccountName": "default", "automountServiceAccountToken": False},
    "Deployment": {"replicas": 0, "paused": True},
    "ReplicaSet": {"replicas": 0},
    "ReplicationController": {"replicas": 0},
}
# Their status is a controller's all the same.
CONTROLLED = {"Deployment", "ReplicaSet", "ReplicationController"}


def quiet(kind, name="o"):
    """A smallest object that no controller does much about."""
    obj = smallest(kind, name)
    if kind in QUIET:
        obj["spec"] = obj.get("spec", {}) | QUIET[kind]
    return obj


def served(server, kinds):
    """Those of `kinds` that a server has."""
    return [kind for kind in kinds if server.ask("GET", collection(kind)).code != 404]
