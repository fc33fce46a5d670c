//! A container's environment with upstream's order, precedence and messages. A missing secret, config map or key
//! is an error whose text the pod's status shows under `CreateContainerConfigError`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource};

use super::{context::Context, expand::expand, fields, links::service_variables};
use crate::model::{DesiredPod, ObservedPod, spec as pod};

/// Name and value in the order the process gets them, without duplicates.
pub(super) type Environment = Vec<(String, String)>;

/// All that a container finds in its environment besides what its image says.
pub(super) fn environment(
    context: &Context<'_>,
    pod: &DesiredPod,
    seen: &ObservedPod,
    container: &Container,
) -> Result<Environment, String> {
    let links = pod.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let table = context.desired.table.as_ref();
    let table = table.ok_or("services have not yet been read at least once, cannot construct envvars")?;
    let mut services = service_variables(&table.services, &pod.name.namespace, links);
    let mut ordered = Ordered::default();
    ordered.set("HOSTNAME".to_owned(), hostname(context, pod));
    for source in container.env_from.iter().flatten() {
        for (key, value) in from_source(context, pod, source)? {
            services.remove(&key);
            ordered.set(key, value);
        }
    }
    // References see the variables before them and those of the services, never the later ones.
    let mut known = services.clone();
    known.extend(ordered.values.clone());
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, &known)),
            (_, Some(source)) => value_from(context, pod, seen, container, variable, source)?,
            _ => Some(String::new()),
        };
        // An optional reference to nothing leaves the variable unset.
        let Some(value) = value else { continue };
        known.insert(variable.name.clone(), value.clone());
        services.remove(&variable.name);
        ordered.set(variable.name.clone(), value);
    }
    let mut all = ordered.into_pairs();
    all.extend(services);
    Ok(all)
}

/// What `$(VAR)` in commands, arguments and subPathExpr may refer to.
pub(super) fn as_map(environment: &Environment) -> BTreeMap<String, String> {
    environment.iter().cloned().collect()
}

fn hostname(context: &Context<'_>, pod: &DesiredPod) -> String {
    match pod::host_network(&pod.pod) {
        true => context.node.name.to_string(),
        false => pod::name_of(pod, context.domain()),
    }
}

/// Insertion order with replacement in place.
#[derive(Default)]
struct Ordered {
    names: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Ordered {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.names.push(name);
        }
    }

    fn into_pairs(mut self) -> Environment {
        let values = &mut self.values;
        self.names.into_iter().filter_map(|name| values.remove(&name).map(|value| (name, value))).collect()
    }
}

fn from_source(
    context: &Context<'_>,
    pod: &DesiredPod,
    source: &EnvFromSource,
) -> Result<Environment, String> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let mut pairs = Environment::new();
    if let Some(reference) = &source.config_map_ref {
        match context.config_map(&pod.name.namespace, &reference.name) {
            Some(map) => {
                pairs.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
            }
            None if reference.optional == Some(true) => {}
            None => return Err(format!("configmap {:?} not found", reference.name)),
        }
    }
    if let Some(reference) = &source.secret_ref {
        match context.secret(&pod.name.namespace, &reference.name) {
            Some(secret) => {
                pairs.extend(secret.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), text(&v.0))));
            }
            None if reference.optional == Some(true) => {}
            None => return Err(format!("secret {:?} not found", reference.name)),
        }
    }
    Ok(pairs)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value_from(
    context: &Context<'_>,
    pod: &DesiredPod,
    seen: &ObservedPod,
    container: &Container,
    variable: &EnvVar,
    source: &EnvVarSource,
) -> Result<Option<String>, String> {
    let namespace = &pod.name.namespace;
    if let Some(reference) = &source.field_ref {
        return fields::field(context, pod, seen, &reference.field_path).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        let spec = pod.pod.spec.as_ref();
        let named = reference.container_name.as_deref().filter(|name| !name.is_empty());
        let of = named.and_then(|name| pod::find(spec?, &name.into())).unwrap_or(container);
        return fields::resource(context, pod, of, reference).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = context.config_map(namespace, &reference.name) else {
            return absent(optional, format!("configmap {:?} not found", reference.name));
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => absent(
                optional,
                format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name),
            ),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = context.secret(namespace, &reference.name) else {
            return absent(optional, format!("secret {:?} not found", reference.name));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(text(&value.0))),
            None => absent(
                optional,
                format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name),
            ),
        };
    }
    if source.file_key_ref.is_some() {
        return Err(format!(
            "environment variable {:?}: fileKeyRef is not supported; use a secretKeyRef or configMapKeyRef",
            variable.name
        ));
    }
    Ok(Some(String::new()))
}

fn absent(optional: bool, message: String) -> Result<Option<String>, String> {
    if optional { Ok(None) } else { Err(message) }
}
