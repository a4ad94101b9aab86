//! The texts that a strategy cut, by their handle.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use optimizer_core::strategies::Original;

use crate::config;

/// The store behind `/v1/retrieve`. None of it is kept where it is switched off.
pub struct Originals(Option<moka::sync::Cache<String, Arc<str>>>);

impl Originals {
    pub fn new(config: &config::Retrieve) -> Originals {
        Originals(config.enabled.then(|| {
            moka::sync::Cache::builder()
                .max_capacity(config.max_bytes)
                .eviction_policy(EvictionPolicy::lru())
                .weigher(|handle: &String, content: &Arc<str>| {
                    u32::try_from(handle.len() + content.len()).unwrap_or(u32::MAX)
                })
                .time_to_live(Duration::from_secs(config.ttl_seconds))
                .build()
        }))
    }

    /// Whether anything is kept.
    pub fn enabled(&self) -> bool {
        self.0.is_some()
    }

    pub fn keep(&self, original: Original) {
        if let Some(store) = &self.0 {
            store.insert(original.handle, original.content.into());
        }
    }

    pub fn get(&self, handle: &str) -> Option<Arc<str>> {
        self.0.as_ref()?.get(handle)
    }
}
