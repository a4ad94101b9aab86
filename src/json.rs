//! Raw JSON: members located in one validating pass, compared and spliced
//! without building trees, so that bytes nobody changed are never rewritten.

mod bulk;
mod cursor;
mod equal;
mod scan;
mod string;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use bytes::Bytes;

use bulk::same;
pub use cursor::{each_item, each_member, items};
pub use equal::equal;
use equal::equal_beyond;
use scan::{NotJson, Read, Scanner, Wanted};

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

/// One member of an object.
#[derive(Debug)]
pub struct Member<'a, T: ?Sized = str> {
    /// The name, escapes decoded.
    pub name: Cow<'a, str>,
    /// The value as it stands in the text.
    pub value: &'a T,
    place: Place,
}

impl<T: ?Sized> Member<'_, T> {
    /// How many arrays and objects stand inside each other in the value. Beside
    /// another version of the object, parts that are the same count as no less deep than
    /// all that was there.
    pub fn depth(&self) -> usize {
        self.place.depth
    }

    /// Whether the value is an array in which every item is an object.
    pub fn holds_only_objects(&self) -> bool {
        self.place.only_objects
    }
}

/// Where a member stands in its object's text, and what was seen there.
#[derive(Clone, Debug, Default)]
struct Place {
    /// The name with its quotes.
    key: Range<usize>,
    value: Range<usize>,
    depth: usize,
    only_objects: bool,
    /// Items of an array, counted from the value's beginning.
    items: Vec<Range<usize>>,
    /// So many bytes are those of the other version: the whole value, or whole items of an array.
    shared: usize,
}

/// Where the members of an object stand, for as long as its text does not change.
#[derive(Debug)]
pub(crate) struct Places(Vec<Place>);

/// An object's text and where its members stand in it: as `str`, or as the bytes of which each
/// part that is wanted as text has to be asked for as such; in both cases they are UTF-8.
#[derive(Debug)]
pub struct Object<'a, T: ?Sized = str> {
    text: &'a T,
    members: Vec<Member<'a, T>>,
    /// Where the members are many: their places, by name.
    by_name: Vec<usize>,
}

/// Up to so many members are looked through one by one.
const FEW: usize = 32;
/// No request and no answer has more members; each costs more than its bytes.
const MAX_MEMBERS: usize = 4096;

fn distinct(members: &[Member<'_, [u8]>]) -> Result<Vec<usize>, JsonError> {
    let mut rest = members;
    while let [first, others @ ..] = rest {
        if others.iter().any(|other| other.name == first.name) {
            return Err(JsonError::DuplicateMember);
        }
        rest = others;
    }
    Ok(Vec::new())
}

fn sorted(members: &[Member<'_, [u8]>]) -> Result<Vec<usize>, JsonError> {
    let name = |&place: &usize| members.get(place).map(|member| &*member.name);
    let by_name = in_order(members.len(), &|a, b| name(&a).cmp(&name(&b)));
    if by_name.windows(2).any(|pair| matches!(pair, [a, b] if name(a) == name(b))) {
        return Err(JsonError::DuplicateMember);
    }
    Ok(by_name)
}

/// The numbers of so many things in the order that `compare` gives them. On a heap:
/// the slices' own sort is 7 KB more of Wasm.
fn in_order(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let placed = (0..count).map(|place| Placed { place, compare });
    let sorted = placed.collect::<BinaryHeap<_>>().into_sorted_vec();
    sorted.into_iter().map(|placed| placed.place).collect()
}

/// The number of a thing, in the order of its kind.
struct Placed<'c> {
    place: usize,
    compare: &'c dyn Fn(usize, usize) -> Ordering,
}

impl Ord for Placed<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.compare)(self.place, other.place)
    }
}

impl PartialOrd for Placed<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Placed<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Placed<'_> {}

impl<'a> Object<'a> {
    /// Validates `bytes` and locates the members.
    ///
    /// # Errors
    /// Says in which way it is not a spliceable object.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        Self::read(bytes, Wanted::default())
    }

    /// The same with no other member than `name`.
    ///
    /// # Errors
    /// Likewise, but for what concerns the others' names.
    pub fn parse_only(bytes: &'a [u8], name: &str) -> Result<Self, JsonError> {
        Self::read(bytes, Wanted { only: Some(name), ..Wanted::default() })
    }

    fn read(bytes: &'a [u8], wanted: Wanted<'_>) -> Result<Self, JsonError> {
        let text = text(bytes).ok_or(JsonError::NotJson)?;
        let (Object { members, by_name, .. }, _) = Object::read_bytes(bytes, wanted)?;
        let as_text = |Member { name, place, .. }: Member<'a, [u8]>| {
            Some(Member { name, value: text.get(place.value.clone())?, place })
        };
        let members = members.into_iter().map(as_text).collect::<Option<_>>();
        Ok(Self { text, members: members.ok_or(JsonError::NotJson)?, by_name })
    }
}

