//! Rendezvous between a client's exec, attach, logs or port-forward request and the stream the agent dials back.
