//! CPU and memory usage of node, pods and containers.
