//! What the fuzzer's targets share.

use fuzz_targets::mutation::mutate;

/// Every other time a mutation that knows lines, else the fuzzer's own.
/// `data` has room for `max_size` bytes, of which `size` are the input.
pub fn mutated(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    if seed.is_multiple_of(2) {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let input = &data[..size];
    let mut output = mutate(input, input, u64::from(seed));
    output.truncate(max_size);
    data[..output.len()].copy_from_slice(&output);
    output.len()
}
