//! Memory for what the host hands over, which may be given a place beforehand.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Where the next byte that the host hands over goes, if it has been given a place.
static PLACE: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// Memory that the host writes to and hands over with its next answer; see `hostcalls`.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size == 1 && !PLACE.load(Ordering::Relaxed).is_null() {
        return PLACE.swap(null_mut(), Ordering::Relaxed);
    }
    Box::into_raw(Box::<[u8]>::new_uninit_slice(size)).cast()
}

/// Runs `act`; the first single byte that the host hands over in it is put in `place`, and
/// must not be given back.
pub fn placing_one_byte<T>(place: &mut [u8], act: impl FnOnce() -> T) -> T {
    PLACE.store(place.as_mut_ptr(), Ordering::Relaxed);
    let result = act();
    PLACE.store(null_mut(), Ordering::Relaxed);
    result
}
