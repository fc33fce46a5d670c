//! The built-in certificate authority: cluster CA, serving and client certificates, bootstrap tokens.
