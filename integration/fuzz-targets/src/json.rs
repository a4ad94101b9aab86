//! Raw JSON: locating members, comparing values, laying one object over another.

use optimizer_core::json::{self, JsonError, Kind, Object, equal};
use serde_json::value::RawValue;

use crate::oracle::Tree;
use crate::two_parts;

/// How deep values may be for equality to be complete: the order of members is
/// compared within a budget.
const SHALLOW: usize = 3;
/// Deeper values are not compared.
const DEEP: usize = 100;

/// Two texts, parted by a line `===`.
pub fn target(data: &[u8]) {
    let (first, second) = two_parts(data);
    parsing(first);
    values(first, second);
    beside(first, second);
    let (Ok(a), Ok(b)) = (Object::parse_first(first), Object::parse_first(second)) else { return };
    identity(&a);
    identity(&b);
    for remove_missing in [false, true] {
        overlay(&a, &b, remove_missing);
        overlay(&b, &a, remove_missing);
    }
}

fn value(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
}

/// A text is an object exactly when serde_json says so, and its members are where they are.
fn parsing(text: &[u8]) {
    let parsed = Object::parse(text);
    let tree = std::str::from_utf8(text).ok().and_then(Tree::read);
    let half_a_name = std::str::from_utf8(text).is_ok_and(|text| text.contains("\\u"));
    match (&parsed, value(text)) {
        (Err(JsonError::NotJson), None) => {}
        // Names are read: half a surrogate pair is no name.
        (Err(JsonError::NotJson), Some(_)) => assert!(half_a_name && tree.is_none(), "is JSON"),
        (_, None) => panic!("is no JSON"),
        (Err(JsonError::NotObject), Some(value)) => assert_ne!(json::kind(value), Kind::Object),
        (_, Some(value)) => assert_eq!(json::kind(value), Kind::Object),
    }
    if let (Err(JsonError::DuplicateMember), Some(tree)) = (&parsed, &tree) {
        assert!(tree.has_duplicates());
    }
    let Ok(object) = parsed else { return };
    for member in object.members() {
        assert_eq!(value(member.value.as_bytes()), Some(member.value), "{}", member.name);
        assert_eq!(object.get(&member.name), Some(member.value));
    }
    if let Some(Tree::Object(members)) = tree {
        let names: Vec<_> = object.members().iter().map(|member| &*member.name).collect();
        assert_eq!(names, members.iter().map(|(name, _)| &**name).collect::<Vec<_>>());
    }
}

/// What is said about single values.
fn values(first: &[u8], second: &[u8]) {
    let (Some(a), Some(b)) = (value(first), value(second)) else { return };
    assert!(equal(a, a));
    assert_eq!(equal(a, b), equal(b, a), "{a} {b}");
    let (Some(left), Some(right)) = (Tree::read(a), Tree::read(b)) else { return };
    let (kind, empty) = match &left {
        Tree::Null => (Kind::Null, None),
        Tree::Bool(_) => (Kind::Bool, None),
        Tree::Number(_) => (Kind::Number, None),
        Tree::String(_) => (Kind::String, None),
        Tree::Array(items) => (Kind::Array, Some(items.is_empty())),
        Tree::Object(members) => (Kind::Object, Some(members.is_empty())),
    };
    assert_eq!(json::kind(a), kind);
    check_shape(a, &left);
    if let Some(empty) = empty {
        assert_eq!(json::is_empty(a), empty, "{a}");
    }
    if equal(a, b) {
        assert_eq!(left, right);
    } else if left == right {
        let plain = |tree: &Tree| tree.depth() <= SHALLOW && !tree.has_duplicates();
        assert!(!plain(&left) || !plain(&right), "{a} equals {b}");
    }
}

