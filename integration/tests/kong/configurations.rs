//! The corpus of configurations that Kong's own validator is tested with: the module agrees.

use std::collections::BTreeMap;

use integration::Host;
use optimizer_core::config::Config;
use optimizer_core::host;
use optimizer_core::plan::Plan;
use serde_json::Value;

const TOKEN: (&str, &str) = ("OPTIMIZER_TOKEN", "t0ken");

fn corpus(name: &str) -> BTreeMap<String, Value> {
    let path = format!("{}/configurations/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let corpus: BTreeMap<_, _> = serde_json::from_str(&text).unwrap();
    assert!(corpus.len() > 10, "{path}");
    corpus
}

/// What the core says, and the module in the harness.
fn accepted(configuration: &Value) -> [bool; 2] {
    let text = configuration.to_string();
    let env = |name: &str| (name == TOKEN.0).then(|| TOKEN.1.to_owned());
    let compile = |config| Plan::compile(config, host::Host::Kong, env);
    let core = Config::parse(text.as_bytes()).and_then(compile);
    let module = Host::kong().config(text).env(TOKEN.0, TOKEN.1).start();
    [core.is_ok(), module.is_ok()]
}

#[test]
fn what_is_valid_is_accepted() {
    for (name, configuration) in corpus("valid") {
        assert_eq!(accepted(&configuration), [true; 2], "{name}");
    }
}

#[test]
fn what_is_not_is_refused() {
    for (name, configuration) in corpus("invalid").into_iter().chain(corpus("inconsistent")) {
        assert_eq!(accepted(&configuration), [false; 2], "{name}");
    }
}

#[test]
fn what_the_host_cannot_do_is_said_in_one_line_at_start() {
    let start = |more: &str| {
        let config = format!(r#"{{"optimizer":{{"upstream":"o:1"}}{more}}}"#);
        let host = Host::kong().config(config).start().unwrap();
        let said: Vec<_> = host.logs().iter().map(|line| line.text.clone()).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        said[0].clone()
    };
    let line = start("");
    assert!(line.starts_with("optimizer: ready on kong, asking o:1; "), "{line}");
    for part in [
        "request transforms: switched off (kong.transform)",
        "response hook: not possible on this host",
        "write-backs and records: by timer",
        "proofs and breaker: per worker",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let line = start(r#","kong":{"transform":true},"hooks":{"response":false}"#);
    assert!(line.contains("request transforms: of bodies read before the module"), "{line}");
    assert!(!line.contains("response hook"), "{line}");
}
