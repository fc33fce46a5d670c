use super::*;

/// A directory that looks like a cgroup v2 mount. The kernel's part, to make the files of a new directory, is played
/// by `populate`.
struct Mount(tempfile::TempDir);

impl Mount {
    fn with(controllers: &str) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        for directory in ["", "gantry", "gantry/pods", "gantry/pods/burstable", "gantry/pods/besteffort"] {
            mount.populate(directory, controllers);
        }
        mount
    }

    fn populate(&self, directory: &str, controllers: &str) {
        fs::create_dir_all(self.0.path().join(directory)).unwrap();
        fs::write(self.0.path().join(directory).join("cgroup.controllers"), controllers).unwrap();
        // Setting one of its two numbers takes the other from it.
        fs::write(self.0.path().join(directory).join("cpu.max"), "max 100000\n").unwrap();
    }

    fn pod(&self, class: &str, uid: &str) -> PodUid {
        self.populate(&format!("gantry/pods/{class}pod{uid}"), "cpu memory pids");
        PodUid::from(uid)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.path().join("gantry/pods").join(file)).unwrap()
    }

    fn open(&self, required: bool) -> Result<CgroupTree, CgroupError> {
        CgroupTree::open(&TreeSettings {
            mount: self.0.path().to_owned(),
            root: Some("/gantry".into()),
            required,
            allocatable: Limits { memory_max: Some(1 << 30), ..Limits::default() },
        })
    }
}

#[test]
fn takes_the_controllers_and_limits_all_pods_together() {
    let mount = Mount::with("cpuset cpu io memory pids");
    let tree = mount.open(true).unwrap();
    assert_eq!(tree.enforcement(), Enforcement::Enforced);
    let given = fs::read_to_string(mount.0.path().join("gantry/cgroup.subtree_control")).unwrap();
    assert_eq!(given, "+cpu +memory +pids +io +cpuset");
    assert_eq!(mount.read("memory.max"), (1 << 30).to_string());
    assert_eq!(mount.read("besteffort/cpu.weight"), "1");
}

#[test]
fn refuses_to_start_without_controllers_and_says_what_to_do() {
    let mount = Mount::with("hugetlb");
    let error = mount.open(true).unwrap_err().to_string();
    assert!(error.contains("the cgroup v2 controllers cpu, memory, pids are not available"), "{error}");
    assert!(error.contains("Delegate=yes") && error.contains("best-effort"), "{error}");
}

#[test]
fn best_effort_makes_directories_and_sets_nothing() {
    let mount = Mount::with("memory");
    let tree = mount.open(false).unwrap();
    assert_eq!(tree.enforcement(), Enforcement::BestEffort { missing: vec!["cpu".into(), "pids".into()] });
    let limits = Limits { memory_max: Some(1), ..Limits::default() };
    tree.ensure_pod(&PodUid::from("a"), Qos::Burstable, &limits).unwrap();
    let directory = mount.0.path().join("gantry/pods/burstable/poda");
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    assert_eq!(tree.list_pods().unwrap(), [PodUid::from("a")]);
}

#[test]
fn a_pods_limits_are_set_and_taken_back() {
    let mount = Mount::with("cpu memory pids");
    let tree = mount.open(true).unwrap();
    let pod = mount.pod("", "a");
    let limits = Limits {
        cpu_weight: Some(39),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_max: Some(4096),
        pids_max: Some(7),
    };
    tree.ensure_pod(&pod, Qos::Guaranteed, &limits).unwrap();
    let values =
        || ["cpu.weight", "cpu.max", "memory.max", "pids.max"].map(|f| mount.read(&format!("poda/{f}")));
    assert_eq!(values(), ["39", "50000 100000", "4096", "7"]);
    tree.ensure_pod(&pod, Qos::Guaranteed, &Limits::default()).unwrap();
    assert_eq!(values(), ["100", "max 100000", "max", "max"]);
}

#[test]
fn burstable_pods_weigh_together_what_they_weigh_each() {
    let mount = Mount::with("cpu memory pids");
    let tree = mount.open(true).unwrap();
    for (uid, weight) in [("a", 20), ("b", 30)] {
        let pod = mount.pod("burstable/", uid);
        tree.ensure_pod(&pod, Qos::Burstable, &Limits { cpu_weight: Some(weight), ..Limits::default() })
            .unwrap();
    }
    assert_eq!(mount.read("burstable/cpu.weight"), "50");
}

#[test]
fn paths_are_those_the_kubelet_has() {
    let tree = Mount::with("cpu memory pids").open(true).unwrap();
    let path = |qos| tree.container_path(&PodUid::from("u"), qos, "web");
    assert_eq!(path(Qos::Guaranteed), "/gantry/pods/podu/web");
    assert_eq!(path(Qos::Burstable), "/gantry/pods/burstable/podu/web");
    assert_eq!(path(Qos::BestEffort), "/gantry/pods/besteffort/podu/web");
}

#[test]
fn own_cgroup_is_the_one_above_the_agents_leaf() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join(SELF)).unwrap();
    for (line, expected) in [
        ("0::/system.slice/gantry-agent.service\n", "system.slice/gantry-agent.service"),
        ("1:cpu:/x\n0::/system.slice/gantry-agent.service/agent\n", "system.slice/gantry-agent.service"),
        ("0::/\n", ""),
    ] {
        fs::write(directory.path().join(SELF).join("cgroup"), line).unwrap();
        assert_eq!(own_cgroup(&Proc::at(directory.path())).unwrap(), PathBuf::from(expected));
    }
}

#[test]
fn processes_of_the_root_move_into_a_leaf() {
    let mount = Mount::with("cpu memory pids");
    fs::write(mount.0.path().join("gantry/cgroup.procs"), "41\n42\n0\n").unwrap();
    mount.open(true).unwrap();
    let moved = fs::read_to_string(mount.0.path().join("gantry/agent/cgroup.procs")).unwrap();
    assert_eq!(moved, "42", "one write for each, the last one seen here");
}
