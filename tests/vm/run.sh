#!/bin/bash
# The suite inside the virtual machine: installs Gantry as its documentation tells a user to, and looks at what the
# kernel then does. Every line on standard output is a result that the host reads: `ok WHAT`, `not ok WHAT: WHY`,
# `# REMARK`; `done` comes last. Everything else goes to the console.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export KUBECONFIG=/root/kubeconfig
P=/payload
failed=0

# Bounded, so that a daemon that does not answer ends in a result and in its journal.
kubectl() { timeout 70 /usr/local/bin/kubectl "$@"; }
ok() { echo "ok $1"; }
not_ok() { echo "not ok $1: $2"; failed=1; }
equal() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "expected '$3', found '$2'"; fi; }
# Evaluates a condition until it holds: WHAT SECONDS CONDITION
until_true() {
  local end=$((SECONDS + $2))
  until eval "$3" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then not_ok "$1" "not within $2 s"; return 1; fi
    sleep 0.3
  done
  ok "$1 (within $2 s)"
}
# What the daemons said, when something cannot go on.
give_up() {
  { kubectl get pods,events -A -o wide; kubectl describe node
    top -bn1 | head -n 20
    journalctl --no-pager -n 80 -u gantry-agent -u gantry-scheduler; } >&2 2>&1
  echo "# $1: the console has the journal"
  echo "done"
  exit 1
}
# The directory of a process's cgroup.
cgroup_of() { echo "/sys/fs/cgroup$(cut -d: -f3 "/proc/$1/cgroup")"; }
# The init process of a container that runs this command line.
pid_of() { pgrep -o -x -f "$1"; }
status() { kubectl get --request-timeout=15s pod "$1" -o "jsonpath=$2"; }

echo "# $(. /etc/os-release; echo "$PRETTY_NAME"), Linux $(uname -r), systemd $(systemctl --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')"
equal "this is a host with cgroup v2" "$(stat -fc %T /sys/fs/cgroup)" cgroup2fs

# A network of the machine's own, with somebody on it: there is none outside.
modprobe veth
ip netns add outside
ip link add uplink0 type veth peer name eth0 netns outside
ip addr add 192.0.2.10/24 dev uplink0 && ip link set uplink0 up
ip -n outside addr add 192.0.2.1/24 dev eth0 && ip -n outside link set eth0 up && ip -n outside link set lo up
ip route add default via 192.0.2.1
# What a client on that network gets for a datagram "hello": ADDRESS PORT. (Its TCP would be translated at connect like
# that of this machine's pods, being a process of the same kernel; datagrams take the way that packets from a wire take.)
ask_from_outside() {
  timeout 10 ip netns exec outside bash -c \
    'exec 3<>"/dev/udp/$0/$1" && echo hello >&3 && timeout 3 head -n 1 <&3' "$@"
}

# The registry that stands for the tutorial's. Debian's configuration asks for a password.
cat > /etc/docker/registry/config.yml <<'END'
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}
http: {addr: 127.0.0.1:5000}
END
cp -r $P/registry/. /var/lib/docker-registry/ && chown -R docker-registry: /var/lib/docker-registry
systemctl start docker-registry containerd

# As README.md says: programs, units, configuration; then the scheduler, a token, the agent.
install -m 0755 $P/bin/* /usr/local/bin/
install -m 0644 $P/config/systemd/*.service /etc/systemd/system/
install -d -m 0755 /etc/gantry
install -m 0644 $P/config/scheduler.toml $P/config/agent.toml /etc/gantry/
systemctl daemon-reload
systemctl enable --now gantry-scheduler || give_up "the scheduler does not start"
ok "systemd starts the scheduler and hears that it is ready"
gantry-scheduler --config /etc/gantry/scheduler.toml kubeconfig --server https://127.0.0.1:6443 > $KUBECONFIG
(umask 077; gantry-scheduler --config /etc/gantry/scheduler.toml token create > /etc/gantry/bootstrap-token)
cp /var/lib/gantry/scheduler/pki/ca.crt /etc/gantry/ca.crt
sed -i -e 's/^address = .*/address = "127.0.0.1:6444"/' -e 's/^name = ""/name = "node-1"/' \
  -e 's/^plain_http = .*/plain_http = ["127.0.0.1:5000"]/' \
  -e 's|^\[images.aliases\]|&\n"registry.company.com/web-app" = "127.0.0.1:5000/gantry/web-app"\n"fluent/fluent-bit" = "127.0.0.1:5000/gantry/log-follower"|' \
  /etc/gantry/agent.toml
systemctl enable --now gantry-agent || give_up "the agent does not start"
ok "systemd starts the agent and hears that it is ready"
until_true "the node is Ready" 60 \
  '[ "$(kubectl get node node-1 -o "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}")" = True ]' ||
  give_up "no node"

kubectl apply -f $P/tutorial-fixtures.yaml >&2
kubectl apply -f $P/01-pod.yaml >&2 || give_up "the tutorial's Pod is refused"
until_true "the tutorial's Pod is ready, 2 of 2" 120 \
  '[ "$(status web-app-pod "{.status.containerStatuses[*].ready}")" = "true true" ]' || give_up "no pod"
