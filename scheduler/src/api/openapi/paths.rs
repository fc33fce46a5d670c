//! The paths of a kind with their operations and parameters.

use serde_json::{Map, Value, json};

use super::schemas::{list_name, reference};
use crate::kinds::{Kind, Scope, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// All paths of `kind`.
pub(super) fn of_kind(kind: &Kind) -> Map<String, Value> {
    let base = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let plural = &kind.plural;
    let (collection, mut shared) = match kind.scope {
        Scope::Cluster => (format!("{base}/{plural}"), vec![]),
        Scope::Namespaced => (
            format!("{base}/namespaces/{{namespace}}/{plural}"),
            vec![path_parameter("namespace", "object name and auth scope, such as for teams and projects")],
        ),
    };
    shared.push(query("pretty", "string", "If 'true', then the output is pretty printed."));
    let mut out = Map::new();
    let operations = Operations { kind };
    if kind.scope == Scope::Namespaced {
        let item = json!({"get": operations.list(true), "parameters": [shared.last()]});
        out.insert(format!("{base}/{plural}"), item);
    }
    let item = json!({"get": operations.list(false), "post": operations.create(),
        "delete": operations.delete_collection(), "parameters": shared});
    out.insert(collection.clone(), item);
    shared.insert(0, path_parameter("name", &format!("name of the {}", kind.kind)));
    out.insert(
        format!("{collection}/{{name}}"),
        json!({"get": operations.read(""), "put": operations.replace("", kind.ty.name()),
            "patch": operations.patch("", kind.ty.name()), "delete": operations.delete(), "parameters": shared}),
    );
    for sub in &kind.subresources {
        let (name, mut item) = operations.subresource(*sub);
        item["parameters"] = json!(shared);
        out.insert(format!("{collection}/{{name}}/{name}"), item);
        if *sub == Subresource::Proxy {
            let mut item = operations.proxy("ProxyWithPath");
            let path = path_parameter("path", "path to the resource");
            item["parameters"] = shared.iter().cloned().chain([path]).collect();
            out.insert(format!("{collection}/{{name}}/{name}/{{path}}"), item);
        }
    }
    out
}

struct Operations<'a> {
    kind: &'a Kind,
}

