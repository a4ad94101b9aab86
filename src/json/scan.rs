//! Reads a text once: whether it is JSON, and where the members of its object
//! stand. As in `serde_json`, escapes may name lone surrogates, except in the
//! located members' names. Nothing recurses: no depth overflows the stack.

use super::bulk::{behind, common_prefix};
use super::string::end_of_string;
use super::{JsonError, MAX_MEMBERS, Member, Object, Place, is_utf8, name_of};

/// The text is not JSON.
pub(super) struct NotJson;

/// Of no more items than this, all arrays of an object taken together, the places are kept.
const MAX_ITEMS: usize = 4096;
/// Shorter ones are read as fast as compared, and their places would take more than they do.
const MIN_ITEM: usize = 32;
/// So many items are tried where one is not what it was: others before it may be gone.
const WINDOW: usize = 32;
/// The same where the item before was not what it was either.
const NARROW_WINDOW: usize = 3;

/// What is to be learned of an object beside where its members stand.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted<'w> {
    /// Where the items of its arrays stand.
    pub(super) items: bool,
    /// Where the members of this member stand, if it is an object.
    pub(super) inner: Option<&'w str>,
    /// Nothing of any other member than this one.
    pub(super) only: Option<&'w str>,
    /// What the innermost object is a version of: bytes that are the same need no reading.
    pub(super) beside: Option<&'w Object<'w, [u8]>>,
}

/// What was read of an object.
#[derive(Default)]
pub(super) struct Read<'a> {
    pub(super) members: Vec<Member<'a, [u8]>>,
    /// Why there are no members.
    pub(super) refused: Option<JsonError>,
    /// The inner object, and its text.
    pub(super) inner: Option<(&'a [u8], Box<Read<'a>>)>,
}

