//! Raw JSON: members located in one validating pass, compared and spliced
//! without building trees, so that bytes nobody changed are never rewritten.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Why a text is not an object that can be spliced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// JSON, but no object.
    NotObject,
    /// Two members of the object have the same name.
    DuplicateMember,
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
        let mut names: Vec<&str> = members.iter().map(|member| &*member.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(JsonError::DuplicateMember);
        }
        Ok(Self { text, members })
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
        self.members.iter().find(|member| member.name == name).map(|member| member.value)
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

/// Appends `text` as a JSON string.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string into a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Deeper values than this count as different: the recursion stays bounded.
const MAX_DEPTH: usize = 128;

/// Whether two valid JSON values are equal: white space, escapes, the order of
/// members and the spelling of numbers aside. Numbers are equal when they are
/// equal as IEEE doubles.
///
/// One pass over both where members stand in the same order; the work for
/// those that do not is bounded by a multiple of the texts' length, beyond which
/// the values count as different.
pub fn equal(a: &str, b: &str) -> bool {
    a == b || {
        let mut budget = a.len().saturating_add(b.len()).saturating_mul(4);
        equal_values(&mut Cursor::new(a), &mut Cursor::new(b), 0, &mut budget)
    }
}

fn equal_values(a: &mut Cursor, b: &mut Cursor, depth: usize, budget: &mut usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let depth = depth.saturating_add(1);
    match (a.peek(), b.peek()) {
        (Some(b'{'), Some(b'{')) => equal_objects(a, b, depth, budget),
        (Some(b'['), Some(b'[')) => {
            a.bump();
            b.bump();
            loop {
                match (a.item(b']'), b.item(b']')) {
                    (true, true) if equal_values(a, b, depth, budget) => {}
                    (false, false) => return true,
                    _ => return false,
                }
            }
        }
        (Some(b'"'), Some(b'"')) => equal_strings(a.skip_value(), b.skip_value()),
        (Some(x), Some(y)) => {
            let (left, right) = (a.skip_value(), b.skip_value());
            left == right || (is_number(x) && is_number(y) && equal_numbers(left, right))
        }
        _ => false,
    }
}

fn is_number(first: u8) -> bool {
    first == b'-' || first.is_ascii_digit()
}

fn equal_numbers(a: &[u8], b: &[u8]) -> bool {
    fn double(text: &[u8]) -> Option<f64> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }
    matches!((double(a), double(b)), (Some(x), Some(y)) if x == y)
}

fn equal_strings(a: &[u8], b: &[u8]) -> bool {
    a == b || ((a.contains(&b'\\') || b.contains(&b'\\')) && Units::new(a).eq(Units::new(b)))
}

fn equal_objects(a: &mut Cursor, b: &mut Cursor, depth: usize, budget: &mut usize) -> bool {
    a.bump();
    b.bump();
    loop {
        let (before_a, before_b) = (*a, *b);
        match (a.item(b'}'), b.item(b'}')) {
            (true, true) => {}
            (false, false) => return true,
            _ => return false,
        }
        if !equal_strings(a.skip_value(), b.skip_value()) {
            (*a, *b) = (before_a, before_b);
            return equal_reordered(a, b, depth, budget);
        }
        a.colon();
        b.colon();
        if !equal_values(a, b, depth, budget) {
            return false;
        }
    }
}

/// The rest of two objects whose members stand in different orders.
fn equal_reordered(a: &mut Cursor, b: &mut Cursor, depth: usize, budget: &mut usize) -> bool {
    fn rest<'a>(cursor: &mut Cursor<'a>) -> Vec<(Vec<u32>, Cursor<'a>)> {
        let mut members = Vec::new();
        while cursor.item(b'}') {
            let name: Vec<u32> = Units::new(cursor.skip_value()).collect();
            cursor.colon();
            members.push((name, *cursor));
            cursor.skip_value();
        }
        members.sort_by(|x, y| x.0.cmp(&y.0));
        members
    }
    let (start_a, start_b) = (a.at, b.at);
    let (left, right) = (rest(a), rest(b));
    let cost = a.at.saturating_sub(start_a).saturating_add(b.at.saturating_sub(start_b));
    let Some(left_over) = budget.checked_sub(cost) else {
        return false;
    };
    *budget = left_over;
    left.len() == right.len()
        && left.into_iter().zip(right).all(|((name_a, mut value_a), (name_b, mut value_b))| {
            name_a == name_b && equal_values(&mut value_a, &mut value_b, depth, budget)
        })
}

