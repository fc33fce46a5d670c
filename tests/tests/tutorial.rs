//! The tutorial's manifests, byte for byte, with the real kubectl: first each of its traps gives the outcome that
//! users of Kubernetes know, then, with the fixtures, everything comes up.

use anyhow::{Result, ensure};
use gantry_tests::{Cluster, Kubectl, eventually, project_file, tutorial};
use serde_json::Value;

/// One walk through the whole document, in its order: later steps build on earlier ones.
#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn the_tutorial_runs_as_it_is() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    without_fixtures(&kubectl)?;
    kubectl.apply_file(None, &project_file("config/examples/tutorial-fixtures.yaml"))?;
    the_pod_recovers(&kubectl)?;
    for file in [
        "06-configmap-secret.yaml",
        "02-deployment.yaml",
        "03-service-loadbalancer.yaml",
        "04-service-clusterip.yaml",
    ] {
        kubectl.apply_file(None, &tutorial(file))?;
    }
    config_map_and_secret_are_exact(&kubectl)?;
    kubectl.ok("-n production rollout status deployment/web-app-deployment --timeout=120s")?;
    let deployment = kubectl.ok("-n production get deployment web-app-deployment --no-headers")?;
    ensure!(deployment.split_whitespace().nth(1) == Some("5/5"), "{deployment}");
    replicas_are_spread(&kubectl)?;
    the_load_balancer_has_an_address(&kubectl)?;
    the_database_service_has_no_endpoints(&kubectl)?;
    the_database_answers_through_its_service(&kubectl)?;
    for file in ["05-hpa.yaml", "07-statefulset.yaml"] {
        let refusal = kubectl.fails(&format!("apply -f {}", tutorial(file).display()))?;
        ensure!(refusal.contains("no matches for kind"), "{refusal}");
    }
    // Applying everything again changes nothing.
    let again = kubectl.ok(&format!("apply -f {}", tutorial("02-deployment.yaml").display()))?;
    ensure!(again.contains("unchanged"), "{again}");
    clean_up(&kubectl)
}

