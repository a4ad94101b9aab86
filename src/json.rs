//! Raw JSON: members located in one validating pass, compared and spliced
//! without building trees, so that bytes nobody changed are never rewritten.

mod equal;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use equal::Cursor;
pub use equal::equal;

/// Why a text is not an object that can be spliced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// JSON, but no object.
    NotObject,
    /// Two members of the object have the same name.
    DuplicateMember,
    /// The object has more members than any request or answer.
    TooManyMembers,
}

/// One member of an object. Ranges are byte offsets into the object's text.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The name, escapes decoded.
    pub name: Cow<'a, str>,
    /// The value as it stands in the text.
    pub value: &'a str,
    key_start: usize,
    value_range: Range<usize>,
}

/// An object's text and where its members stand in it.
#[derive(Clone, Debug)]
pub struct Object<'a> {
    text: &'a str,
    members: Vec<Member<'a>>,
    /// Where the members are many: their places, by name.
    by_name: Vec<usize>,
}

/// Up to so many members are looked through one by one.
const FEW: usize = 32;
/// No request and no answer has more members; each costs more than its bytes.
const MAX_MEMBERS: usize = 4096;

fn distinct(members: &[Member<'_>]) -> Result<Vec<usize>, JsonError> {
    let mut rest = members;
    while let [first, others @ ..] = rest {
        if others.iter().any(|other| other.name == first.name) {
            return Err(JsonError::DuplicateMember);
        }
        rest = others;
    }
    Ok(Vec::new())
}

fn sorted(members: &[Member<'_>]) -> Result<Vec<usize>, JsonError> {
    let name = |&place: &usize| members.get(place).map(|member| &*member.name);
    let mut by_name: Vec<usize> = (0..members.len()).collect();
    by_name.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
    if by_name.windows(2).any(|pair| matches!(pair, [a, b] if name(a) == name(b))) {
        return Err(JsonError::DuplicateMember);
    }
    Ok(by_name)
}

impl<'a> Object<'a> {
    /// Validates `bytes` and locates the members, in one pass.
    ///
    /// # Errors
    /// Says which of the three ways it is not a spliceable object.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|_| JsonError::NotJson)?;
        match serde_json::from_str::<Located<'a>>(text) {
            Ok(Located::Object(members)) => Self::at(text, members),
            Ok(Located::Other) => Err(JsonError::NotObject),
            Ok(Located::TooMany) => Err(JsonError::TooManyMembers),
            Err(_) => Err(JsonError::NotJson),
        }
    }

    /// Completes members located by serde inside `text`.
    fn at(text: &'a str, located: Vec<(Cow<'a, str>, &'a RawValue)>) -> Result<Self, JsonError> {
        let base = text.as_ptr().addr();
        let mut previous_end = 0;
        let mut members = Vec::with_capacity(located.len());
        for (name, raw) in located {
            let value = raw.get();
            let start = value.as_ptr().addr().saturating_sub(base);
            let end = start.saturating_add(value.len());
            // Between two values stand white space, `{` or `,`, then the key's quote.
            let key_start = text
                .as_bytes()
                .get(previous_end..start)
                .and_then(|gap| gap.iter().position(|&byte| byte == b'"'))
                .map_or(start, |offset| previous_end.saturating_add(offset));
            members.push(Member { name, value, key_start, value_range: start..end });
            previous_end = end;
        }
        let by_name = if members.len() > FEW { sorted(&members)? } else { distinct(&members)? };
        Ok(Self { text, members, by_name })
    }

    /// The text itself.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The members in the order of the text.
    pub fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// The value of the member called `name`, as it stands in the text.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let found = if self.by_name.is_empty() {
            self.members.iter().find(|member| member.name == name)
        } else {
            let name_at = |&place: &usize| self.members.get(place).map(|member| &*member.name);
            let found = self.by_name.binary_search_by(|place| name_at(place).cmp(&Some(name)));
            found.ok().and_then(|at| self.members.get(*self.by_name.get(at)?))
        };
        found.map(|member| member.value)
    }

    /// This object with `new` laid over it: a member that `new` holds with an
    /// equal value keeps its bytes, one with another value takes `new`'s value,
    /// one that only `new` holds is added at the end. A member that `new` lacks
    /// is removed if `remove_missing`, else kept.
    ///
    /// `None` if nothing changes.
    pub fn overlay(&self, new: &Object<'_>, remove_missing: bool) -> Option<Vec<u8>> {
        let bytes = self.text.as_bytes();
        let mut changed = false;
        let mut out = Vec::with_capacity(self.text.len().max(new.text.len()));
        let first = self.members.first();
        let last_end = self.members.last().map_or(0, |member| member.value_range.end);
        let head_end = first.map_or_else(
            || bytes.iter().position(|&byte| byte == b'{').map_or(0, |at| at.saturating_add(1)),
            |member| member.key_start,
        );
        copy(&mut out, bytes, 0..head_end);
        let mut previous_end = head_end;
        let mut empty = true;
        for member in &self.members {
            let replacement = match new.get(&member.name) {
                None if remove_missing => {
                    changed = true;
                    previous_end = member.value_range.end;
                    continue;
                }
                None => None,
                Some(value) => (!equal(member.value, value)).then_some(value),
            };
            // What stands between the previous value and this key holds the one comma needed.
            let from = if empty { member.key_start } else { previous_end };
            empty = false;
            previous_end = member.value_range.end;
            match replacement {
                None => copy(&mut out, bytes, from..member.value_range.end),
                Some(value) => {
                    changed = true;
                    copy(&mut out, bytes, from..member.value_range.start);
                    out.extend_from_slice(value.as_bytes());
                }
            }
        }
        for member in new.members.iter().filter(|member| self.get(&member.name).is_none()) {
            changed = true;
            if !empty {
                out.push(b',');
            }
            empty = false;
            copy(&mut out, new.text.as_bytes(), member.key_start..member.value_range.end);
        }
        let tail = if self.members.is_empty() { head_end } else { last_end };
        copy(&mut out, bytes, tail..bytes.len());
        changed.then_some(out)
    }
}

