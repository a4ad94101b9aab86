//! The module's allocator: small blocks, most of which live as long as one callback or one
//! exchange, are kept for the next of their size. An exchange takes about seventy.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

#[global_allocator]
static BLOCKS: Blocks = Blocks(UnsafeCell::new(State {
    free: [null_mut(); CLASSES],
    fresh: null_mut(),
    fresh_size: 0,
}));

/// Sizes are multiples of this, which is also what blocks are aligned to.
const STEP: usize = 16;
const CLASSES: usize = 64;
/// Small blocks are cut from pieces of this size, apart from all larger ones: they are never
/// given back, and would lie in their way.
const PIECE: usize = 16 * 1024;

struct Blocks(UnsafeCell<State>);

struct State {
    /// Blocks of each size, each of which holds the address of the next.
    free: [*mut u8; CLASSES],
    /// What was not cut into blocks yet.
    fresh: *mut u8,
    fresh_size: usize,
}

// SAFETY: a Proxy-Wasm VM has one thread, and nothing here calls back.
unsafe impl Sync for Blocks {}

/// Which blocks hold this; none where it is too large.
fn class(layout: Layout) -> Option<usize> {
    let class = layout.size().wrapping_sub(1) / STEP;
    (class < CLASSES && layout.align() <= STEP).then_some(class)
}

impl State {
    fn take(&mut self, class: usize) -> *mut u8 {
        let Some(free) = self.free.get_mut(class) else { return null_mut() };
        let block = *free;
        if !block.is_null() {
            // SAFETY: a free block holds the address of the next one.
            *free = unsafe { block.cast::<*mut u8>().read() };
            return block;
        }
        self.cut(class.wrapping_add(1).wrapping_mul(STEP))
    }

    fn give(&mut self, class: usize, block: *mut u8) {
        if let Some(free) = self.free.get_mut(class) {
            // SAFETY: nobody uses the block any more, and it has room for an address.
            unsafe { block.cast::<*mut u8>().write(*free) };
            *free = block;
        }
    }

    #[cold]
    fn cut(&mut self, size: usize) -> *mut u8 {
        if self.fresh_size < size {
            let Ok(layout) = Layout::from_size_align(PIECE, STEP) else { return null_mut() };
            // SAFETY: the size is not zero.
            let piece = unsafe { System.alloc(layout) };
            if piece.is_null() {
                return piece;
            }
            (self.fresh, self.fresh_size) = (piece, PIECE);
        }
        let block = self.fresh;
        self.fresh = block.wrapping_add(size);
        self.fresh_size = self.fresh_size.wrapping_sub(size);
        block
    }
}

// SAFETY: blocks are of the size of their class at least, aligned to `STEP`, and with one owner
// at a time; all else is the system's.
unsafe impl GlobalAlloc for Blocks {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            // SAFETY: one thread, and `State` calls nothing that would come back here.
            Some(class) => unsafe { (*self.0.get()).take(class) },
            // SAFETY: the caller's contract.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            // SAFETY: as above; the block is of this class, because its layout is.
            Some(class) => unsafe { (*self.0.get()).give(class, block) },
            // SAFETY: the caller's contract.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: the size fits with this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(new)) {
            // SAFETY: the caller's contract.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (old, new) if old == new => block,
            // SAFETY: both are valid for the smaller size, and are not the same.
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(block, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}
