//! The traces of the last calls, in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use optimizer_core::json::{Kind, Object, kind};
use serde_json::value::RawValue;

use crate::config;
use crate::error::Error;
use crate::wire;

/// A record that was read: its id and its text.
#[derive(Debug)]
pub struct Record {
    id: String,
    json: Box<RawValue>,
}

/// The fields a record may have, and the type of each. There is no null: what is
/// not known is left out.
const FIELDS: [(&str, Kind); 17] = [
    ("id", Kind::String),
    ("ts", Kind::Number),
    ("endpoint", Kind::String),
    ("method", Kind::String),
    ("status", Kind::Number),
    ("model", Kind::String),
    ("provider", Kind::String),
    ("promptTokens", Kind::Number),
    ("completionTokens", Kind::Number),
    ("totalTokens", Kind::Number),
    ("durationMs", Kind::Number),
    ("optimizationLatencyMs", Kind::Number),
    ("attribution", Kind::Object),
    ("decisions", Kind::Array),
    ("content", Kind::Object),
    ("optimizationId", Kind::String),
    ("optimizationStatus", Kind::String),
];

impl Record {
    /// Reads the body of a call and checks what it holds.
    pub fn read(body: &[u8]) -> Result<Record, Error> {
        let wire::Object(json) = wire::read(body)?;
        let fields = object(json.get())?;
        for (name, expected) in FIELDS {
            if fields.get(name).is_some_and(|value| kind(value) != expected) {
                let expected = format!("{expected:?}").to_lowercase();
                return Err(Error::at(name, format!("expected: {expected}")));
            }
        }
        let attribution = object(fields.get("attribution").unwrap_or("{}"))?;
        for member in attribution.members() {
            if kind(member.value) == Kind::Null {
                let path = format!("attribution.{}", member.name);
                return Err(Error::at(&path, "must be left out where it is not known"));
            }
        }
        let id = fields.get("id").ok_or_else(|| Error::at("id", "missing"))?;
        Ok(Record { id: wire::read(id.as_bytes())?, json: json.to_owned() })
    }
}

fn object(json: &str) -> Result<Object<'_>, Error> {
    Object::parse(json.as_bytes())
        .map_err(|_| Error::new(StatusCode::BAD_REQUEST, "a member stands there twice"))
}

/// The last records, oldest first.
pub struct Records {
    limits: config::Records,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Records {
    pub fn new(limits: config::Records) -> Records {
        Records { limits, kept: Mutex::default() }
    }

    /// Keeps a record; one whose id is known already is the same call's.
    pub fn add(&self, record: Record) -> Result<(), Error> {
        self.enabled()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.records.iter().any(|known| known.id == record.id) {
            return Ok(());
        }
        kept.bytes += record.json.get().len();
        kept.records.push_back(record);
        while kept.records.len() > self.limits.max_records || kept.bytes > self.limits.max_bytes {
            let Some(oldest) = kept.records.pop_front() else {
                break;
            };
            kept.bytes -= oldest.json.get().len();
        }
        Ok(())
    }

    /// What is kept.
    pub fn list(&self) -> Result<Vec<Box<RawValue>>, Error> {
        self.enabled()?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.records.iter().map(|record| record.json.clone()).collect())
    }

    fn enabled(&self) -> Result<(), Error> {
        if self.limits.enabled {
            Ok(())
        } else {
            Err(Error::new(StatusCode::NOT_FOUND, "records are not kept here"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, Records};
    use crate::config;

    fn record(id: &str, padding: usize) -> Record {
        let padding = "x".repeat(padding);
        Record::read(format!(r#"{{"id":"{id}","model":"{padding}"}}"#).as_bytes()).unwrap()
    }

    fn kept(limits: config::Records, records: Vec<Record>) -> Vec<String> {
        let store = Records::new(limits);
        for record in records {
            store.add(record).unwrap();
        }
        let kept = store.kept.lock().unwrap();
        kept.records.iter().map(|record| record.id.clone()).collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let few = || config::Records { max_records: 2, ..config::Records::default() };
        assert_eq!(kept(few(), vec![record("a", 1), record("b", 1), record("c", 1)]), ["b", "c"]);
        assert_eq!(kept(few(), vec![record("a", 1), record("b", 1), record("a", 2)]), ["a", "b"]);
        let small = config::Records { max_bytes: 200, ..config::Records::default() };
        assert_eq!(
            kept(small, vec![record("a", 50), record("b", 60), record("c", 70)]),
            ["b", "c"]
        );
    }

    #[test]
    fn types_are_checked_and_null_is_none_of_them() {
        for (body, path) in [
            (r#"{"ts":1}"#, "id"),
            (r#"{"id":null}"#, "id"),
            (r#"{"id":"a","model":null}"#, "model"),
            (r#"{"id":"a","status":"200"}"#, "status"),
            (r#"{"id":"a","decisions":{}}"#, "decisions"),
            (r#"{"id":"a","attribution":{"user":null}}"#, "attribution.user"),
        ] {
            let error = Record::read(body.as_bytes()).unwrap_err();
            assert_eq!(error.path.as_deref(), Some(path), "{body}");
        }
        let full = r#"{"id":"a","ts":1,"attribution":{"user":"u"},"decisions":[],"unknown":null}"#;
        assert!(Record::read(full.as_bytes()).is_ok());
    }
}
