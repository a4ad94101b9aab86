//! What is committed of the configuration's schema is what the types say.
//! `UPDATE=1 cargo test -p optimizer-core --features schema --test schema` writes it anew.

use std::path::Path;

use optimizer_core::config::Config;
use optimizer_core::schema;
use serde_json::Value;

fn committed(path: &str, generated: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = format!("{:#}\n", generated);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is out of date: run `make schema`", path.display());
}

#[test]
fn the_json_schema_is_committed() {
    committed("schema/config.schema.json", &schema::json_schema());
}

#[test]
fn kong_s_meta_is_committed() {
    let meta = schema::kong_meta();
    committed("schema/optimizer.meta.json", &meta);
    let text = meta.to_string();
    for newer in ["\"const\"", "\"$defs\"", "\"$ref\"", "\"$schema\""] {
        assert!(!text.contains(newer), "{newer} is not draft 4");
    }
}

/// The README's table has a row for each member, with its default.
#[test]
fn the_readme_lists_every_member_with_its_default() {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut missing = Vec::new();
    for (path, default) in schema::members() {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{path}` |")));
        let default = default.map(|value| format!("`{value}`"));
        match (row, default) {
            (None, _) => missing.push(format!("{path}: no row")),
            (Some(row), Some(default)) if !row.contains(&default) => {
                missing.push(format!("{path}: default {default} not in {row}"));
            }
            _ => {}
        }
    }
    assert!(missing.is_empty(), "README.md: {missing:#?}");
}

#[test]
fn the_schema_s_defaults_are_a_valid_configuration() {
    let schema = schema::json_schema();
    let mut config = serde_json::json!({ "optimizer": { "upstream": "o" } });
    for (name, property) in schema["properties"].as_object().unwrap() {
        if let Some(default) = property.get("default") {
            config[name] = default.clone();
        }
    }
    Config::parse(config.to_string().as_bytes()).unwrap();
}