impl<'a> Object<'a, [u8]> {
    /// Validates `bytes` and locates the members in one pass, for an object of which another
    /// version will be parsed beside it.
    ///
    /// # Errors
    /// Says in which way it is not a spliceable object.
    pub fn parse_first(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let wanted = Wanted { items: true, ..Wanted::default() };
        Self::read_bytes(bytes, wanted).map(|(object, _)| object)
    }

    /// The same, and in the same pass the object that it holds as `inner`.
    /// That may be another version of `beside`, of which nothing is read again.
    ///
    /// # Errors
    /// Likewise.
    pub fn parse_with_inner(
        bytes: &'a [u8],
        inner: &str,
        beside: Option<&Object<'_, [u8]>>,
    ) -> Result<(Self, Option<Result<Self, JsonError>>), JsonError> {
        Self::read_bytes(bytes, Wanted { inner: Some(inner), beside, ..Wanted::default() })
    }

    fn read_bytes(
        bytes: &'a [u8],
        wanted: Wanted<'_>,
    ) -> Result<(Self, Option<Result<Self, JsonError>>), JsonError> {
        let read = Scanner::new(bytes).read(wanted).map_err(|NotJson| JsonError::NotJson)?;
        let mut read = read.ok_or(JsonError::NotObject)?;
        let inner = read.inner.take().map(|(text, read)| Self::of(text, *read));
        Ok((Self::of(bytes, read)?, inner))
    }

    fn of(text: &'a [u8], read: Read<'a>) -> Result<Self, JsonError> {
        if let Some(refused) = read.refused {
            return Err(refused);
        }
        let members = read.members;
        let by_name = if members.len() > FEW { sorted(&members)? } else { distinct(&members)? };
        Ok(Self { text, members, by_name })
    }

    /// Where the members stand, if they are few enough to remember.
    pub(crate) fn places(self) -> Option<Places> {
        let few = self.by_name.is_empty();
        few.then(|| Places(self.members.into_iter().map(|member| member.place).collect()))
    }

    /// What [`Object::parse_first`] made of `bytes`, with the places that are remembered of it.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn parse_again(bytes: &'a [u8], places: Option<Places>) -> Result<Self, JsonError> {
        places
            .and_then(|places| Self::at(bytes, places))
            .map_or_else(|| Self::parse_first(bytes), Ok)
    }

    fn at(text: &'a [u8], places: Places) -> Option<Self> {
        let member = |place: Place| {
            let name = name_of(text.get(place.key.clone())?)?;
            Some(Member { name, value: text.get(place.value.clone())?, place })
        };
        let members = places.0.into_iter().map(member).collect::<Option<_>>()?;
        Some(Self { text, members, by_name: Vec::new() })
    }

    /// The value of the member called `name` as text.
    pub fn text_of(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(text)
    }
}

impl<'a, T: ?Sized> Object<'a, T> {
    /// The text itself.
    pub fn text(&self) -> &'a T {
        self.text
    }

    /// The members in the order of the text.
    pub fn members(&self) -> &[Member<'a, T>] {
        &self.members
    }

    /// The value of the member called `name`, as it stands in the text.
    pub fn get(&self, name: &str) -> Option<&'a T> {
        self.member(name).map(|member| member.value)
    }

    /// The member called `name`, which most likely stands at `place`.
    fn member_near(&self, place: usize, name: &str) -> Option<&Member<'a, T>> {
        let near = self.members.get(place).filter(|member| member.name == name);
        near.or_else(|| self.member(name))
    }

    /// The member called `name`.
    pub(crate) fn member(&self, name: &str) -> Option<&Member<'a, T>> {
        if self.by_name.is_empty() {
            self.members.iter().find(|member| member.name == name)
        } else {
            let name_at = |&place: &usize| self.members.get(place).map(|member| &*member.name);
            let found = self.by_name.binary_search_by(|place| name_at(place).cmp(&Some(name)));
            found.ok().and_then(|at| self.members.get(*self.by_name.get(at)?))
        }
    }
}

