//! The harness behaves as Envoy 1.40 was seen to behave.

mod bodies;
mod callouts;
mod environment;
mod headers;
mod lifecycle;
mod probe;
