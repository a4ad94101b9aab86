//! JSON that grows: how the deltas of a stream become one value. Texts grow by
//! their raw insides, so that nothing is decoded and no byte is copied twice.

use super::StreamError;
use super::raw::{inside, items, object, push_name};
use crate::json::{self, Kind, Object};
use crate::rope::Rope;
use crate::sorted::Sorted;

/// How a later value meets an earlier one of the same name. In both, null tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// It is a further piece. As OpenAI's SDK has it: texts are joined, numbers
    /// added, objects merged, arrays merged by their items' `index`, or appended
    /// where they have none.
    Piece,
    /// It is a newer state, and only arrays and objects keep what they had.
    State,
}

/// A value put together so far.
#[derive(Debug)]
pub(super) enum Grown {
    /// Anything, raw.
    Whole(String),
    /// The raw inside of a string.
    Text(Box<Rope>),
    /// The raw inside of an array.
    List(Box<Rope>),
    Members(Members),
    /// Items by their `index`.
    Indexed(Sorted<u64, Grown>),
}

pub(super) type Members = Sorted<String, Grown>;

/// Deeper objects are not merged, the later one wins: the recursion stays bounded.
const MAX_DEPTH: u8 = 16;
/// No answer has so many members, items and choices together; each costs more than its bytes.
const MAX_ENTRIES: usize = 4096;

/// Counts one more entry of an answer, of which `used` are taken.
pub(super) fn take(used: &mut usize) -> Result<(), StreamError> {
    check_room(*used)?;
    *used = used.saturating_add(1);
    Ok(())
}

/// Whether there may be one more than `used` entries.
pub(super) fn check_room(used: usize) -> Result<(), StreamError> {
    if used < MAX_ENTRIES { Ok(()) } else { Err(StreamError::TooLarge) }
}

impl Grown {
    pub(super) fn whole(value: &str) -> Self {
        Self::Whole(value.to_owned())
    }

    fn new(value: &str, rule: Rule, depth: u8, used: &mut usize) -> Result<Self, StreamError> {
        Ok(match json::kind(value) {
            Kind::String if rule == Rule::Piece => Self::Text(rope(inside(value))),
            Kind::Array if grows_by_index(value, rule, depth)? => {
                let mut grown = Self::Indexed(Sorted::default());
                grown.merge(value, rule, depth, used)?;
                grown
            }
            Kind::Array => Self::List(rope(inside(value).trim_ascii())),
            _ => Self::Whole(value.to_owned()),
        })
    }

    fn merge(
        &mut self,
        value: &str,
        rule: Rule,
        depth: u8,
        used: &mut usize,
    ) -> Result<(), StreamError> {
        let kind = json::kind(value);
        let replaced = rule == Rule::State || self.is_null();
        match (&mut *self, kind) {
            (_, Kind::Null) => {}
            (Self::Whole(old), Kind::Object) if json::kind(old) == Kind::Object => {
                if depth < MAX_DEPTH {
                    self.open(rule, depth, used)?;
                    return self.merge(value, rule, depth, used);
                }
                value.clone_into(old);
            }
            (Self::Members(members), Kind::Object) => {
                let depth = depth.saturating_add(1);
                merge_members(members, &object(value.as_bytes())?, rule, depth, used)?;
            }
            (Self::List(list), Kind::Array) => {
                if list.is_empty() {
                    *self = Self::new(value, rule, depth, used)?;
                } else if grows_by_index(value, rule, depth)? {
                    return Err(StreamError::Unexpected);
                } else {
                    push_items(list, value);
                }
            }
            (Self::Indexed(entries), Kind::Array) => {
                for item in items(value)? {
                    let index = index(item).ok_or(StreamError::Unexpected)?;
                    if let Some(entry) = entries.get_mut(&index) {
                        entry.merge(item, rule, depth.saturating_add(1), used)?;
                    } else {
                        take(used)?;
                        entries.insert(index, Self::new(item, rule, depth, used)?);
                    }
                }
            }
            (Self::Text(text), Kind::String) if rule == Rule::Piece => {
                text.push(inside(value).as_bytes());
            }
            (Self::Whole(old), Kind::Number)
                if rule == Rule::Piece && json::kind(old) == Kind::Number =>
            {
                *old = sum(old, value);
            }
            (Self::Whole(old), Kind::Bool) if json::kind(old) == Kind::Bool => {
                value.clone_into(old);
            }
            _ if replaced => *self = Self::new(value, rule, depth, used)?,
            _ => {}
        }
        Ok(())
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Whole(value) if json::kind(value) == Kind::Null)
    }

    /// Whether this is the string whose raw inside is `text`.
    fn is_text(&self, text: &str) -> bool {
        matches!(self, Self::Text(own) if **own == *text.as_bytes())
    }

    /// The members of an object; none of what is no object.
    pub(super) fn members(&mut self) -> Result<Option<&mut Members>, StreamError> {
        self.open(Rule::Piece, 0, &mut 0)?;
        Ok(match self {
            Self::Members(members) => Some(members),
            _ => None,
        })
    }

    /// Takes a raw object apart, so that its members can grow.
    fn open(&mut self, rule: Rule, depth: u8, used: &mut usize) -> Result<(), StreamError> {
        if let Self::Whole(value) = self
            && json::kind(value) == Kind::Object
        {
            let value = std::mem::take(value);
            let mut members = Members::default();
            merge_members(&mut members, &object(value.as_bytes())?, rule, depth, used)?;
            *self = Self::Members(members);
        }
        Ok(())
    }

    /// No less than the length that the value has as JSON.
    pub(super) fn len(&self) -> usize {
        let inside: usize = match self {
            Self::Whole(value) => value.len(),
            Self::Text(rope) | Self::List(rope) => rope.len(),
            Self::Members(members) => return length(members),
            Self::Indexed(entries) => entries
                .values()
                .fold(0, |sum: usize, it| sum.saturating_add(it.len()).saturating_add(1)),
        };
        inside.saturating_add(2)
    }

    /// Appends the value as JSON.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Whole(value) => out.extend_from_slice(value.as_bytes()),
            Self::Text(text) => {
                out.push(b'"');
                text.write(out);
                out.push(b'"');
            }
            Self::List(list) => {
                out.push(b'[');
                list.write(out);
                out.push(b']');
            }
            Self::Members(members) => {
                out.push(b'{');
                for (name, value) in members.iter() {
                    push_name(out, name);
                    value.write(out);
                }
                out.push(b'}');
            }
            Self::Indexed(entries) => {
                out.push(b'[');
                for (place, entry) in entries.values().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    entry.write(out);
                }
                out.push(b']');
            }
        }
    }
}

