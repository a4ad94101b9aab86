//! The configuration file.

use std::path::Path;

use optimizer_core::strategies::{Strategy, StrategyError};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What the server runs with when it is given no file.
const EXAMPLE: &str = include_str!("../optimizer.json");

/// A configuration that was checked.
pub struct Config {
    /// The enabled ones, in execution order.
    pub strategies: Vec<Strategy>,
    pub cache: Cache,
    pub retrieve: Retrieve,
    pub records: Records,
    pub body_limit_bytes: usize,
    /// What callers have to present.
    pub token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    #[serde(borrow)]
    strategies: Vec<Entry<'a>>,
    #[serde(default)]
    cache: Cache,
    #[serde(default)]
    retrieve: Retrieve,
    #[serde(default)]
    records: Records,
    #[serde(default = "default_body_limit_bytes")]
    body_limit_bytes: usize,
    token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    kind: String,
    #[serde(default = "default_enabled")]
    enabled: bool,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// The cache of answers.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    pub enabled: bool,
    /// Of all answers together.
    pub max_bytes: u64,
    /// For a write-back that names none.
    pub default_ttl_seconds: u64,
    /// The most that a write-back gets, whatever it names.
    pub max_ttl_seconds: u64,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            enabled: true,
            max_bytes: 128 << 20,
            default_ttl_seconds: 3_600,
            max_ttl_seconds: 86_400,
        }
    }
}

/// The originals of what a strategy cut.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retrieve {
    pub enabled: bool,
    /// Of all originals together.
    pub max_bytes: u64,
    pub ttl_seconds: u64,
}

impl Default for Retrieve {
    fn default() -> Retrieve {
        Retrieve { enabled: true, max_bytes: 64 << 20, ttl_seconds: 86_400 }
    }
}

/// The traces of the last calls.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Records {
    pub enabled: bool,
    pub max_records: usize,
    /// Of all records together.
    pub max_bytes: usize,
}

impl Default for Records {
    fn default() -> Records {
        Records { enabled: true, max_records: 1_000, max_bytes: 16 << 20 }
    }
}

fn default_enabled() -> bool {
    true
}

fn default_body_limit_bytes() -> usize {
    64 << 20
}

impl Config {
    /// Reads a file. Errors name it, and the path of what is wrong in it.
    pub fn read(path: &Path) -> Result<Config, String> {
        std::fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|json| Config::parse(&json))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The configuration in `optimizer.json`.
    pub fn example() -> Result<Config, String> {
        Config::parse(EXAMPLE)
    }

    fn parse(json: &str) -> Result<Config, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let file: File<'_> =
            serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
                match error.path().to_string().as_str() {
                    "." => error.inner().to_string(),
                    path => format!("{path}: {}", error.inner()),
                }
            })?;
        deserializer.end().map_err(|error| error.to_string())?;

        let mut strategies = Vec::new();
        for (index, entry) in file.strategies.iter().enumerate() {
            let params = entry.params.map_or("{}", RawValue::get);
            // A strategy that is switched off is checked all the same.
            let strategy = Strategy::new(&entry.kind, params).map_err(|error| match error {
                StrategyError::UnknownKind => format!("strategies[{index}].kind: {error}"),
                StrategyError::Param { path, message } if path == "." => {
                    format!("strategies[{index}].params: {message}")
                }
                error => format!("strategies[{index}].params.{error}"),
            })?;
            if entry.enabled {
                strategies.push(strategy);
            }
        }
        let at_least_one = [
            ("cache.default_ttl_seconds", file.cache.default_ttl_seconds),
            ("cache.max_ttl_seconds", file.cache.max_ttl_seconds),
            ("retrieve.ttl_seconds", file.retrieve.ttl_seconds),
            ("body_limit_bytes", file.body_limit_bytes as u64),
        ];
        if let Some((path, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{path}: must be at least 1"));
        }
        // Nothing is cut that could not be retrieved, and an original can be that large.
        if file.retrieve.enabled && file.retrieve.max_bytes < file.body_limit_bytes as u64 {
            return Err(String::from("retrieve.max_bytes: must be at least body_limit_bytes"));
        }
        if file.token.as_deref() == Some("") {
            return Err(String::from("token: must not be empty"));
        }
        Ok(Config {
            strategies,
            cache: file.cache,
            retrieve: file.retrieve,
            records: file.records,
            body_limit_bytes: file.body_limit_bytes,
            token: file.token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    fn error(json: &str) -> String {
        match Config::parse(json) {
            Ok(_) => panic!("accepted: {json}"),
            Err(error) => error,
        }
    }

    #[test]
    fn the_example_is_valid_and_keeps_its_order() {
        let config = Config::example().unwrap();
        let kinds: Vec<_> = config.strategies.iter().map(|s| s.kind()).collect();
        assert_eq!(kinds, ["context_compression", "prompt_compression", "param_tuning"]);
        assert!(config.token.is_none());
    }

    #[test]
    fn errors_name_their_path() {
        for (json, start) in [
            (r#"{"strategies":[],"colour":1}"#, "colour: unknown field"),
            (r#"{}"#, "missing field `strategies`"),
            (r#"{"strategies":[{"kind":"magic"}]}"#, "strategies[0].kind: no such strategy"),
            (r#"{"strategies":[{"kind":"param_tuning"}]}"#, "strategies[0].params: missing field"),
            (
                r#"{"strategies":[{"kind":"param_tuning","enabled":false,"params":{"max_output_tokens":0}}]}"#,
                "strategies[0].params.max_output_tokens: must be at least 1",
            ),
            (
                r#"{"strategies":[{"kind":"prompt_compression","params":{"x":1}}]}"#,
                "strategies[0].params.x: unknown field",
            ),
            (r#"{"strategies":[{"kind":"x","y":1}]}"#, "strategies[0].y: unknown field"),
            (r#"{"strategies":[],"cache":{"max_bytes":"1"}}"#, "cache.max_bytes: invalid type"),
            (r#"{"strategies":[],"cache":{"max_ttl_seconds":0}}"#, "cache.max_ttl_seconds: must"),
            (r#"{"strategies":[],"body_limit_bytes":0}"#, "body_limit_bytes: must"),
            (r#"{"strategies":[],"retrieve":{"max_bytes":1}}"#, "retrieve.max_bytes: must"),
            (r#"{"strategies":[],"token":""}"#, "token: must not be empty"),
            (r#"{"strategies":[]} x"#, "trailing characters"),
        ] {
            let error = error(json);
            assert!(error.starts_with(start), "{json}: {error}");
        }
    }
}
