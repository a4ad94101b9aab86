//! Memory for what the host hands over, which may be given a place beforehand.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use optimizer_core::roomy::Roomy;

/// Where the next byte that the host hands over goes, if it has been given a place.
static PLACE: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// Whether what the host hands over next gets the room of a [`Roomy`].
static ROOM_NEXT: AtomicBool = AtomicBool::new(false);

const ROOM: usize = Roomy::BEFORE + Roomy::BEHIND;

/// Memory that the host writes to and hands over with its next answer; see `hostcalls`.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size == 1 && !PLACE.load(Ordering::Relaxed).is_null() {
        return PLACE.swap(null_mut(), Ordering::Relaxed);
    }
    let room = if ROOM_NEXT.swap(false, Ordering::Relaxed) { ROOM } else { 0 };
    let all = Box::<[u8]>::new_uninit_slice(size.saturating_add(room));
    let before = if room == 0 { 0 } else { Roomy::BEFORE };
    Box::into_raw(all).cast::<u8>().wrapping_add(before)
}

/// Runs `act`; what the host hands over in it first has [`Roomy::BEFORE`] bytes before it and
/// [`Roomy::BEHIND`] behind it in its allocation. Whether anything was handed over.
pub fn leaving_room<T>(act: impl FnOnce() -> T) -> (T, bool) {
    ROOM_NEXT.store(true, Ordering::Relaxed);
    let result = act();
    (result, !ROOM_NEXT.swap(false, Ordering::Relaxed))
}

/// Runs `act`; the first single byte that the host hands over in it is put in `place`, and
/// must not be given back.
pub fn placing_one_byte<T>(place: &mut [u8], act: impl FnOnce() -> T) -> T {
    PLACE.store(place.as_mut_ptr(), Ordering::Relaxed);
    let result = act();
    PLACE.store(null_mut(), Ordering::Relaxed);
    result
}