/// Traps 1 to 4 before anything that the files need is there.
fn without_fixtures(kubectl: &Kubectl) -> Result<()> {
    let refusal = kubectl.fails(&format!("apply -f {}", tutorial("02-deployment.yaml").display()))?;
    ensure!(refusal.contains(r#"namespaces "production" not found"#), "{refusal}");
    kubectl.apply_file(None, &tutorial("01-pod.yaml"))?;
    eventually("the pod to be Pending for want of a labelled node", || {
        let pod = kubectl.json("get pod web-app-pod")?;
        let message = condition(&pod, "PodScheduled", "message");
        Ok(if message.contains("didn't match Pod's node affinity/selector") { Ok(()) } else { Err(message) })
    })?;
    kubectl.ok("label node node-1 workload-type=web")?;
    eventually("CreateContainerConfigError that names the secret", || {
        let pod = kubectl.json("get pod web-app-pod")?;
        let waiting = &container(&pod, "web-server")["state"]["waiting"];
        let expected = waiting["reason"] == "CreateContainerConfigError"
            && waiting["message"]
                .as_str()
                .is_some_and(|m| m.contains(r#"secret "db-credentials" not found"#));
        Ok(if expected { Ok(()) } else { Err(waiting.to_string()) })
    })
}

/// Trap 2 heals by itself: nothing but the secret is applied.
fn the_pod_recovers(kubectl: &Kubectl) -> Result<()> {
    eventually("web-app-pod 2/2", || {
        let line = kubectl.ok("get pod web-app-pod --no-headers")?;
        Ok(if line.split_whitespace().nth(1) == Some("2/2") { Ok(()) } else { Err(line) })
    })?;
    // Trap 5: the volume belongs to the group of the pod, and its processes to the user.
    let listing = kubectl.ok("exec web-app-pod -c log-forwarder -- stat -c %g:%a /var/log/app")?;
    ensure!(listing.trim() == "2000:2777", "emptyDir is {listing}");
    let id = kubectl.ok("exec web-app-pod -c web-server -- id -u")?;
    ensure!(id.trim() == "1000", "runs as {id}");
    let environment = kubectl.ok("exec web-app-pod -c web-server -- env")?;
    ensure!(environment.contains("DATABASE_URL=postgresql://user:password@"), "{environment}");
    ensure!(environment.contains("LOG_LEVEL=info"), "{environment}");
    // Applied again as it is, with its tolerations, it is the same pod.
    let again = kubectl.apply_file(None, &tutorial("01-pod.yaml"))?;
    ensure!(
        again.contains("pod/web-app-pod configured") || again.contains("pod/web-app-pod unchanged"),
        "{again}"
    );
    Ok(())
}

/// Trap 15: block literals keep their newlines, stringData becomes data.
fn config_map_and_secret_are_exact(kubectl: &Kubectl) -> Result<()> {
    let map = kubectl.json("-n production get configmap app-config")?;
    let properties = "server.port=8080\nlogging.level=info\nfeature.new-checkout=true\ncache.ttl=3600\n";
    ensure!(map["data"]["app.properties"] == properties, "{map}");
    let secret = kubectl.json("-n production get secret db-credentials")?;
    ensure!(
        secret["data"]["api-key"] == "c2stcHJvZC1hYmMxMjN4eXo3ODk=" && secret.get("stringData").is_none()
    );
    Ok(())
}

/// Trap 7: preferred anti-affinity uses both nodes.
fn replicas_are_spread(kubectl: &Kubectl) -> Result<()> {
    let pods = kubectl.json("-n production get pods -l app=web-app")?;
    let on = |node: &str| items(&pods).iter().filter(|p| p["spec"]["nodeName"] == node).count();
    ensure!(on("node-1") >= 2 && on("node-2") >= 2, "{} on node-1, {} on node-2", on("node-1"), on("node-2"));
    Ok(())
}

/// Trap 8.
fn the_load_balancer_has_an_address(kubectl: &Kubectl) -> Result<()> {
    eventually("an external address", || {
        let service = kubectl.json("-n production get service web-app-service")?;
        ensure!(
            service["metadata"]["annotations"]["service.beta.kubernetes.io/aws-load-balancer-type"] == "nlb"
        );
        let address = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        Ok(if address.is_string() { Ok(()) } else { Err(service["status"].to_string()) })
    })
}

/// Trap 9: no pod carries both labels.
fn the_database_service_has_no_endpoints(kubectl: &Kubectl) -> Result<()> {
    let slices =
        kubectl.json("-n production get endpointslices -l kubernetes.io/service-name=database-service")?;
    for slice in items(&slices) {
        ensure!(slice["endpoints"].as_array().is_none_or(Vec::is_empty), "{slice}");
    }
    let described = kubectl.ok("-n production describe service database-service")?;
    ensure!(described.contains("Endpoints:"), "{described}");
    Ok(())
}

/// The container of the StatefulSet, as a pod of its own with the labels that the service asks for.
const DATABASE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: postgres, namespace: production, labels: {app: postgres, tier: database}}
spec:
  containers:
  - name: postgres
    image: postgres:16.1
    ports: [{containerPort: 5432, name: postgres}]
    env:
    - name: POSTGRES_PASSWORD
      valueFrom: {secretKeyRef: {name: postgres-secret, key: password}}
    - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
    volumeMounts: [{name: postgres-storage, mountPath: /var/lib/postgresql/data}]
  volumes: [{name: postgres-storage, emptyDir: {}}]
";

fn the_database_answers_through_its_service(kubectl: &Kubectl) -> Result<()> {
    let applied = kubectl.apply(DATABASE)?;
    ensure!(applied.success, "{applied:?}");
    kubectl.ok("-n production wait pod/postgres --for=condition=Ready --timeout=120s")?;
    let ask = "PGPASSWORD=change-me psql -h database-service -U postgres -tAc 'select 41 + 1'";
    let words = ["-n", "production", "exec", "postgres", "--", "sh", "-c", ask];
    eventually("an answer of the database", || {
        let output = kubectl.run_args(&words, None)?;
        Ok(if output.stdout.trim() == "42" { Ok(()) } else { Err(output.stdout + &output.stderr) })
    })
}

fn clean_up(kubectl: &Kubectl) -> Result<()> {
    kubectl.ok("delete pod web-app-pod --wait")?;
    kubectl.ok("delete secret db-credentials")?;
    kubectl.ok("delete namespace production --wait --timeout=120s")?;
    kubectl.ok("label node node-1 workload-type-")?;
    Ok(())
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn condition(object: &Value, kind: &str, field: &str) -> String {
    let all = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let found = all.iter().find(|c| c["type"] == kind);
    found.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = pod["status"]["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|c| c["name"] == name).unwrap_or(&Value::Null)
}
