//! The images adapter against a real registry and a real containerd.

use std::{
    process::Command,
    sync::{Arc, Mutex},
};

use gantry_agent::{
    images::{ContainerdImages, ImageError, ImageSettings, Images, Progress},
    runtime::{ContainerSpec, Runtime},
};

use crate::{
    host::Host,
    image::{Compression, TestImage},
    log,
    registry::Registry,
    run, spec,
};

fn layered() -> TestImage {
    let layers = vec![
        ("one".to_owned(), b"first".to_vec(), Compression::Zstd),
        ("two".to_owned(), b"second".to_vec(), Compression::None),
        ("three".to_owned(), vec![7; 3 << 20], Compression::Gzip),
    ];
    TestImage { layers, index: true, ..TestImage::default() }
}

fn images(host: &Host, aliases: &[(&str, String)]) -> ContainerdImages {
    let aliases = aliases.iter().map(|(from, to)| ((*from).to_owned(), to.clone())).collect();
    ContainerdImages::new(host.client(), "overlayfs", ImageSettings { aliases, ..ImageSettings::default() })
}

fn quiet() -> Arc<dyn Fn(Progress) + Send + Sync> {
    Arc::new(|_| {})
}

fn ctr(host: &Host, args: &[&str]) -> String {
    let output = Command::new("ctr")
        .arg("--address")
        .arg(host.socket())
        .args(["-n", host.namespace()])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn an_aliased_image_is_pulled_unpacked_run_and_survives_garbage_collection() {
    let host = Host::start().await;
    let registry = Registry::start(host.path());
    registry.push(host.path(), &layered(), "web-app:2.1.0");
    let written = "registry.company.com/web-app:2.1.0";
    let images = images(&host, &[("registry.company.com/web-app", format!("{}/web-app", registry.address))]);

    assert!(images.find(written).await.unwrap().is_none());
    let seen = Arc::new(Mutex::new(Progress::default()));
    let keep = seen.clone();
    let told: Arc<dyn Fn(Progress) + Send + Sync> = Arc::new(move |p| *keep.lock().unwrap() = p);
    // Everybody who asks at once shares one pull.
    let all = futures::future::join_all((0..5).map(|_| images.pull(written, &[], told.clone()))).await;
    let pulled = all.into_iter().map(Result::unwrap).next().unwrap();
    assert!(pulled.id.starts_with("registry.company.com/web-app@sha256:"), "{}", pulled.id);
    assert!(pulled.size > 1 << 20);
    assert_eq!(images.find(written).await.unwrap().unwrap(), pulled);
    assert_eq!(images.list().await.unwrap(), [written]);

    // Nothing is garbage: neither layers nor snapshots. A collection follows a synchronous deletion.
    ctr(&host, &["leases", "create", "--id", "trigger"]);
    ctr(&host, &["leases", "rm", "--sync", "trigger"]);
    assert!(
        ctr(&host, &["images", "check"]).contains("complete (5/5)"),
        "{}",
        ctr(&host, &["images", "check"])
    );
    let script = "cat /one /two; wc -c < /three; touch /x; ls /x";
    let spec = ContainerSpec { image: pulled.local_name, ..spec(&host, 0, script) };
    assert_eq!(run(&host, spec).await, (0, "firstsecond3145728\n/x\n".into()));
    assert!(ctr(&host, &["leases", "ls", "-q"]).is_empty(), "a pull's lease ends with it");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn what_cannot_be_pulled_says_why_and_comes_once_it_is_there() {
    let host = Host::start().await;
    let registry = Registry::start(host.path());
    let images = images(&host, &[("gone.example", "127.0.0.1:1".into())]);
    let failure = async |reference: &str| images.pull(reference, &[], quiet()).await.unwrap_err();

    let missing = format!("{}/no-such:1", registry.address);
    let error = failure(&missing).await;
    assert!(matches!(error, ImageError::Pull { .. }), "{error:?}");
    assert!(error.to_string().ends_with("not found"), "{error}");
    let refused = failure("gone.example/app:1").await.to_string();
    assert!(refused.ends_with("dial tcp 127.0.0.1:1: connect: connection refused"), "{refused}");
    assert!(matches!(failure("Bad/Name").await, ImageError::InvalidName { .. }));

    registry.push(host.path(), &TestImage::default(), "no-such:1");
    let pulled = images.pull(&missing, &[], quiet()).await.unwrap();
    let user = ContainerSpec { image: pulled.local_name, user: Some(1000), ..spec(&host, 0, "id -g") };
    assert_eq!(run(&host, user).await, (0, "1001\n".into()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and containerd: run by cargo xtask test"]
async fn an_image_without_content_for_this_machine_is_not_found() {
    let host = Host::start().await;
    let runtime = host.runtime();
    let error = runtime.create(&spec(&host, 0, "true")).await.unwrap_err();
    assert!(error.to_string().contains("find image"), "{error}");
    assert!(runtime.list().await.unwrap().is_empty() && log(&host, 0).is_empty());
}