fn copy(out: &mut Vec<u8>, from: &[u8], range: Range<usize>) {
    out.extend_from_slice(from.get(range).unwrap_or_default());
}

enum Located<'a> {
    Object(Vec<(Cow<'a, str>, &'a RawValue)>),
    TooMany,
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Located<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LocatedVisitor)
    }
}

struct LocatedVisitor;

impl<'de> Visitor<'de> for LocatedVisitor {
    type Value = Located<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(16);
        while let Some(Name(name)) = map.next_key()? {
            if members.len() == MAX_MEMBERS {
                map.next_value::<IgnoredAny>()?;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(Located::TooMany);
            }
            members.push((name, map.next_value()?));
        }
        Ok(Located::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Located::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Located::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Located::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Located::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Located::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Located::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Located::Other)
    }
}

/// A member's name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Cow<'de, str>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a member's name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(name))
            }
            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(name.to_owned()))
            }
        }
        deserializer.deserialize_str(NameVisitor).map(Name)
    }
}

/// The JSON type of a value, told from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// The JSON type of `value`, which must be valid JSON.
pub fn kind(value: &str) -> Kind {
    match value.trim_ascii_start().bytes().next() {
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b'"') => Kind::String,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') | None => Kind::Null,
        Some(_) => Kind::Number,
    }
}

/// Whether `value`, valid JSON, is an array or object with nothing in it.
pub fn is_empty(value: &str) -> bool {
    let mut bytes = value.bytes().filter(|byte| !byte.is_ascii_whitespace());
    bytes.next();
    matches!(bytes.next(), Some(b']' | b'}'))
}

/// Whether `value`, valid JSON, is an array in which every item is an object.
pub fn holds_only_objects(value: &str) -> bool {
    let mut cursor = Cursor::new(value);
    if cursor.peek() != Some(b'[') {
        return false;
    }
    cursor.bump();
    while cursor.item(b']') {
        if cursor.peek() != Some(b'{') {
            return false;
        }
        cursor.skip_value();
    }
    true
}

/// How many arrays and objects stand inside each other in `value`, valid JSON.
pub fn depth(value: &str) -> usize {
    let mut rest = value.as_bytes();
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => rest = behind_string(rest),
            _ => {}
        }
    }
    deepest
}

/// What comes behind a string, of which the opening quote is gone.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let escapes = rest.get(at) == Some(&b'\\');
        let behind = at.saturating_add(if escapes { 2 } else { 1 });
        rest = rest.get(behind..).unwrap_or_default();
        if !escapes {
            return rest;
        }
    }
    &[]
}

/// How many items an array, valid JSON, has.
pub fn count_items(array: &str) -> usize {
    let mut cursor = Cursor::new(array);
    cursor.peek();
    cursor.bump();
    let mut count: usize = 0;
    while cursor.item(b']') {
        cursor.skip_value();
        count = count.saturating_add(1);
    }
    count
}

/// Writes an object whose values are JSON already, or become it.
#[derive(Debug, Default)]
pub struct ObjectWriter {
    out: Vec<u8>,
    /// Where the object begins.
    start: usize,
    /// Values that are still apart, and where they belong.
    apart: Vec<(usize, Bytes)>,
}