/// A position in valid JSON.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0 }
    }

    fn bump(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    fn current(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while self.current().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.bump();
        }
        self.current()
    }

    /// Moves to the next item of an array or object; false at its end, which is consumed.
    fn item(&mut self, close: u8) -> bool {
        if self.peek() == Some(b',') {
            self.bump();
        }
        match self.peek() {
            None => false,
            Some(byte) if byte == close => {
                self.bump();
                false
            }
            Some(_) => true,
        }
    }

    fn colon(&mut self) {
        if self.peek() == Some(b':') {
            self.bump();
        }
    }

    /// Moves behind the value at the cursor and returns its text.
    fn skip_value(&mut self) -> &'a [u8] {
        self.peek();
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.skip_string(),
                b'{' | b'[' => {
                    depth = depth.saturating_add(1);
                    self.bump();
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.bump();
                }
                b',' | b':' => self.bump(),
                _ => {
                    while self.current().is_some_and(|byte| {
                        byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
                    }) {
                        self.bump();
                    }
                }
            }
            if depth == 0 {
                break;
            }
        }
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    fn skip_string(&mut self) {
        self.bump();
        while let Some(byte) = self.current() {
            self.bump();
            match byte {
                b'"' => return,
                b'\\' => self.bump(),
                _ => {}
            }
        }
    }
}

/// The content of a valid JSON string as UTF-16 code units where escaped and as
/// bytes where not, made comparable: every character becomes one number, a lone
/// surrogate stays itself.
struct Units<'a> {
    rest: std::str::Chars<'a>,
}

impl<'a> Units<'a> {
    /// `quoted` is the string with its quotes.
    fn new(quoted: &'a [u8]) -> Self {
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        Self { rest: std::str::from_utf8(inner).unwrap_or_default().chars() }
    }

    fn hex4(&mut self) -> Option<u32> {
        let mut unit = 0_u32;
        for _ in 0..4 {
            unit = unit.wrapping_shl(4) | self.rest.next()?.to_digit(16)?;
        }
        Some(unit)
    }
}

impl Iterator for Units<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let character = self.rest.next()?;
        if character != '\\' {
            return Some(u32::from(character));
        }
        let escaped = match self.rest.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let high = self.hex4()?;
                if !(0xd800..0xdc00).contains(&high) {
                    return Some(high);
                }
                let before = self.rest.clone();
                if self.rest.next() == Some('\\')
                    && self.rest.next() == Some('u')
                    && let Some(low @ 0xdc00..0xe000) = self.hex4()
                {
                    let pair = (high & 0x3ff).wrapping_shl(10) | (low & 0x3ff);
                    return Some(pair.saturating_add(0x1_0000));
                }
                self.rest = before;
                return Some(high);
            }
            other => other,
        };
        Some(u32::from(escaped))
    }
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
    fn tells_the_three_ways_of_not_being_an_object_apart() {
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
    fn equality_is_json_equality() {
        for (a, b) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("-0", "0"),
            ("9007199254740993", "9007199254740992"),
            (r#""\u00e9\n\/""#, "\"é\\u000a/\""),
            (r#""\ud83d\ude00""#, "\"😀\""),
            (r#""\ud800x""#, r#""\uD800x""#),
            ("[ 1 , [ ] ]", "[1,[]]"),
            (r#"{"a":{"x":1,"y":[{}]},"b":2}"#, r#"{ "b":2, "a":{"y":[{ }],"x":1} }"#),
            ("true", " true"),
        ] {
            assert!(equal(a, b), "{a} {b}");
            assert!(equal(b, a), "{b} {a}");
        }
        for (a, b) in [
            ("1", "2"),
            ("1", "\"1\""),
            ("true", "false"),
            ("null", "0"),
            ("[1]", "[1,1]"),
            ("[]", "{}"),
            (r#""\ud800""#, r#""\ud801""#),
            (r#""a\\""#, r#""a""#),
            (r#"{"a":1}"#, r#"{"a":1,"b":1}"#),
            (r#"{"a":1,"b":2}"#, r#"{"b":1,"a":2}"#),
            ("\"\\\\u0061\"", "\"a\""),
        ] {
            assert!(!equal(a, b), "{a} {b}");
            assert!(!equal(b, a), "{b} {a}");
        }
    }

    #[test]
    fn reordering_costs_a_bounded_multiple() {
        // Every level is reordered: without the budget the work is quadratic.
        let (mut a, mut b) = (String::from("1"), String::from("1"));
        for _ in 0..100 {
            a = format!(r#"{{"x":{a},"y":0}}"#);
            b = format!(r#"{{"y":0,"x":{b}}}"#);
        }
        assert!(!equal(&a, &b));
        let flat: Vec<String> = (0..1000).map(|i| format!("\"{i}\":{i}")).collect();
        let mut turned = flat.clone();
        turned.reverse();
        let (a, b) = (format!("{{{}}}", flat.join(",")), format!("{{{}}}", turned.join(",")));
        assert!(equal(&a, &b));
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
        assert!(is_empty("[ ]") && is_empty("{}") && !is_empty("[[]]") && !is_empty("{\"a\":1}"));
    }
}