/// No less than the length that an object of these members has as JSON.
pub(super) fn length(members: &Members) -> usize {
    // A name in quotes, a colon, a comma; a name may be escaped.
    let member = |(name, value): (&String, &Grown)| {
        name.len().saturating_mul(6).saturating_add(value.len()).saturating_add(4)
    };
    members.iter().map(member).fold(2, usize::saturating_add)
}

fn merge_members(
    members: &mut Members,
    delta: &Object<'_>,
    rule: Rule,
    depth: u8,
    used: &mut usize,
) -> Result<(), StreamError> {
    for member in delta.members() {
        merge_member(members, &member.name, member.value, rule, depth, used)?;
    }
    Ok(())
}

/// Merges one member into `members`; `used` counts the entries of the whole answer.
pub(super) fn merge_member(
    members: &mut Members,
    name: &str,
    value: &str,
    rule: Rule,
    depth: u8,
    used: &mut usize,
) -> Result<(), StreamError> {
    let Some(earlier) = members.get_mut(name) else {
        take(used)?;
        members.insert(name.to_owned(), Grown::new(value, rule, depth, used)?);
        return Ok(());
    };
    match name {
        "index" | "type" if json::kind(value) != Kind::Null => {
            *earlier = Grown::new(value, rule, depth, used)?
        }
        // Some providers say these again in every delta.
        "id" | "name" | "role" if earlier.is_text(inside(value)) => {}
        _ => earlier.merge(value, rule, depth, used)?,
    }
    Ok(())
}

/// Appends the items of `array` to a list that has some.
fn push_items(list: &mut Rope, array: &str) {
    let more = inside(array).trim_ascii();
    if !more.is_empty() {
        list.push(b",");
        list.push(more.as_bytes());
    }
}

fn rope(text: &str) -> Box<Rope> {
    let mut rope = Box::<Rope>::default();
    rope.push(text.as_bytes());
    rope
}

fn index(item: &str) -> Option<u64> {
    Object::parse(item.as_bytes()).ok()?.get("index")?.parse().ok()
}

/// Whether an array's items grow each by itself, by their `index`.
fn grows_by_index(array: &str, rule: Rule, depth: u8) -> Result<bool, StreamError> {
    let may = rule == Rule::Piece && depth < MAX_DEPTH;
    Ok(may && items(array)?.any(|item| index(item).is_some()))
}