impl Operations<'_> {
    fn operation(&self, action: &str, verb: &str, infix: &str, suffix: &str, response: &str) -> Value {
        let kind = self.kind;
        let group = match kind.group.split('.').next().unwrap_or_default() {
            "" => "core",
            group => group,
        };
        let title = |word: &str| format!("{}{}", word[..1].to_uppercase(), &word[1..]);
        let scope = if kind.scope == Scope::Namespaced { "Namespaced" } else { "" };
        let (group_title, version) = (title(group), title(&kind.version));
        json!({
            "tags": [format!("{group}_{}", kind.version)],
            "operationId": format!("{verb}{group_title}{version}{infix}{scope}{}{suffix}", kind.kind),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind":
                {"group": kind.group, "version": kind.version, "kind": kind.kind},
            "responses": {
                "200": {"description": "OK", "content": {"application/json": {"schema": reference(response)}}},
                "401": {"description": "Unauthorized"},
            },
        })
    }

    fn list(&self, everywhere: bool) -> Value {
        let suffix = if everywhere { "ForAllNamespaces" } else { "" };
        let mut out = self.operation("list", "list", "", suffix, &list_name(self.kind.ty.name()));
        if everywhere {
            let id = out["operationId"].as_str().unwrap_or_default().replace("Namespaced", "");
            out["operationId"] = id.into();
        }
        out["parameters"] = list_parameters().into();
        out
    }

    fn create(&self) -> Value {
        let mut out = self.operation("post", "create", "", "", self.kind.ty.name());
        out["parameters"] = write_parameters(&[]).into();
        out["requestBody"] = body(&["*/*"], self.kind.ty.name());
        out["responses"]["201"] = out["responses"]["200"].clone();
        out
    }

    fn delete_collection(&self) -> Value {
        let mut out =
            self.operation("deletecollection", "delete", "Collection", "", &format!("{META}.Status"));
        let mut parameters = list_parameters();
        parameters.extend(delete_parameters());
        out["parameters"] = parameters.into();
        out["requestBody"] = body(&["*/*"], &format!("{META}.DeleteOptions"));
        out
    }

    fn read(&self, suffix: &str) -> Value {
        self.operation("get", "read", "", suffix, self.kind.ty.name())
    }

    fn replace(&self, suffix: &str, definition: &str) -> Value {
        let mut out = self.operation("put", "replace", "", suffix, definition);
        out["parameters"] = write_parameters(&[]).into();
        out["requestBody"] = body(&["*/*"], definition);
        out
    }

    fn patch(&self, suffix: &str, definition: &str) -> Value {
        let mut out = self.operation("patch", "patch", "", suffix, definition);
        let force =
            query("force", "boolean", "Force is going to \"force\" Apply requests: take fields over.");
        out["parameters"] = write_parameters(&[force]).into();
        out["requestBody"] = body(&PATCHES, &format!("{META}.Patch"));
        out
    }

    fn delete(&self) -> Value {
        let mut out = self.operation("delete", "delete", "", "", &format!("{META}.Status"));
        out["parameters"] = delete_parameters().into();
        out["requestBody"] = body(&["*/*"], &format!("{META}.DeleteOptions"));
        out
    }

    fn proxy(&self, suffix: &str) -> Value {
        const METHODS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];
        let operation = |method: &str| {
            let infix = format!("{}{}", method[..1].to_uppercase(), &method[1..]);
            let mut out = self.operation("connect", "connect", &infix, suffix, &format!("{META}.Status"));
            out["responses"]["200"] =
                json!({"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}});
            let path = "Path is the part of the URL that goes to the backend.";
            out["parameters"] = json!([query("path", "string", path)]);
            out
        };
        METHODS.into_iter().map(|method| (method.to_owned(), operation(method))).collect::<Map<_, _>>().into()
    }

    fn subresource(&self, sub: Subresource) -> (&'static str, Value) {
        let whole = |suffix: &str, definition: &str| {
            json!({"get": self.operation("get", "read", "", suffix, definition),
                "put": self.replace(suffix, definition), "patch": self.patch(suffix, definition)})
        };
        let post = |suffix: &str, definition: &str| {
            let mut out = self.operation("post", "create", "", suffix, definition);
            out["parameters"] = write_parameters(&[]).into();
            out["requestBody"] = body(&["*/*"], definition);
            json!({ "post": out })
        };
        let connect = |suffix: &str, parameters: &[Value]| {
            let mut out = self.operation("connect", "connect", "", suffix, &format!("{META}.Status"));
            out["responses"]["200"] =
                json!({"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}});
            out["parameters"] = parameters.into();
            let mut post = out.clone();
            out["operationId"] = replace_verb(&out, "connectGet").into();
            post["operationId"] = replace_verb(&post, "connectPost").into();
            json!({"get": out, "post": post})
        };
        match sub {
            Subresource::Status => ("status", whole("Status", self.kind.ty.name())),
            Subresource::Scale => ("scale", whole("Scale", "io.k8s.api.autoscaling.v1.Scale")),
            Subresource::Binding => ("binding", post("Binding", "io.k8s.api.core.v1.Binding")),
            Subresource::Eviction => ("eviction", post("Eviction", "io.k8s.api.policy.v1.Eviction")),
            Subresource::Finalize => {
                ("finalize", json!({"put": self.replace("Finalize", self.kind.ty.name())}))
            }
            Subresource::Log => {
                let mut out = self.operation("get", "read", "", "Log", self.kind.ty.name());
                out["responses"]["200"] =
                    json!({"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}});
                out["parameters"] = log_parameters().into();
                ("log", json!({ "get": out }))
            }
            Subresource::Proxy => ("proxy", self.proxy("Proxy")),
            Subresource::Exec => ("exec", connect("Exec", &exec_parameters())),
            Subresource::Attach => ("attach", connect("Attach", &exec_parameters()[1..])),
            Subresource::PortForward => (
                "portforward",
                connect("Portforward", &[query("ports", "integer", "List of ports to forward")]),
            ),
        }
    }
}

fn replace_verb(operation: &Value, verb: &str) -> String {
    operation["operationId"].as_str().unwrap_or_default().replacen("connect", verb, 1)
}

fn body(media: &[&str], definition: &str) -> Value {
    let content: Map<String, Value> =
        media.iter().map(|m| ((*m).to_owned(), json!({"schema": reference(definition)}))).collect();
    json!({"required": true, "content": content})
}

fn query(name: &str, ty: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description,
        "schema": {"type": ty, "uniqueItems": true}})
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "uniqueItems": true}})
}

