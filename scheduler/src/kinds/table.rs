//! The rows themselves: one constant per kind, in the order of discovery.

use super::{
    Kind, Scope, Subresource, View,
    base::{BASE, keep_status},
    cluster, config, endpoints, events, ingress, pod, print, replication, runtime_class, service, workload,
};
use crate::model::Resource;

/// Every kind.
pub(super) static KINDS: &[Kind] = &[
    CONFIG_MAP,
    ENDPOINTS,
    EVENT,
    NAMESPACE,
    NODE,
    POD,
    replication::POD_TEMPLATE,
    replication::REPLICATION_CONTROLLER,
    SECRET,
    SERVICE_ACCOUNT,
    SERVICE,
    DEPLOYMENT,
    REPLICA_SET,
    LEASE,
    ENDPOINT_SLICE,
    EVENT_VIEW,
    ingress::INGRESS_CLASS,
    ingress::INGRESS,
    runtime_class::RUNTIME_CLASS,
];

const NAMESPACE: Kind = Kind {
    resource: Resource::NAMESPACES,
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status, Subresource::Finalize],
    definition: "io.k8s.api.core.v1.Namespace",
    fields: &["status.phase"],
    prepare_create: cluster::prepare_namespace,
    defaults: cluster::namespace_defaults,
    prepare_update: |new, old| {
        keep_status(new, old);
        // Finalizers of the content go through `finalize` alone.
        new["spec"] = old["spec"].clone();
    },
    validate: cluster::validate_namespace,
    validate_sub: cluster::validate_namespace_sub,
    columns: print::NAMESPACE_COLUMNS,
    cells: print::namespace,
    ..BASE
};

const NODE: Kind = Kind {
    resource: Resource::NODES,
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status, Subresource::Proxy],
    definition: "io.k8s.api.core.v1.Node",
    fields: &["spec.unschedulable"],
    defaults: cluster::node_defaults,
    prepare_create: cluster::prepare_node,
    prepare_update: |new, old| {
        keep_status(new, old);
        cluster::prepare_node(new);
    },
    prepare_status: |new, _| cluster::prepare_node(new),
    validate: cluster::validate_node,
    validate_sub: |_, new, old| cluster::validate_node_status(new, old),
    warnings: cluster::node_warnings,
    update_warnings: |new, _| cluster::node_warnings(new),
    columns: print::NODE_COLUMNS,
    cells: print::node,
    ..BASE
};

const POD: Kind = Kind {
    resource: Resource::PODS,
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::Status,
        Subresource::Binding,
        Subresource::Log,
        Subresource::Exec,
        Subresource::Attach,
        Subresource::PortForward,
        Subresource::Proxy,
        Subresource::Eviction,
    ],
    definition: "io.k8s.api.core.v1.Pod",
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        // Taken in selectors and empty on every pod, as upstream.
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    labels: &[("spec.host", "spec.nodeName")],
    generation: true,
    // Old kubelets broke the owners of pods when they wrote a status.
    status_keeps: &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
    defaults: pod::defaults::pod,
    prepare_create: pod::prepare::new_pod,
    prepare_update: |new, old| {
        keep_status(new, old);
        pod::prepare::changed_pod(new, old);
    },
    prepare_status: pod::status::prepare,
    validate: pod::validate::pod,
    validate_sub: |_, new, old| pod::validate::pod(new, Some(old)),
    warnings: pod::warnings::pod,
    early_warnings: pod::prepare::profile_warnings,
    status_warnings: pod::status::address_warnings,
    columns: print::POD_COLUMNS,
    cells: print::pod,
    ..BASE
};

const SERVICE: Kind = Kind {
    resource: Resource::SERVICES,
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Proxy],
    definition: "io.k8s.api.core.v1.Service",
    fields: &["spec.clusterIP", "spec.type"],
    defaults: service::defaults,
    create_on_update: true,
    prepare_create: service::prepare_create,
    prepare_update: |new, old| {
        keep_status(new, old);
        service::prepare_update(new, old);
    },
    validate: service::validate::service,
    validate_sub: |_, new, old| service::validate::status(new, old),
    warnings: service::warnings::warnings,
    update_warnings: |new, _| service::warnings::warnings(new),
    status_warnings: service::warnings::ingress_addresses,
    columns: print::SERVICE_COLUMNS,
    cells: print::service,
    ..BASE
};

const ENDPOINTS: Kind = Kind {
    resource: Resource::ENDPOINTS,
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    definition: "io.k8s.api.core.v1.Endpoints",
    defaults: endpoints::defaults,
    create_on_update: true,
    validate: endpoints::validate,
    warnings: endpoints::warnings,
    update_warnings: |new, _| endpoints::warnings(new),
    deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    columns: print::ENDPOINTS_COLUMNS,
    cells: print::endpoints,
    ..BASE
};

