//! emptyDir, configMap, secret and projected volumes: directories, ownership, atomic updates.