web=$(pid_of '/bin/gantry-workload serve.*')
group=$(cgroup_of "$web")
echo "# web-server is process $web in $group"
equal "cpu.max is the limit of 500m" "$(cat "$group/cpu.max")" "50000 100000"
equal "memory.max is the limit of 512Mi" "$(cat "$group/memory.max")" 536870912
equal "cpu.weight is the request of 250m" "$(cat "$group/cpu.weight")" 10
# Below the pod: a directory for the container, and one for each of its attempts.
pod=$(dirname "$(dirname "$group")")
equal "the pod may use what its containers may: no limit, as one of them has none" \
  "$(cat "$pod/cpu.max") $(cat "$pod/memory.max")" "max 100000 max"
equal "it runs as user 1000" "$(stat -c %u "/proc/$web")" 1000

# Reached from another machine, with the configuration as it is shipped.
kubectl apply -f $P/service.yaml >&2
until_true "a client outside is answered on the NodePort by the pod" 30 \
  '[ "$(ask_from_outside 192.0.2.10 30081)" = "web-app-pod hello" ]'
until_true "the node's own processes are answered on the ClusterIP" 30 \
  '[ "$(exec 3<>"/dev/tcp/$(kubectl get service web-app-outside -o "jsonpath={.spec.clusterIP}")/80" && printf "GET /hostname HTTP/1.0\r\n\r\n" >&3 && tail -n 1 <&3)" = web-app-pod ]'

kubectl apply -f $P/pods.yaml >&2
until_true "the eater ends" 90 '[ -n "$(status eater "{.status.containerStatuses[0].state.terminated.reason}")" ]'
equal "the eater was killed for memory" \
  "$(status eater '{.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}')" \
  "OOMKilled 137"
equal "kubectl get shows it" "$(kubectl get pod eater --no-headers | awk '{print $3}')" OOMKilled

if until_true "the burner runs" 60 '[ -n "$(pid_of "/bin/gantry-workload burn 600")" ]'; then
  group=$(cgroup_of "$(pid_of '/bin/gantry-workload burn 600')")
  # Here the runtime may lower it, unlike on a machine without CAP_SYS_RESOURCE.
  equal "the burner, which is Guaranteed, has upstream's oom_score_adj" \
    "$(cat "/proc/$(pid_of '/bin/gantry-workload burn 600')/oom_score_adj")" -997
  equal "the node tells that classes are protected" \
    "$(kubectl get node node-1 -o 'jsonpath={.status.conditions[?(@.type=="OOMScoresEnforced")].status}')" True
  usage() { awk '$1 == "usage_usec" {print $2}' "$group/cpu.stat"; }
  before=$(usage); from=$(date +%s%N)
  sleep 6
  used=$(($(usage) - before)); took=$((($(date +%s%N) - from) / 1000))
  share=$((used * 100 / took))
  echo "# the burner had $share % of a CPU for $((took / 1000000)) s"
  if [ $share -ge 40 ] && [ $share -le 55 ]; then ok "the burner has half a CPU"; else not_ok "the burner has half a CPU" "$share %"; fi
  throttled=$(awk '$1 == "nr_throttled" {print $2}' "$group/cpu.stat")
  if [ "$throttled" -gt 0 ]; then ok "the burner is throttled"; else not_ok "the burner is throttled" "nr_throttled is $throttled"; fi
fi

until_true "kubectl top shows the pods" 60 'kubectl top pod web-app-pod --no-headers'
started=$(stat -c %Y "/proc/$web"); restarts=$(status web-app-pod '{.status.containerStatuses[*].restartCount}')
systemctl stop gantry-agent
equal "the agent is stopped" "$(systemctl is-active gantry-agent)" inactive
equal "its containers run on" "$(pid_of '/bin/gantry-workload serve.*')" "$web"
systemctl start gantry-agent || give_up "the agent does not start again"
until_true "the node is Ready again" 60 \
  '[ "$(kubectl get node node-1 -o "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}")" = True ]'
systemctl restart gantry-agent || not_ok "the agent restarts" "systemctl restart failed"
equal "the same process after stop, start and restart" \
  "$(pid_of '/bin/gantry-workload serve.*') $(stat -c %Y "/proc/$web")" "$web $started"
equal "no restart is counted" "$(status web-app-pod '{.status.containerStatuses[*].restartCount}')" "$restarts"
kubectl delete service web-app-outside >&2
kubectl delete pod web-app-pod eater burner --wait --timeout=60s >&2
until_true "deleted pods leave no cgroup" 30 '[ -z "$(find /sys/fs/cgroup -type d -path "*pod*" -name "web-server")" ]'
until_true "deleted pods leave no link" 30 '! ip -o link | grep -q ": gnt"'
[ $failed = 0 ] || { journalctl --no-pager -n 150 -u gantry-agent -u gantry-scheduler >&2; }
echo "done"
