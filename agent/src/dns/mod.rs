//! Cluster names answered on the node from the service table; everything else forwarded.
