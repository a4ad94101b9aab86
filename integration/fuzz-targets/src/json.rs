//! Raw JSON: locating members, comparing values, laying one object over another.

use optimizer_core::json::{self, JsonError, Kind, Object, equal};
use serde_json::value::RawValue;

use crate::oracle::Tree;
use crate::two_parts;

/// How deep values may be for equality to be complete: the order of members is
/// compared within a budget.
const SHALLOW: usize = 3;

/// Two texts, parted by a line `===`.
pub fn target(data: &[u8]) {
    let (first, second) = two_parts(data);
    parsing(first);
    values(first, second);
    let (Ok(a), Ok(b)) = (Object::parse(first), Object::parse(second)) else { return };
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

/// A text is an object exactly when it is one, and its members are where they are.
fn parsing(text: &[u8]) {
    let parsed = Object::parse(text);
    let tree = std::str::from_utf8(text).ok().and_then(Tree::read);
    match (&parsed, &tree) {
        // A number alone is read, and beyond a double's range it is refused.
        (Err(JsonError::NotJson), Some(Tree::Number(number))) => assert!(number.is_infinite()),
        (Err(JsonError::NotJson), Some(tree)) => panic!("{tree:?} is JSON"),
        (Err(JsonError::NotObject), Some(Tree::Object(_))) => panic!("is an object"),
        (Err(JsonError::DuplicateMember), Some(tree)) => assert!(tree.has_duplicates()),
        (Ok(_), None | Some(Tree::Object(_))) | (Err(_), _) => {}
        (Ok(_), Some(tree)) => panic!("{tree:?} is no object"),
    }
    let Ok(object) = parsed else { return };
    assert!(value(text).is_some(), "not JSON");
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
    let only_objects = json::holds_only_objects(a);
    let (Some(left), Some(right)) = (Tree::read(a), Tree::read(b)) else { return };
    let (kind, empty, all_objects) = match &left {
        Tree::Null => (Kind::Null, None, false),
        Tree::Bool(_) => (Kind::Bool, None, false),
        Tree::Number(_) => (Kind::Number, None, false),
        Tree::String(_) => (Kind::String, None, false),
        Tree::Array(items) => {
            let object = |item: &Tree| matches!(item, Tree::Object(_));
            (Kind::Array, Some(items.is_empty()), items.iter().all(object))
        }
        Tree::Object(members) => (Kind::Object, Some(members.is_empty()), false),
    };
    assert_eq!(json::kind(a), kind);
    assert_eq!(only_objects, all_objects, "{a}");
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

/// Laying an object over itself, also as another program spells it, changes nothing.
fn identity(object: &Object<'_>) {
    for remove_missing in [false, true] {
        assert_eq!(object.overlay(object, remove_missing), None);
    }
    let Some(tree) = Tree::read(object.text()) else { return };
    if tree.depth() <= SHALLOW && !tree.has_duplicates() {
        let rewritten = tree.rewritten();
        let rewritten = Object::parse(rewritten.as_bytes()).expect("an object");
        assert_eq!(object.overlay(&rewritten, true), None, "{}", rewritten.text());
    }
}

/// What changed has changed, and nothing else.
fn overlay(original: &Object<'_>, new: &Object<'_>, remove_missing: bool) {
    let laid = original.overlay(new, remove_missing);
    let result = match &laid {
        None => original.clone(),
        Some(bytes) => Object::parse(bytes).expect("an object"),
    };
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
