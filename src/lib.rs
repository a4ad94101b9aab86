//! The host-independent core of the LLM optimizer adapter.
//!
//! The core decides everything and does nothing: it knows no proxy, no socket and
//! no clock. A host binding (`filters/*`) translates what happens to events and
//! what is to be done from effects.
//!
//! # Mutate, then drain
//!
//! ```text
//!            Event (borrowed), now                  Vec<Effect>
//!   host ───────────────────────► Exchange::handle ─────────────► host
//!                                    │        ▲
//!                                    ▼        │
//!                                 Adapter: plan, budget, breaker, write-backs
//! ```
//! - A [`config::Config`] and a [`host::Host`] compile into a [`plan::Plan`], once.
//!   An [`adapter::Adapter`] holds what all exchanges of one VM share.
//! - For each request the host asks for an [`exchange::Exchange`] and hands it one
//!   [`event::Event`] at a time, with the time since the Unix epoch.
//! - `handle` changes its own state and pushes [`effect::Effect`]s. The host carries
//!   all of them out, in order, before it hands in the next event. The core never
//!   calls the host.
//! - An exchange that ends gets [`event::Event::Closed`], however it ended: what it
//!   held is given back there, and what is to be written back is queued.
//! - After [`effect::Effect::WakeUp`] the host calls [`adapter::Adapter::tick`] now
//!   and then, until `Sleep`. Those callouts belong to no exchange: they end in
//!   [`adapter::Adapter::callout_done`]. Just before, every
//!   exchange that holds a message gets [`event::Event::Tick`].
//!
//! # One exchange
//!
//! ```text
//! RequestHeaders ─► Flow::Hold ─► RequestBody(Whole) ─► Callout /v1/optimize
//!       │                                                 │
//!       │ bypass                    ┌─────────────────────┼────────────────┐
//!       ▼                           ▼                     ▼                ▼
//!   Flow::Pass             Respond (a hit)   ReplaceBody, Flow::Pass   Flow::Pass
//!                                                         │   (original bytes)
//! ResponseHeaders ─► Flow::Hold ─► ResponseBody(Whole) ─► Callout /v1/optimize-response
//!       ├─► Flow::Copy (write-back only)                  │
//!       └─► Flow::Pass                     ReplaceBody? Flow::Pass
//! Closed ─► WakeUp ─► tick ─► Callout /v1/cache
//! ```
//! A host that replaces bodies only if it showed them with the headers ([`host::Replace::Early`]) hands them
//! in as `Early`, and gets `ReplaceRest`: what to write when it shows the body again.
//!
//! Every way out that is not the plan is a [`bypass::Bypass`], and is counted.
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
mod admission;
pub mod breaker;
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
pub mod forward;
pub mod headers;
pub mod host;
pub mod json;
mod metadata;
pub mod metric;
pub mod plan;
mod protocol;
mod reader;
mod record;
pub mod roomy;
mod rope;
#[cfg(feature = "schema")]
pub mod schema;
pub mod sorted;
pub mod sse;
#[cfg(feature = "strategies")]
pub mod strategies;
pub mod stream;
mod transform;
mod usage;
mod watch;