fn sum(a: &str, b: &str) -> String {
    if let (Ok(a), Ok(b)) = (a.parse::<i64>(), b.parse::<i64>())
        && let Some(sum) = a.checked_add(b)
    {
        return sum.to_string();
    }
    let sum = a.parse::<f64>().and_then(|a| Ok(a + b.parse::<f64>()?));
    let sum = sum.ok().and_then(serde_json::Number::from_f64);
    sum.map_or_else(|| b.to_owned(), |sum| sum.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn merged(rule: Rule, values: &[&str]) -> Result<String, StreamError> {
        let (mut members, mut used) = (Members::default(), 0);
        for value in values {
            merge_member(&mut members, "m", value, rule, 0, &mut used)?;
        }
        let mut out = Vec::new();
        members.get("m").unwrap().write(&mut out);
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&out).is_ok(), "{out:?}");
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn pieces_grow_together() {
        for (values, expected) in [
            (&[r#""a\u00e9""#, "null", r#""""#, r#""é\n""#][..], r#""a\u00e9é\n""#),
            (&[r#""\ud83d""#, r#""\ude00""#], r#""\ud83d\ude00""#),
            (&["null", "null"], "null"),
            (&["null", r#""a""#, r#""b""#], r#""ab""#),
            (&["1", "2"], "3"),
            (&["0.5", "1"], "1.5"),
            (&["12345678901234567890"], "12345678901234567890"),
            (&["9223372036854775807", "1"], "9.223372036854776e+18"),
            (&["1e308", "1e308"], "1e308"),
            (&["true", "false"], "false"),
            (&["[1]", "[ ]", "[ 2, 3 ]"], "[1,2, 3]"),
            (&["[]", r#"[{"a":1}]"#, r#"[{"a":2}]"#], r#"[{"a":1},{"a":2}]"#),
            (&[r#"{"z":1.0e0,"a":"x"}"#], r#"{"z":1.0e0,"a":"x"}"#),
            (&[r#"{"a":"x"}"#, r#"{"b":[1],"a":"y"}"#, r#"{"b":[2]}"#], r#"{"a":"xy","b":[1,2]}"#),
            (
                &[r#"{"a":{"b":{"c":"1"}}}"#, r#"{"a":{"b":{"c":"2"}}}"#],
                r#"{"a":{"b":{"c":"12"}}}"#,
            ),
            (&[r#"{"id":"x","type":"t"}"#, r#"{"id":"x","type":"t"}"#], r#"{"id":"x","type":"t"}"#),
            (&[r#"{"id":"x"}"#, r#"{"id":""}"#, r#"{"id":"y"}"#], r#"{"id":"xy"}"#),
            // What does not fit together leaves what was there.
            (&[r#""a""#, "1", "{}", "[1]"], r#""a""#),
            (&["[1]", r#""a""#], "[1]"),
        ] {
            assert_eq!(merged(Rule::Piece, values).unwrap(), expected, "{values:?}");
        }
    }

    #[test]
    fn items_with_an_index_grow_each() {
        let fragments = [
            r#"[{"index":1,"f":{"a":"x"}},{"index":0,"f":{"a":"1"}}]"#,
            r#"[{"index":0,"f":{"a":"2"}}]"#,
            r#"[{"index":1,"f":{"a":"y"},"n":null},{"index":1,"f":{"a":"z"}}]"#,
        ];
        assert_eq!(
            merged(Rule::Piece, &fragments).unwrap(),
            r#"[{"f":{"a":"12"},"index":0},{"f":{"a":"xyz"},"index":1,"n":null}]"#
        );
        let (with, without) = (r#"[{"index":0}]"#, r#"[{"a":1}]"#);
        for mixed in [[with, without], [without, with]] {
            assert_eq!(merged(Rule::Piece, &mixed), Err(StreamError::Unexpected));
        }
    }

    #[test]
    fn a_newer_state_replaces_but_arrays_grow() {
        for (values, expected) in [
            (&[r#""a""#, r#""b""#, "null"][..], r#""b""#),
            (&["1", "2"], "2"),
            (
                &["null", r#"{"t":["a"],"s":"x"}"#, r#"{"t":["b"],"s":"y"}"#],
                r#"{"s":"y","t":["a","b"]}"#,
            ),
            (
                &[r#"{"c":[{"index":0}]}"#, r#"{"c":[{"index":0}]}"#],
                r#"{"c":[{"index":0},{"index":0}]}"#,
            ),
            (&["{}", "1"], "1"),
        ] {
            assert_eq!(merged(Rule::State, values).unwrap(), expected, "{values:?}");
        }
    }

    #[test]
    fn depth_and_entries_are_bounded() {
        let deep = format!("{}\"x\"{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert_eq!(merged(Rule::Piece, &[&deep, &deep]).unwrap(), deep);
        let (first, twice) = (r#"{"index":0,"a":[]},"#, r#"{"index":0,"a":["#);
        let deep = format!("[{}{}]", [first, twice].concat().repeat(1000), "]}".repeat(1000));
        let saved = deep.len() - merged(Rule::Piece, &[&deep]).unwrap().len();
        // Each level is two deep: an array and an object.
        assert_eq!(saved, usize::from(MAX_DEPTH / 2) * first.len());
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("{{\"index\":{n}}}")).collect();
        let many = format!("[{}]", many.join(","));
        assert_eq!(merged(Rule::Piece, &[&many]), Err(StreamError::TooLarge));
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("\"{n}\":0")).collect();
        let many: Vec<String> =
            many.chunks(1000).map(|some| format!("{{{}}}", some.join(","))).collect();
        let many: Vec<&str> = many.iter().map(|object| &**object).collect();
        assert_eq!(merged(Rule::Piece, &many), Err(StreamError::TooLarge));
    }
}
