//! The machine-local network of a cluster: a bridge, and a network namespace with one link for each node.
//! Touches only links and namespaces of its own.

use anyhow::Result;

use crate::{
    layout::{Layout, Node},
    sh::sh,
};

/// Makes the bridge with this machine's address.
pub(crate) fn create_bridge(layout: &Layout) -> Result<()> {
    let bridge = layout.bridge();
    ip(&["link", "add", &bridge, "type", "bridge"])?;
    ip(&["addr", "add", &format!("{}/24", layout.host_address()), "dev", &bridge])?;
    ip(&["link", "set", &bridge, "up"])
}

/// Makes a node's namespace and joins it to the bridge.
pub(crate) fn create_node(layout: &Layout, node: &Node) -> Result<()> {
    let inside = |words: &[&str]| sh("ip").args(["-n", &node.netns]).args(words).run();
    ip(&["netns", "add", &node.netns])?;
    ip(&["link", "add", &node.veth, "type", "veth", "peer", "name", "eth0", "netns", &node.netns])?;
    ip(&["link", "set", &node.veth, "master", &layout.bridge(), "up"])?;
    inside(&["addr", "add", &format!("{}/24", node.address), "dev", "eth0"])?;
    inside(&["link", "set", "lo", "up"])?;
    inside(&["link", "set", "eth0", "up"])?;
    inside(&["route", "add", "default", "via", &layout.host_address().to_string()])
}

/// Removes everything that the two functions above make; what is not there is fine.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    let prefix = format!("gantry-{}-", layout.name);
    for netns in namespaces()?.into_iter().filter(|n| n.starts_with(&prefix)) {
        ip(&["netns", "del", &netns])?;
    }
    if link_exists(&layout.bridge()) {
        ip(&["link", "del", &layout.bridge()])?;
    }
    Ok(())
}

/// Names of the network namespaces on this machine.
pub(crate) fn namespaces() -> Result<Vec<String>> {
    let text = sh("ip").args(["netns", "list"]).text()?;
    Ok(text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
}

/// Whether this machine has a link of that name.
pub(crate) fn link_exists(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

fn ip(words: &[&str]) -> Result<()> {
    sh("ip").args(words).run()
}