pub(super) struct Scanner<'a> {
    text: &'a [u8],
    rest: &'a [u8],
    /// The closing brackets to come, without the next one.
    open: Vec<u8>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, rest: text, open: Vec::new() }
    }

    /// Reads the whole text. `None`: JSON, but no object.
    pub(super) fn read(&mut self, wanted: Wanted<'_>) -> Result<Option<Read<'a>>, NotJson> {
        let read = if self.peek() == Some(b'{') {
            Some(self.object(0, wanted)?)
        } else {
            self.value()?;
            None
        };
        if self.peek().is_some() { Err(NotJson) } else { Ok(read) }
    }

    /// Reads the last members of an object, to the end of the text; the value of the first one.
    pub(super) fn last_members(&mut self) -> Result<&'a [u8], NotJson> {
        self.key()?;
        self.peek();
        let start = self.at();
        self.value()?;
        let value = self.text.get(start..self.at()).ok_or(NotJson)?;
        while self.follows(b'}')? {
            self.key()?;
            self.value()?;
        }
        if self.peek().is_some() { Err(NotJson) } else { Ok(value) }
    }

    fn at(&self) -> usize {
        self.text.len().saturating_sub(self.rest.len())
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.rest {
                [b' ' | b'\n' | b'\r' | b'\t', behind @ ..] => self.rest = behind,
                rest => return rest.first().copied(),
            }
        }
    }

    /// Whether another item follows in a list that `close` ends.
    fn follows(&mut self, close: u8) -> Result<bool, NotJson> {
        let next = self.peek();
        self.skip(1);
        match next {
            Some(b',') => Ok(true),
            Some(byte) if byte == close => Ok(false),
            _ => Err(NotJson),
        }
    }

    /// Whether the list that begins here, and that `close` ends, is empty; then it is over.
    fn is_empty(&mut self, close: u8) -> bool {
        self.skip(1);
        let empty = self.peek() == Some(close);
        if empty {
            self.skip(1);
        }
        empty
    }

    /// Reads the object that begins here; its members' places count from `base`.
    fn object(&mut self, base: usize, wanted: Wanted<'_>) -> Result<Read<'a>, NotJson> {
        let mut read = Read::default();
        if self.is_empty(b'}') {
            return Ok(read);
        }
        read.members.reserve(if wanted.only.is_some() { 1 } else { 16 });
        let mut items = if wanted.items { MAX_ITEMS } else { 0 };
        let from_base = |at: usize| at.saturating_sub(base);
        loop {
            self.peek();
            let key = self.at();
            let quoted = self.key()?;
            let name = name_of(quoted);
            self.peek();
            let start = self.at();
            if wanted.only.is_some_and(|only| name.as_deref() != Some(only)) {
                self.value()?;
                if self.follows(b'}')? {
                    continue;
                }
                return Ok(read);
            }
            let mut place = match &name {
                Some(name) if wanted.inner == Some(name) && self.rest.first() == Some(&b'{') => {
                    let inner = self.object(start, Wanted { inner: None, ..wanted })?;
                    let text = self.text.get(start..self.at()).ok_or(NotJson)?;
                    read.inner = Some((text, Box::new(inner)));
                    Place::default()
                }
                Some(name) if wanted.inner.is_none() => {
                    let before = wanted.beside.and_then(|object| object.member(name));
                    self.member(before, &mut items)?
                }
                _ => Place { depth: self.value()?, ..Place::default() },
            };
            let value = self.text.get(start..self.at()).ok_or(NotJson)?;
            place.key = from_base(key)..from_base(key.saturating_add(quoted.len()));
            place.value = from_base(start)..from_base(self.at());
            match name {
                _ if read.refused.is_some() => {}
                None => read.refused = Some(JsonError::NotJson),
                Some(_) if read.members.len() == MAX_MEMBERS => {
                    read.refused = Some(JsonError::TooManyMembers);
                }
                Some(name) => read.members.push(Member { name, value, place }),
            }
            if !self.follows(b'}')? {
                return Ok(read);
            }
        }
    }

    /// Reads a member's value, which was `before` in another version.
    fn member(
        &mut self,
        before: Option<&Member<'_, [u8]>>,
        items: &mut usize,
    ) -> Result<Place, NotJson> {
        let shared = before.map_or(0, |it| common_prefix(it.value, self.rest));
        if let Some(before) = before.filter(|before| before.value.len() == shared)
            && matches!(self.rest.get(shared), Some(b',' | b'}' | b' ' | b'\n' | b'\r' | b'\t'))
        {
            self.skip(shared);
            let Place { depth, only_objects, .. } = before.place;
            return Ok(Place { depth, only_objects, shared, ..Place::default() });
        }
        if self.rest.first() == Some(&b'[') {
            self.array(before, shared, items)
        } else {
            Ok(Place { depth: self.value()?, ..Place::default() })
        }
    }

    /// Reads an array, of which `shared` bytes are as they were `before`. Of so
    /// many `items` the places are kept.
    fn array(
        &mut self,
        before: Option<&Member<'_, [u8]>>,
        shared: usize,
        items: &mut usize,
    ) -> Result<Place, NotJson> {
        let base = self.at();
        let mut place = Place { depth: 1, only_objects: true, ..Place::default() };
        let known = before.map(|before| &*before.place.items).unwrap_or_default();
        let was_deep = before.map_or(0, |before| before.place.depth);
        // How many of the known items are behind us.
        let mut next = known.partition_point(|item| item.end <= shared);
        let last = next.checked_sub(1).and_then(|at| known.get(at));
        let mut more = if let (Some(last), Some(before)) = (last, before) {
            place = Place { depth: was_deep, only_objects: before.place.only_objects, ..place };
            place.shared = last.end;
            self.skip(last.end);
            self.follows(b']')?
        } else {
            !self.is_empty(b']')
        };
        let mut window = WINDOW;
        while more {
            let first = self.peek();
            place.only_objects &= first == Some(b'{');
            let (start, rest) = (self.at(), self.rest);
            let tried = known.iter().enumerate().skip(next.saturating_sub(1)).take(window);
            let found = tried.into_iter().find_map(|(at, item)| {
                let text = before?.value.get(item.clone())?;
                Some((at, behind(rest, text)?))
            });
            let depth = if let Some((at, behind)) = found {
                (next, window, self.rest) = (at, WINDOW, behind);
                was_deep
            } else {
                window = NARROW_WINDOW;
                self.value()?.saturating_add(1)
            };
            next = next.saturating_add(1);
            place.depth = place.depth.max(depth);
            // What ends by itself: a number might go on.
            let ends = matches!(first, Some(b'{' | b'[' | b'"'));
            let item = start.saturating_sub(base)..self.at().saturating_sub(base);
            if *items > 0 && ends && item.len() >= MIN_ITEM {
                *items = items.saturating_sub(1);
                place.items.push(item);
            }
            more = self.follows(b']')?;
        }
        Ok(place)
    }

    /// Reads the value that begins here; how many arrays and objects stand inside each other in it.
    fn value(&mut self) -> Result<usize, NotJson> {
        let mut deepest = 0;
        // What closes the list around the value that is being read; 0: nothing does.
        let mut close = 0;
        self.open.clear();
        loop {
            match self.peek() {
                Some(b'"') => self.string()?,
                Some(bracket @ (b'{' | b'[')) => {
                    self.open.push(close);
                    deepest = deepest.max(self.open.len());
                    close = if bracket == b'{' { b'}' } else { b']' };
                    if !self.is_empty(close) {
                        if close == b'}' {
                            self.key()?;
                        }
                        continue;
                    }
                    close = self.open.pop().unwrap_or(0);
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                Some(_) => self.number()?,
                None => return Err(NotJson),
            }
            loop {
                if close == 0 {
                    return Ok(deepest);
                }
                if self.follows(close)? {
                    break;
                }
                close = self.open.pop().unwrap_or(0);
            }
            if close == b'}' {
                self.key()?;
            }
        }
    }

    /// Reads a member's name and the colon; the name with its quotes.
    fn key(&mut self) -> Result<&'a [u8], NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson);
        }
        let start = self.at();
        self.string()?;
        let quoted = self.text.get(start..self.at()).ok_or(NotJson)?;
        if self.peek() != Some(b':') {
            return Err(NotJson);
        }
        self.skip(1);
        Ok(quoted)
    }

    /// Reads the string that begins here.
    fn string(&mut self) -> Result<(), NotJson> {
        let inside = self.rest.get(1..).unwrap_or_default();
        let ended = end_of_string(inside).ok_or(NotJson)?;
        let (string, behind) = inside.split_at_checked(ended.length).ok_or(NotJson)?;
        if ended.wide && !is_utf8(string) {
            return Err(NotJson);
        }
        self.rest = behind;
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), NotJson> {
        self.rest = self.rest.strip_prefix(word).ok_or(NotJson)?;
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotJson> {
        let rest = self.rest.strip_prefix(b"-").unwrap_or(self.rest);
        let mut rest = match rest {
            [b'0', behind @ ..] => behind,
            rest => digits(rest)?,
        };
        if let [b'.', behind @ ..] = rest {
            rest = digits(behind)?;
        }
        if let [b'e' | b'E', behind @ ..] = rest {
            rest = match behind {
                [b'+' | b'-', behind @ ..] | behind => digits(behind)?,
            };
        }
        self.rest = rest;
        Ok(())
    }
}