impl Object<'_, [u8]> {
    /// This object with `new` laid over it: a member that `new` holds with an
    /// equal value keeps its bytes, one with another value takes `new`'s value,
    /// one that only `new` holds is added at the end. A member that `new` lacks
    /// is removed if `remove_missing`, else kept. Where `new` was parsed beside
    /// another object, that was this one.
    ///
    /// `None` if nothing changes; borrowed if that is what `new` is as it stands.
    pub fn overlay<'n>(
        &self,
        new: &Object<'n, [u8]>,
        remove_missing: bool,
    ) -> Option<Cow<'n, [u8]>> {
        let from = |range: Range<usize>| self.text.get(range).unwrap_or_default();
        let mut changed = false;
        let mut pieces = Vec::with_capacity(self.members.len().saturating_mul(2).saturating_add(4));
        let head_end = self.members.first().map_or_else(
            || self.text.iter().position(|&byte| byte == b'{').map_or(0, |at| at.saturating_add(1)),
            |member| member.place.key.start,
        );
        pieces.push(from(0..head_end));
        let mut previous_end = head_end;
        let mut empty = true;
        for (at, member) in self.members.iter().enumerate() {
            let Place { key, value, .. } = &member.place;
            let found = new.member_near(at, &member.name);
            // What stands between the previous value and this key holds the one comma needed.
            let start = if empty { key.start } else { previous_end };
            previous_end = value.end;
            if found.is_none() && remove_missing {
                changed = true;
                continue;
            }
            empty = false;
            pieces.push(from(start..value.start));
            pieces.push(match found {
                // The same bytes, perhaps in their place.
                Some(new) if new.place.shared == member.value.len() => new.value,
                Some(new) if !equal_beyond(new.place.shared, member.value, new.value) => {
                    changed = true;
                    new.value
                }
                _ => member.value,
            });
        }
        for (at, member) in new.members.iter().enumerate() {
            if self.member_near(at, &member.name).is_some() {
                continue;
            }
            changed = true;
            if !empty {
                pieces.push(b",");
            }
            empty = false;
            let Place { key, value, .. } = &member.place;
            pieces.push(new.text.get(key.start..value.end).unwrap_or_default());
        }
        pieces.push(from(previous_end..self.text.len()));
        changed.then(|| {
            let is_new = is_made_of(new.text, &pieces);
            if is_new { Cow::Borrowed(new.text) } else { Cow::Owned(pieces.concat()) }
        })
    }
}

/// Whether `text` is these `pieces`, of which some may be its own.
fn is_made_of(text: &[u8], pieces: &[&[u8]]) -> bool {
    let behind_all = pieces.iter().try_fold(text, |rest, &piece| {
        let (start, behind) = rest.split_at_checked(piece.len())?;
        (std::ptr::eq(start, piece) || same(start, piece)).then_some(behind)
    });
    behind_all.is_some_and(<[u8]>::is_empty)
}

fn copy(out: &mut Vec<u8>, from: &[u8], range: Range<usize>) {
    out.extend_from_slice(from.get(range).unwrap_or_default());
}

/// Whether `text` is JSON.
pub(crate) fn is_json(text: &str) -> bool {
    Scanner::new(text.as_bytes()).read(Wanted::default()).is_ok()
}

/// The value of the member called `quoted` of an object of which only the end is read: that member
/// and what follows it. `None` if it does not begin in the last 4 KiB, or that end is no object's.
pub(crate) fn near_end<'a>(object: &'a [u8], quoted: &[u8]) -> Option<&'a str> {
    const NEAR: usize = 4 * 1024;
    let near = object.get(object.len().saturating_sub(NEAR)..)?;
    // Inside a string its quotes would be escaped.
    let at = (0..near.len()).rev().find(|&at| {
        near.get(at) == Some(&b'"') && near.get(at..).is_some_and(|end| end.starts_with(quoted))
    })?;
    Scanner::new(near.get(at..)?).last_members().ok().and_then(text)
}