/// An object of which some values are still apart, shared with whoever else has them.
#[derive(Debug)]
pub struct Unjoined {
    text: Vec<u8>,
    apart: Vec<(usize, Bytes)>,
}

impl Unjoined {
    /// The length of the whole object.
    pub fn length(&self) -> usize {
        self.apart.iter().fold(self.text.len(), |sum, (_, value)| sum.saturating_add(value.len()))
    }

    /// The whole object in one piece.
    pub fn join(self) -> Vec<u8> {
        if self.apart.is_empty() {
            return self.text;
        }
        let mut out = Vec::with_capacity(self.length());
        let mut from = 0;
        for (at, value) in self.apart {
            copy(&mut out, &self.text, from..at);
            out.extend_from_slice(&value);
            from = at;
        }
        copy(&mut out, &self.text, from..self.text.len());
        out
    }
}

impl ObjectWriter {
    /// An empty object; `capacity` bytes are expected.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity), ..Self::default() }
    }

    /// Adds a member whose value is JSON.
    pub fn raw(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.name(name);
        self.out.extend_from_slice(value.as_ref());
        self
    }

    /// Adds a member whose value is JSON and stays apart: for [`ObjectWriter::finish_unjoined`].
    pub fn shared(&mut self, name: &str, value: Bytes) -> &mut Self {
        self.name(name);
        self.apart.push((self.out.len(), value));
        self
    }

    /// Adds a member whose value is a string.
    pub fn string(&mut self, name: &str, value: &str) -> &mut Self {
        self.name(name);
        push_string(&mut self.out, value);
        self
    }

    /// Adds a member whose value is a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.raw(name, value.to_string())
    }

    /// Adds a member whose value is an object that `write` fills.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut ObjectWriter)) -> &mut Self {
        self.name(name);
        let (outer, start) = (self.start, self.out.len());
        let mut inner = ObjectWriter { start, ..std::mem::take(self) };
        write(&mut inner);
        inner.close();
        *self = ObjectWriter { start: outer, ..inner };
        self
    }

    /// The object.
    pub fn finish(&mut self) -> Vec<u8> {
        self.finish_unjoined().join()
    }

    /// The object, the values that were [`shared`](ObjectWriter::shared) still apart.
    pub fn finish_unjoined(&mut self) -> Unjoined {
        self.close();
        let Self { out, apart, .. } = std::mem::take(self);
        Unjoined { text: out, apart }
    }

    fn close(&mut self) {
        if self.out.len() == self.start {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    fn name(&mut self, name: &str) {
        self.out.push(if self.out.len() == self.start { b'{' } else { b',' });
        push_string(&mut self.out, name);
        self.out.push(b':');
    }
}

/// Appends `text` as a JSON string.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string into a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn overlay(original: &str, new: &str, remove_missing: bool) -> Option<String> {
        let original = Object::parse(original.as_bytes()).unwrap();
        let new = Object::parse(new.as_bytes()).unwrap();
        original.overlay(&new, remove_missing).map(|out| {
            assert!(Object::parse(&out).is_ok(), "not JSON: {out:?}");
            String::from_utf8(out).unwrap()
        })
    }

    #[test]
    fn tells_the_ways_of_not_being_an_object_apart() {
        for bad in ["", " ", "{", "{}x", "{\"a\":}", "nul", "{\"a\":1,}", "\u{feff}{}"] {
            assert_eq!(Object::parse(bad.as_bytes()).err(), Some(JsonError::NotJson), "{bad:?}");
        }
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}").err(), Some(JsonError::NotJson));
        for other in ["1", "-1", "1.5", "\"x\"", "null", "true", " [1,{}] "] {
            assert_eq!(Object::parse(other.as_bytes()).err(), Some(JsonError::NotObject));
        }
        assert_eq!(
            Object::parse(br#"{"a":1,"b":2,"\u0061":3}"#).err(),
            Some(JsonError::DuplicateMember)
        );
        let many = |count| {
            let members: Vec<String> = (0..count).map(|n| format!("\"{n}\":{n}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let most = many(MAX_MEMBERS);
        let object = Object::parse(most.as_bytes()).unwrap();
        assert_eq!((object.get("17"), object.get("x")), (Some("17"), None));
        let twice = most.replace("\"4000\"", "\"17\"");
        assert_eq!(Object::parse(twice.as_bytes()).err(), Some(JsonError::DuplicateMember));
        let more = many(MAX_MEMBERS + 1);
        assert_eq!(Object::parse(more.as_bytes()).err(), Some(JsonError::TooManyMembers));
        let broken = more.replace("4096}", "4096");
        assert_eq!(Object::parse(broken.as_bytes()).err(), Some(JsonError::NotJson));
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_fails() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let spaced = format!("{{\"a\": {} {}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(overlay(&deep, &deep, true), None);
        assert!(overlay(&deep, &spaced, true).is_some(), "beyond the depth: taken as changed");
    }

    #[test]
    fn equal_values_keep_their_bytes() {
        let original = "{ \"model\" : \"m\\u0065\",\n \"seed\": 12345678901234567890, \"t\":1.0e0,\
             \"o\":{\"a\":[1, 2],\"b\":null} }";
        let same = r#"{"o":{"b":null,"a":[1,2.0]},"t":1,"seed":12345678901234567000,"model":"me"}"#;
        assert_eq!(overlay(original, same, true), None);
    }

    #[test]
    fn changes_touch_nothing_beside_them() {
        assert_eq!(
            overlay("{ \"a\" : 1 , \"b\":2,\n\"c\" :3 }", r#"{"a":1,"b":20,"c":3}"#, true).unwrap(),
            "{ \"a\" : 1 , \"b\":20,\n\"c\" :3 }"
        );
    }

    #[test]
    fn removes_and_adds_at_every_place() {
        let original = r#" {"a":1, "b":2,  "c":3} "#;
        for (new, expected) in [
            (r#"{"b":2,"c":3}"#, r#" {"b":2,  "c":3} "#),
            (r#"{"a":1,"c":3}"#, r#" {"a":1,  "c":3} "#),
            (r#"{"a":1,"b":2}"#, r#" {"a":1, "b":2} "#),
            (r#"{"c":3}"#, r#" {"c":3} "#),
            ("{}", " {} "),
            (r#"{"d":{ "x":1 }}"#, r#" {"d":{ "x":1 }} "#),
            (r#"{"a":1,"b":2,"c":3,"d":4}"#, r#" {"a":1, "b":2,  "c":3,"d":4} "#),
        ] {
            assert_eq!(overlay(original, new, true).unwrap(), expected, "{new}");
        }
        assert_eq!(overlay("{ }", r#"{"a":1}"#, true).unwrap(), r#"{"a":1 }"#);
        assert_eq!(overlay(original, r#"{"b":5}"#, false).unwrap(), r#" {"a":1, "b":5,  "c":3} "#);
        assert_eq!(overlay(original, "{}", false), None);
    }

    #[test]
    fn kinds_and_emptiness() {
        assert_eq!(kind(" {"), Kind::Object);
        assert_eq!(kind("[]"), Kind::Array);
        assert_eq!(kind("\"\""), Kind::String);
        assert_eq!(kind("-1"), Kind::Number);
        assert_eq!(kind("false"), Kind::Bool);
        assert_eq!(kind("null"), Kind::Null);
        assert!(holds_only_objects(r#" [ {"a":["}"]} , {} ] "#) && holds_only_objects("[]"));
        assert!(!holds_only_objects("[{},1]") && !holds_only_objects("{}"));
        for (value, expected) in
            [("1", 0), ("[]", 1), (r#"{"a":[{"b\"[[[[":"]\\"}],"c":{}}"#, 3), (r#""[\\\"[[""#, 0)]
        {
            assert_eq!(depth(value), expected, "{value}");
        }
        assert_eq!((count_items(" [ ]"), count_items("[1,[2,3],\"]\"]")), (0, 3));
        assert!(is_empty("[ ]") && is_empty("{}") && !is_empty("[[]]") && !is_empty("{\"a\":1}"));
    }

    #[test]
    fn objects_are_written_member_by_member() {
        let mut object = ObjectWriter::default();
        object.raw("a", "[1]").string("b\"", "c\n").number("d", 5);
        assert_eq!(object.finish(), br#"{"a":[1],"b\"":"c\n","d":5}"#);
        assert_eq!(ObjectWriter::default().finish(), b"{}");
        object.object("e", |_| {}).object("f", |inner| {
            inner.number("g", 1).object("h", |inner| _ = inner.string("i", "j"));
        });
        object.number("k", 2);
        assert_eq!(object.finish(), br#"{"e":{},"f":{"g":1,"h":{"i":"j"}},"k":2}"#);
        let value = Bytes::from_static(b"[5]");
        object.shared("a", value.clone()).object("b", |inner| {
            inner.shared("c", value.clone()).number("d", 1);
        });
        let object = object.string("e", "").finish_unjoined();
        let joined = br#"{"a":[5],"b":{"c":[5],"d":1},"e":""}"#;
        assert_eq!((object.length(), object.join()), (joined.len(), joined.to_vec()));
    }
}