/// What follows the digits, of which there must be one.
fn digits(text: &[u8]) -> Result<&[u8], NotJson> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 { Err(NotJson) } else { text.get(count..).ok_or(NotJson) }
}

#[cfg(test)]
mod tests {
    use crate::json::is_json;
    use serde_json::value::RawValue;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const JSON: [&str; 26] = [
        "{}",
        "[]",
        " [ ] ",
        "\t\n\r {\"a\" : [ 1 , 2 ] }\n",
        "0",
        "-0",
        "10",
        "-1.5",
        "1e5",
        "1E+5",
        "1.25e-05",
        "0e0",
        "0.0",
        "123456789012345678901234567890",
        "1e999",
        "true",
        "false",
        "null",
        "\"\"",
        r#""\"\\\/\b\f\n\r\t""#,
        r#""\u0000\uABCD\uabcd\ud83d\ude00""#,
        r#""\ud800""#,
        "\"\u{7f}é😀\u{2028}\"",
        r#"{"":0,"a":{"a":[[],{}]}}"#,
        r#"{"a":1,"a":2}"#,
        "[[[[[[]]]]]]",
    ];

    const NOT_JSON: [&str; 62] = [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[,]",
        "[1 2]",
        "[1}",
        "{]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{\"a\" 1}",
        "{1:2}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1}}",
        "[]]",
        "{}{}",
        "1 2",
        "[1]x",
        "01",
        "-",
        "-a",
        "+1",
        ".5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "-01",
        "0x1",
        "1_0",
        "00",
        "Infinity",
        "NaN",
        "-Infinity",
        "tru",
        "truee",
        "True",
        "nul",
        "fals",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12G4\"",
        "\"\\",
        "\"\n\"",
        "\"\0\"",
        "\"\u{1f}\"",
        "\u{feff}[]",
        "[1,\u{a0}2]",
    ];

    #[test]
    fn what_is_json_and_what_is_not() {
        for text in JSON {
            assert!(is_json(text), "{text:?}");
        }
        for text in NOT_JSON {
            assert!(!is_json(text), "{text:?}");
        }
    }

    /// Each text with a byte put in, taken out or replaced: as serde_json has it.
    #[test]
    fn every_mutation_is_judged_as_elsewhere() {
        let bytes = b"{}[],:\"\\/u019aefnrtb-+.E \n\t\x01\x7f";
        let long =
            format!(r#"{{"long":"{}\n{}","b":[1,{{"c":null}}]}}"#, "x".repeat(40), "y".repeat(70));
        for text in JSON.into_iter().chain(NOT_JSON).chain([&*long]) {
            for at in 0..=text.len() {
                let (before, after) = text.as_bytes().split_at(at);
                let rest = after.get(1..).unwrap_or_default();
                let replaced = bytes.iter().map(|&byte| [before, &[byte], rest].concat());
                let added = bytes.iter().map(|&byte| [before, &[byte], after].concat());
                for mutant in replaced.chain(added).chain([[before, rest].concat()]) {
                    let Ok(mutant) = std::str::from_utf8(&mutant) else { continue };
                    let expected = serde_json::from_str::<&RawValue>(mutant).is_ok();
                    assert_eq!(is_json(mutant), expected, "{mutant:?}");
                }
            }
        }
    }
}