const CONFIG_MAP: Kind = Kind {
    resource: Resource::CONFIG_MAPS,
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    definition: "io.k8s.api.core.v1.ConfigMap",
    validate: config::validate_config_map,
    columns: print::CONFIG_MAP_COLUMNS,
    cells: print::config_map,
    ..BASE
};

const SECRET: Kind = Kind {
    resource: Resource::SECRETS,
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    definition: "io.k8s.api.core.v1.Secret",
    fields: &["type"],
    defaults: config::secret_defaults,
    validate: config::validate_secret,
    columns: print::SECRET_COLUMNS,
    cells: print::secret,
    ..BASE
};

const SERVICE_ACCOUNT: Kind = Kind {
    resource: Resource::SERVICE_ACCOUNTS,
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    definition: "io.k8s.api.core.v1.ServiceAccount",
    prepare_create: cluster::prepare_service_account,
    prepare_update: |new, _| cluster::prepare_service_account(new),
    validate: cluster::validate_service_account,
    warnings: cluster::service_account_warnings,
    update_warnings: cluster::service_account_update_warnings,
    columns: print::SERVICE_ACCOUNT_COLUMNS,
    cells: print::service_account,
    ..BASE
};

/// Who reports an event: the component of its source, or else the reporting one.
const SOURCE: &str = "source.component|reportingComponent";

const EVENT: Kind = Kind {
    resource: Resource::EVENTS,
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    definition: "io.k8s.api.core.v1.Event",
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        SOURCE,
        "type",
    ],
    labels: &[("source", SOURCE)],
    create_on_update: true,
    cached: false,
    validate: events::validate::core,
    columns: print::EVENT_COLUMNS,
    cells: print::event,
    ..BASE
};

const EVENT_VIEW: Kind = Kind {
    group: "events.k8s.io",
    // Without a short name: `ev` means core events, and kubectl would warn at each use that it could mean these.
    short_names: &[],
    definition: "io.k8s.api.events.v1.Event",
    fields: &["reason", "type"],
    labels: events::LABELS,
    view: Some(View { from_stored: events::from_stored, to_stored: events::to_stored }),
    validate: events::validate::newer,
    ..EVENT
};

const LEASE: Kind = Kind {
    resource: Resource::LEASES,
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    definition: "io.k8s.api.coordination.v1.Lease",
    create_on_update: true,
    revision_on_update: true,
    prepare_create: cluster::prepare_lease,
    prepare_update: |new, _| cluster::prepare_lease(new),
    validate: cluster::validate_lease,
    columns: print::LEASE_COLUMNS,
    cells: print::lease,
    ..BASE
};

const ENDPOINT_SLICE: Kind = Kind {
    resource: Resource::ENDPOINT_SLICES,
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    defaults: endpoints::slice_defaults,
    generation: true,
    counts: endpoints::slice_changed,
    prepare_create: endpoints::drop_topology,
    prepare_update: endpoints::prepare_slice_update,
    validate: endpoints::validate_slice,
    warnings: endpoints::slice_warnings,
    update_warnings: endpoints::slice_update_warnings,
    columns: print::ENDPOINT_SLICE_COLUMNS,
    cells: print::endpoint_slice,
    ..BASE
};

const DEPLOYMENT: Kind = Kind {
    resource: Resource::DEPLOYMENTS,
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    definition: "io.k8s.api.apps.v1.Deployment",
    defaults: workload::deployment_defaults,
    generation: true,
    counts: workload::deployment_changed,
    status_keeps: &[&["spec"], &["metadata", "labels"]],
    prepare_create: workload::template::prepare_create,
    prepare_update: workload::template::prepare_update,
    validate: workload::validate_deployment,
    validate_sub: |_, new, old| workload::validate_deployment_status(new, old),
    warnings: workload::template::warnings,
    update_warnings: workload::template::update_warnings,
    columns: print::DEPLOYMENT_COLUMNS,
    cells: print::deployment,
    ..BASE
};

const REPLICA_SET: Kind = Kind {
    resource: Resource::REPLICA_SETS,
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    defaults: workload::replica_set_defaults,
    generation: true,
    prepare_create: workload::template::prepare_create,
    prepare_update: workload::template::prepare_update,
    validate: workload::validate_replica_set,
    validate_sub: |_, new, old| workload::validate_replica_set_status(new, old),
    warnings: workload::template::warnings,
    update_warnings: workload::template::update_warnings,
    columns: print::REPLICA_SET_COLUMNS,
    cells: print::replica_set,
    ..BASE
};