/// What is seen of a value on the way through it.
fn check_shape(text: &str, tree: &Tree) {
    let holder = format!(r#"{{"v":{text}}}"#);
    let Ok(object) = Object::parse(holder.as_bytes()) else { panic!("{text} is a value") };
    let [member] = object.members() else { panic!("one member") };
    assert_eq!(member.depth(), tree.depth(), "{text}");
    let object = |item: &Tree| matches!(item, Tree::Object(_));
    let only_objects = matches!(tree, Tree::Array(items) if items.iter().all(object));
    assert_eq!(member.holds_only_objects(), only_objects, "{text}");
}

/// Read beside another version of itself, an object is what it is alone.
fn beside(first: &[u8], second: &[u8]) {
    let Ok(original) = Object::parse_first(first) else { return };
    let around = [br#"{"a":[{}],"request":"#, second, br#","b":[1,{}]}"#].concat();
    let alone = Object::parse_with_inner(&around, "request", None);
    let beside = Object::parse_with_inner(&around, "request", Some(&original));
    let ((outer, alone), (_, beside)) = match (alone, beside) {
        (Ok(alone), Ok(beside)) => (alone, beside),
        (alone, beside) => return assert_eq!(alone.err(), beside.err()),
    };
    assert_eq!(outer.get("b"), Some(&b"[1,{}]"[..]));
    let (alone, beside) = match (alone, beside) {
        (Some(Ok(alone)), Some(Ok(beside))) => (alone, beside),
        (None, None) => return,
        (Some(alone), Some(beside)) => return assert_eq!(alone.err(), beside.err()),
        _ => panic!("an object once, and once not"),
    };
    assert_eq!(alone.text(), beside.text());
    for (alone, beside) in alone.members().iter().zip(beside.members()) {
        assert_eq!((&alone.name, alone.value), (&beside.name, beside.value));
        let before = original.members().iter().find(|before| before.name == alone.name);
        let depth = before.map_or(0, |before| before.depth());
        assert!(alone.depth() <= beside.depth() && beside.depth() <= alone.depth().max(depth));
        if before.is_none_or(|before| before.holds_only_objects()) {
            assert_eq!(alone.holds_only_objects(), beside.holds_only_objects());
        }
    }
    assert_eq!(alone.members().len(), beside.members().len());
    if original.members().iter().any(|member| member.depth() > DEEP) {
        // Too deep to be compared, unless it need not be.
        return;
    }
    for remove_missing in [false, true] {
        let laid = original.overlay(&alone, remove_missing);
        assert_eq!(original.overlay(&beside, remove_missing), laid);
    }
}

/// Laying an object over itself, also as another program spells it, changes nothing.
fn identity(object: &Object<'_, [u8]>) {
    for remove_missing in [false, true] {
        assert_eq!(object.overlay(object, remove_missing), None);
    }
    let text = str::from_utf8(object.text()).expect("it was read as JSON");
    let Some(tree) = Tree::read(text) else { return };
    if tree.depth() <= SHALLOW && !tree.has_duplicates() {
        let rewritten = tree.rewritten();
        let spliced = Object::parse_first(rewritten.as_bytes()).expect("an object");
        assert_eq!(object.overlay(&spliced, true), None, "{rewritten}");
    }
}

/// What changed has changed, and nothing else.
fn overlay(original: &Object<'_, [u8]>, new: &Object<'_, [u8]>, remove_missing: bool) {
    let laid = original.overlay(new, remove_missing);
    let changed = laid.as_ref().map(|bytes| Object::parse_first(bytes).expect("an object"));
    let result = changed.as_ref().unwrap_or(original);
    let kept = |name: &str| !remove_missing || new.get(name).is_some();
    let mut expected = Vec::new();
    for member in original.members().iter().filter(|member| kept(&member.name)) {
        let replacement = new.get(&member.name).filter(|value| !equal(member.value, value));
        expected.push((&*member.name, replacement.unwrap_or(member.value)));
    }
    let added = new.members().iter().filter(|member| original.get(&member.name).is_none());
    expected.extend(added.map(|member| (&*member.name, member.value)));
    let found: Vec<_> =
        result.members().iter().map(|member| (&*member.name, member.value)).collect();
    assert_eq!(found, expected);
    if laid.is_none() && remove_missing {
        assert_eq!(original.members().len(), new.members().len());
    }
    assert_eq!(result.overlay(new, remove_missing), None, "a second time");
}
