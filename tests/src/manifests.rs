//! Manifests that several suites start from.

/// A Deployment of the demonstration server with quick probes, and a ClusterIP Service of the same name on
/// port 80.
pub fn web(name: &str, replicas: u32, version: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: server
        image: registry.company.com/web-app:{version}
        ports:
        - {{containerPort: 8080, name: http}}
        readinessProbe:
          httpGet: {{path: /health/ready, port: http}}
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: http}}
"#
    )
}

/// A pod that stays and has a shell, wget and nslookup.
pub fn client(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{role: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: registry.company.com/web-app:2.1.0
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"]
"#
    )
}

/// A pod that holds one connection to `url` and fails for good when it breaks.
pub fn holder(name: &str, url: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: holder
    image: registry.company.com/web-app:2.1.0
    args: [hold, "{url}"]
"#
    )
}
