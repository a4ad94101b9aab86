//! The core.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects
    )
)]
#![forbid(unsafe_code)]

pub mod adapter;
mod breaker;
pub mod bypass;
mod call;
mod caller;
pub mod callout;
pub mod config;
mod decisions;
pub mod dialect;
pub mod effect;
pub mod event;
pub mod exchange;
pub mod headers;
pub mod host;
pub mod json;
mod metadata;
pub mod metric;
pub mod plan;
mod protocol;
#[cfg(feature = "strategies")]
pub mod strategies;
mod transform;