/// `bytes` as text, if that is what they are.
fn text(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

fn is_utf8(bytes: &[u8]) -> bool {
    text(bytes).is_some()
}

/// A member's name without its quotes, borrowed where it has no escapes; `None`
/// if one of those names half a surrogate pair.
fn name_of(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inside = quoted.get(1..quoted.len().saturating_sub(1))?;
    if inside.contains(&b'\\') {
        serde_json::from_slice(quoted).ok().map(Cow::Owned)
    } else {
        std::str::from_utf8(inside).ok().map(Cow::Borrowed)
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
pub fn kind(value: &(impl AsRef<[u8]> + ?Sized)) -> Kind {
    match value.as_ref().trim_ascii_start().first() {
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b'"') => Kind::String,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') | None => Kind::Null,
        Some(_) => Kind::Number,
    }
}

/// Whether `value`, valid JSON, is an array or object with nothing in it.
pub fn is_empty(value: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    let mut bytes = value.as_ref().iter().filter(|byte| !byte.is_ascii_whitespace());
    bytes.next();
    matches!(bytes.next(), Some(b']' | b'}'))
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
        let original = Object::parse_first(original.as_bytes()).unwrap();
        let new = Object::parse_first(new.as_bytes()).unwrap();
        original.overlay(&new, remove_missing).map(|out| {
            assert!(Object::parse(&out).is_ok(), "not JSON: {out:?}");
            String::from_utf8(out.into_owned()).unwrap()
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
    fn what_is_no_utf8_is_no_json_wherever_it_stands() {
        let long = "a".repeat(70);
        for wrong in
            [&b"\xff"[..], b"\x80", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]
        {
            for before in (0..70).map(|length| &long[..length]).chain(["é", "\\n", "日本"]) {
                let string = [b"\"", before.as_bytes(), wrong, b"\""].concat();
                for text in [
                    [b"{\"a\":", &*string, b"}"].concat(),
                    [b"{\"a\":[{\"b\":", &*string, b"}]}"].concat(),
                    [b"{", &*string, b":1}"].concat(),
                    [b"{\"a\":{", &*string, b":1}}"].concat(),
                ] {
                    assert_eq!(Object::parse_first(&text).err(), Some(JsonError::NotJson));
                    assert_eq!(Object::parse(&text).err(), Some(JsonError::NotJson));
                }
                let outer = [b"{\"request\":{\"a\":", &*string, b"}}"].concat();
                let original = [b"{\"a\":\"", before.as_bytes(), b"\"}"].concat();
                let original = Object::parse_first(&original).unwrap();
                let beside = Object::parse_with_inner(&outer, "request", Some(&original));
                assert_eq!(beside.err(), Some(JsonError::NotJson));
            }
        }
        assert!(Object::parse_first("{\"a\":\"日本\",\"é\":\"naïve 😀\"}".as_bytes()).is_ok());
        assert!(Object::parse_first("{\"a\":é}".as_bytes()).is_err());
    }

    #[test]
    fn what_the_new_text_is_already_is_not_copied() {
        let original = r#"{"a":1,"b":[{"c":"dddddddddddddddddddddddddddddddd"},2],"e":{}}"#;
        for (new, borrowed) in [
            (original.replace(",2]", ",3]"), true),
            (original.replace("}}", "},\"f\":5}"), true),
            (original.replace("\"a\":1,", ""), true),
            (original.replace("\"a\":1", "\"a\":2"), true),
            (original.replace("\"a\":1", "\"a\" :2"), false),
            (original.replace("\"a\":1", "\"a\":1.0").replace(",2]", ",3]"), false),
            (original.replace("\"a\":1,", "").replace("}}", "},\"a\":7}"), false),
        ] {
            let first = Object::parse_first(original.as_bytes()).unwrap();
            let outer = format!(r#"{{"request":{new}}}"#);
            let beside = Object::parse_with_inner(outer.as_bytes(), "request", Some(&first));
            let spliced = beside.unwrap().1.unwrap().unwrap();
            let laid = first.overlay(&spliced, true).unwrap();
            assert_eq!(matches!(laid, Cow::Borrowed(_)), borrowed, "{new}");
            if borrowed {
                assert_eq!(*laid, *new.as_bytes());
            }
        }
    }

    #[test]
    fn kinds_and_emptiness() {
        assert_eq!(kind(" {"), Kind::Object);
        assert_eq!(kind("[]"), Kind::Array);
        assert_eq!(kind("\"\""), Kind::String);
        assert_eq!(kind("-1"), Kind::Number);
        assert_eq!(kind("false"), Kind::Bool);
        assert_eq!(kind("null"), Kind::Null);
        let seen = |value: &str| {
            let text = format!(r#"{{"v":{value}}}"#);
            let object = Object::parse(text.as_bytes()).unwrap();
            (object.members[0].depth(), object.members[0].holds_only_objects())
        };
        assert!(seen(r#" [ {"a":["}"]} , {} ] "#).1 && seen("[]").1);
        assert!(!seen("[{},1]").1 && !seen("{}").1);
        for (value, expected) in
            [("1", 0), ("[]", 1), (r#"{"a":[{"b\"[[[[":"]\\"}],"c":{}}"#, 3), (r#""[\\\"[[""#, 0)]
        {
            assert_eq!(seen(value).0, expected, "{value}");
        }
        assert_eq!(items(" [ ]"), Some(vec![]));
        assert_eq!(items("[ 1 ,[2,3],\"]\"]"), Some(vec!["1", "[2,3]", "\"]\""]));
        assert_eq!(items("{\"a\":[1]}"), None);
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
