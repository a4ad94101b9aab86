//! Whole exchanges in a proxy: any order of what can happen, any pieces, any outcome.

use optimizer_core::host::Host;

use crate::proxy::Proxy;
use crate::random::Random;
use crate::script::Script;

/// Where bodies are larger, their pieces decide which of two limits is met first.
const MAX_COMPARED: usize = 900 * 1024;

/// Lines, see [`crate::script`].
pub fn target(data: &[u8]) {
    let script = Script::parse(data);
    let start = || Proxy::new(&script.config, Host::Envoy);
    let Some(proxy) = start() else { return };
    let whole = proxy.play(&script);
    if script.body_bytes() > MAX_COMPARED {
        return;
    }
    let mut random = Random::of(data);
    let longest = [1, 7, 200][random.below(3)].max(script.body_bytes() / 2000);
    let pieces = script.in_pieces(&mut random, longest);
    let again = start().expect("as before").play(&pieces);
    assert_eq!(again.measured, whole.measured);
    assert_eq!(again, whole);
}
