//! JSON equality in one pass, without trees.

use super::bulk::{behind, common_prefix, same};
use super::cursor::Cursor;
use super::in_order;

/// Deeper values than this count as different: the recursion stays bounded.
const MAX_DEPTH: usize = 128;

/// Whether two valid JSON values are equal: white space, escapes, the order of
/// members and the spelling of numbers aside. Numbers are equal when they are
/// equal as IEEE doubles.
///
/// One pass over both where members stand in the same order; the work for
/// those that do not is bounded by a multiple of the texts' length, beyond which
/// the values count as different.
pub fn equal<T: AsRef<[u8]> + ?Sized>(a: &T, b: &T) -> bool {
    equal_beyond(0, a.as_ref(), b.as_ref())
}

/// The same where the first `shared` bytes of both are the same: the whole of
/// both values, or whole items of two arrays.
pub(super) fn equal_beyond(shared: usize, a: &[u8], b: &[u8]) -> bool {
    if a.len() == b.len() && (a.len() == shared || same(a, b)) {
        return true;
    }
    let mut budget = a.len().saturating_add(b.len()).saturating_mul(4);
    let (mut a, mut b) = (Cursor::new(a), Cursor::new(b));
    if shared == 0 {
        return equal_values(&mut a, &mut b, 0, &mut budget);
    }
    (a.at, b.at) = (shared, shared);
    equal_items(&mut a, &mut b, 1, &mut budget)
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
            equal_items(a, b, depth, budget)
        }
        (Some(b'"'), Some(b'"')) => equal_strings(a, b),
        (Some(x), Some(y)) => {
            let (left, right) = (a.skip_value(), b.skip_value());
            left == right || (is_number(x) && is_number(y) && equal_numbers(left, right))
        }
        _ => false,
    }
}

fn equal_items(a: &mut Cursor, b: &mut Cursor, depth: usize, budget: &mut usize) -> bool {
    loop {
        match (a.item(b']'), b.item(b']')) {
            (true, true) if equal_values(a, b, depth, budget) => {}
            (false, false) => return true,
            _ => return false,
        }
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

/// Moves behind the strings at both cursors.
fn equal_strings(a: &mut Cursor, b: &mut Cursor) -> bool {
    let left = a.skip_value();
    b.peek();
    // The quote that ends one ends the other.
    if behind(b.rest(), left).is_some() {
        b.at = b.at.saturating_add(left.len());
        return true;
    }
    let right = b.skip_value();
    let at = parted(left, right);
    Units::new(left, at).eq(Units::new(right, at))
}

/// Up to where two quoted strings are the same, and neither is inside an escape or a character.
fn parted(a: &[u8], b: &[u8]) -> usize {
    // A pair of surrogates, escaped, has twelve bytes.
    const LONGEST: usize = 12;
    let mut at = common_prefix(a, b);
    let is_inside = |at: usize| a.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    while at > 0 && is_inside(at) {
        at = at.saturating_sub(1);
    }
    loop {
        let from = at.saturating_sub(LONGEST);
        let before = a.get(from..at).unwrap_or_default();
        match before.iter().rposition(|&byte| byte == b'\\') {
            Some(escape) => at = from.saturating_add(escape),
            None => return at,
        }
    }
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
        if !equal_strings(a, b) {
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
            let name: Vec<u32> = Units::new(cursor.skip_value(), 1).collect();
            cursor.colon();
            members.push((name, *cursor));
            cursor.skip_value();
        }
        let name = |at: usize| members.get(at).map(|(name, _)| name);
        // Those of one name stay in their order.
        let order = in_order(members.len(), &|x, y| name(x).cmp(&name(y)).then(x.cmp(&y)));
        order.into_iter().filter_map(|at| members.get_mut(at).map(std::mem::take)).collect()
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

/// The content of a valid JSON string as UTF-16 code units where escaped and as
/// bytes where not, made comparable: every character becomes one number, a lone
/// surrogate stays itself.
struct Units<'a> {
    rest: std::str::Chars<'a>,
}

impl<'a> Units<'a> {
    /// `quoted` is the string with its quotes, of which what stands before `at` is left out.
    fn new(quoted: &'a [u8], at: usize) -> Self {
        let inner = quoted.get(at.max(1)..quoted.len().saturating_sub(1)).unwrap_or_default();
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
            (r#""0123456789abc\\\n.""#, r#""0123456789abc\\\u000a.""#),
            (r#""0123456789abc\ud83d\ude00""#, "\"0123456789abc😀\""),
            (r#""0123456789abc\u00e9x""#, r#""0123456789abc\u00E9x""#),
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
            (r#""0123456789abc\ud83d\ude00""#, r#""0123456789abc\ud83d\ude01""#),
            (r#""0123456789abc\\u000a""#, r#""0123456789abc\u000a""#),
            ("\"0123456789abcé\"", "\"0123456789abcè\""),
        ] {
            assert!(!equal(a, b), "{a} {b}");
            assert!(!equal(b, a), "{b} {a}");
        }
    }

    #[test]
    fn members_of_one_name_are_compared_in_their_order() {
        let member = |name: &str, value: usize| format!("\"{name}\":{value}");
        let of =
            |name, values: std::ops::Range<usize>| values.map(move |value| member(name, value));
        let mixed: Vec<String> =
            of("b", 0..90).zip(of("a", 0..90)).flat_map(|(b, a)| [b, a]).collect();
        let apart: Vec<String> = of("a", 0..90).chain(of("b", 0..90)).collect();
        let (mixed, apart) =
            (format!("{{{}}}", mixed.join(",")), format!("{{{}}}", apart.join(",")));
        assert!(equal(&mixed, &apart));
        assert!(!equal(&mixed, &apart.replace("\"b\":7,\"b\":8", "\"b\":8,\"b\":7")));
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
}