fn write_parameters(more: &[Value]) -> Vec<Value> {
    let dry_run = "When present, indicates that modifications should not be persisted. Valid values are: All";
    let manager = "A name associated with the actor or entity that is making these changes.";
    let validation = "How to handle objects that contain unknown or duplicate fields: Ignore, Warn (default) or \
                      Strict.";
    let mut out = vec![
        query("dryRun", "string", dry_run),
        query("fieldManager", "string", manager),
        query("fieldValidation", "string", validation),
    ];
    out.extend_from_slice(more);
    out
}

fn delete_parameters() -> Vec<Value> {
    let grace = "The duration in seconds before the object should be deleted; zero means immediately.";
    let policy = "Whether and how garbage collection will be performed: Orphan, Background or Foreground.";
    vec![
        query("dryRun", "string", "When present, indicates that modifications should not be persisted."),
        query("gracePeriodSeconds", "integer", grace),
        query("propagationPolicy", "string", policy),
    ]
}

fn list_parameters() -> Vec<Value> {
    [
        ("allowWatchBookmarks", "boolean", "Requests watch events with type BOOKMARK."),
        ("continue", "string", "The token of the previous chunk of a list with a limit."),
        ("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields."),
        ("labelSelector", "string", "A selector to restrict the list of returned objects by their labels."),
        ("limit", "integer", "The maximum number of responses to return for a list call."),
        (
            "resourceVersion",
            "string",
            "Sets a constraint on what resource versions a request may be served from.",
        ),
        ("resourceVersionMatch", "string", "Determines how resourceVersion is applied to list calls."),
        ("sendInitialEvents", "boolean", "Begin a watch with synthetic events for the present objects."),
        ("timeoutSeconds", "integer", "Timeout for the list or watch call."),
        ("watch", "boolean", "Watch for changes and return them as a stream of notifications."),
    ]
    .into_iter()
    .map(|(name, ty, description)| query(name, ty, description))
    .collect()
}

fn log_parameters() -> Vec<Value> {
    [
        ("container", "string", "The container for which to stream logs."),
        ("follow", "boolean", "Follow the log stream of the pod."),
        ("limitBytes", "integer", "The number of bytes to read before terminating the output."),
        ("previous", "boolean", "Return the logs of the previous run of the container."),
        ("sinceSeconds", "integer", "Show logs from so many seconds ago on."),
        ("tailLines", "integer", "The number of lines from the end of the logs to show."),
        ("timestamps", "boolean", "Add a timestamp at the beginning of every line."),
    ]
    .into_iter()
    .map(|(name, ty, description)| query(name, ty, description))
    .collect()
}

fn exec_parameters() -> Vec<Value> {
    [
        ("command", "string", "The remote command to execute."),
        ("container", "string", "The container in which to execute the command."),
        ("stderr", "boolean", "Redirect the standard error stream."),
        ("stdin", "boolean", "Redirect the standard input stream."),
        ("stdout", "boolean", "Redirect the standard output stream."),
        ("tty", "boolean", "Allocate a terminal."),
    ]
    .into_iter()
    .map(|(name, ty, description)| query(name, ty, description))
    .collect()
}
