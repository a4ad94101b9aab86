//! The configuration's JSON Schema, generated from its types.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::config::Config;

/// The JSON Schema (draft 2020-12) of the module's configuration.
pub fn json_schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>().into()
}

/// Kong's `optimizer.meta.json`: the same schema in JSON Schema draft 4, which
/// is what Kong's runtime validates a filter's configuration with.
pub fn kong_meta() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema: Value = settings.into_generator().into_root_schema_for::<Config>().into();
    to_draft4(&mut schema);
    json!({ "config_schema": schema })
}

/// Draft 4 knows no `const`.
fn to_draft4(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(value) = members.remove("const") {
                members.insert("enum".to_owned(), Value::Array(vec![value]));
            }
            members.values_mut().for_each(to_draft4);
        }
        Value::Array(items) => items.iter_mut().for_each(to_draft4),
        _ => {}
    }
}

/// Every member of the configuration as a dotted path, with its default.
pub fn members() -> Vec<(String, Option<Value>)> {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let schema: Value = settings.into_generator().into_root_schema_for::<Config>().into();
    let mut members = Vec::new();
    collect(&schema, "", None, &mut members);
    members
}

fn collect(
    schema: &Value,
    path: &str,
    default: Option<&Value>,
    members: &mut Vec<(String, Option<Value>)>,
) {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = property.get("default").or_else(|| default.and_then(|all| all.get(name)));
        if property.get("properties").is_some() {
            collect(property, &path, default, members);
        } else {
            members.push((path, default.filter(|value| !value.is_null()).cloned()));
        }
    }
}
