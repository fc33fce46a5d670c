//! The Gantry centre as a library: `main.rs` only parses arguments and calls [`app`].
//!
//! One direction of flow: `api` -> `objects` -> `store` -> watch -> `controllers` and `placement` -> `objects`
//! -> `nodes` -> agents. Imports go down only: `app > {api, controllers, nodes, serve} > objects > {kinds,
//! patch, store} > model`. `placement` and every controller's `plan` are pure: no IO, no clock.

pub mod access;
pub mod admission;
pub mod api;
pub mod app;
mod bootstrap;
pub mod cache;
pub mod cli;
pub mod config;
pub mod connections;
pub mod controllers;
pub mod events;
pub mod kinds;
pub mod model;
pub mod nodes;
pub mod objects;
pub mod patch;
pub mod pki;
pub mod placement;
pub mod policy;
pub mod registry;
pub mod serve;
pub mod store;
pub mod streams;
mod supervisor;
pub mod tasks;
