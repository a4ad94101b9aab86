//! The core.
pub mod bypass;
pub mod config;
pub mod dialect;
pub mod host;
pub mod json;
