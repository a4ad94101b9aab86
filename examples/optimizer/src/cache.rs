//! Answers, kept by caller's scope and request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use moka::Expiry;
use moka::policy::EvictionPolicy;
use optimizer_core::dialect::Dialect;
use optimizer_core::json::Object;
use serde_json::value::RawValue;

use crate::cache_key;
use crate::config;
use crate::error::Error;
use crate::wire::CacheCall;

/// What an entry costs beside its texts, roughly.
const OVERHEAD: usize = 256;

/// The exact-match cache.
pub struct Cache {
    config: config::Cache,
    answers: moka::sync::Cache<String, Answer>,
}

#[derive(Clone)]
struct Answer {
    response: Arc<RawValue>,
    lives: Duration,
}

/// Each answer lives for as long as its write-back said.
struct AsWritten;

impl Expiry<String, Answer> for AsWritten {
    fn expire_after_create(&self, _: &String, answer: &Answer, _: Instant) -> Option<Duration> {
        Some(answer.lives)
    }

    fn expire_after_update(
        &self,
        _: &String,
        answer: &Answer,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.lives)
    }
}

fn weight(key: &str, answer: &Answer) -> u32 {
    let bytes = OVERHEAD + key.len() + answer.response.get().len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Cache {
    pub fn new(config: config::Cache) -> Cache {
        let answers = moka::sync::Cache::builder()
            .max_capacity(config.max_bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &String, answer| weight(key, answer))
            .expire_after(AsWritten)
            .build();
        Cache { config, answers }
    }

    /// The key for the request, where an answer to it may be kept.
    pub fn key(&self, scope: Option<&str>, dialect: Dialect, request: &str) -> Option<String> {
        if !self.config.enabled {
            return None;
        }
        cache_key::key(scope, dialect, request)
    }

    /// The answer kept under a key. Keys differ from scope to scope, so an answer
    /// is found only under the scope that it was written for.
    pub fn get(&self, key: &str) -> Option<Arc<RawValue>> {
        Some(self.answers.get(key)?.response)
    }

    /// Keeps an answer.
    pub fn write(&self, call: CacheCall<'_>) -> Result<(), Error> {
        if !self.config.enabled {
            return Err(Error::new(StatusCode::NOT_FOUND, "answers are not kept here"));
        }
        let scope = call.metadata.unwrap_or_default().cache_scope();
        if !cache_key::belongs(&call.cache_key, scope.as_deref()) {
            return Err(Error::at("cacheKey", "was not given out for this metadata.cacheScope"));
        }
        if call.ttl_seconds == Some(0) {
            return Err(Error::at("ttlSeconds", "must be at least 1"));
        }
        if failed(call.response.0) {
            return Err(Error::at("response.error", "an error is not kept"));
        }
        let seconds = call.ttl_seconds.unwrap_or(self.config.default_ttl_seconds);
        let answer = Answer {
            response: Arc::from(call.response.0.to_owned()),
            lives: Duration::from_secs(seconds.min(self.config.max_ttl_seconds)),
        };
        self.answers.insert(call.cache_key, answer);
        Ok(())
    }
}

/// What is ambiguous counts as failed.
fn failed(response: &RawValue) -> bool {
    Object::parse(response.get().as_bytes())
        .map_or(true, |body| body.get("error").is_some_and(|error| error != "null"))
}

#[cfg(test)]
mod tests {
    use optimizer_core::dialect::Dialect;
    use serde_json::json;

    use super::Cache;
    use crate::config;
    use crate::wire;

    fn write(cache: &Cache, key: &str, text: &str) {
        let body = json!({"cacheKey": key, "response": {"text": text}}).to_string();
        cache.write(wire::read(body.as_bytes()).unwrap()).unwrap();
    }

    #[test]
    fn the_cache_stays_within_its_bytes() {
        let cache = Cache::new(config::Cache { max_bytes: 10_000, ..config::Cache::default() });
        let key = |n: usize| {
            cache.key(None, Dialect::AnthropicMessages, &format!(r#"{{"x":{n}}}"#)).unwrap()
        };
        write(&cache, &key(0), &"x".repeat(10_000));
        for n in 1..10 {
            write(&cache, &key(n), &"x".repeat(2_000));
        }
        cache.answers.run_pending_tasks();
        assert!(cache.get(&key(0)).is_none(), "larger than the whole cache");
        assert!(cache.get(&key(1)).is_none(), "pushed out");
        assert!(cache.get(&key(9)).is_some(), "the last one");
        assert!(cache.answers.weighted_size() <= 10_000);
    }
}
