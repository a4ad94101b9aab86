//! A wrong configuration does not start, and says where it is wrong.

use serde_json::json;

use crate::proxy::{Setup, on_every_host};

on_every_host! {
    fn errors_name_their_path(start) {
        for (path, value, says) in [
            ("optimizer.timeout_ms", json!(0), "optimizer.timeout_ms"),
            ("optimizer.timeout_ms", json!("soon"), "optimizer.timeout_ms"),
            ("optimizer.timeout", json!(800), "optimizer"),
            ("optimizer.upstream", json!(null), "optimizer.upstream"),
            ("optimizer.token_env", json!("NOT_THERE"), "optimizer.token_env"),
            ("hook", json!({}), "hook"),
            ("hooks.request", json!(1), "hooks.request"),
            ("limits.host_buffer_bytes", json!(1024), "limits.host_buffer_bytes"),
            ("cache.serve", json!("everyone"), "cache.serve"),
            ("cache.scope", json!("team"), "cache.scope"),
            ("breaker.failures", json!(-1), "breaker.failures"),
            ("endpoints", json!({"/x": "/v1/other"}), "endpoints"),
            ("attribution", json!({"user": {"cookie": "x"}}), "attribution.user"),
        ] {
            let error = start(Setup::default().with(path, value)).err();
            let error = error.unwrap_or_else(|| panic!("{path} was taken"));
            let line = error.lines().find(|line| line.contains("configuration: "));
            let line = line.unwrap_or_else(|| panic!("no readable line: {error}"));
            assert!(line.contains(says), "{path}: {line}");
        }
    }

    fn a_token_is_never_shown(start) {
        let setup = Setup::default().with("optimizer.token", "canary\n");
        let error = start(setup).err().expect("refused");
        assert!(error.contains("optimizer.token") && !error.contains("canary"), "{error}");
    }

    fn no_configuration_is_a_wrong_one(start) {
        let setup = Setup { config: json!({}), ..Setup::default() };
        assert!(start(setup).err().expect("refused").contains("optimizer"));
    }
}
