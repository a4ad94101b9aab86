//! The module's allocator: the system's, but for one allocation that can be given a place of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Where the next allocation of one byte goes, if it has been given a place.
static PLACE: AtomicPtr<u8> = AtomicPtr::new(null_mut());

// SAFETY: all but the placed allocation is the system's; that one is never given back.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() == 1 && !PLACE.load(Ordering::Relaxed).is_null() {
            return PLACE.swap(null_mut(), Ordering::Relaxed);
        }
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs `act`; the first allocation of one byte in it is `place`, and must not be given back.
pub fn placing_one_byte<T>(place: &mut [u8], act: impl FnOnce() -> T) -> T {
    PLACE.store(place.as_mut_ptr(), Ordering::Relaxed);
    let result = act();
    PLACE.store(null_mut(), Ordering::Relaxed);
    result
}
