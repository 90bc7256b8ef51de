//! In steady state the engine allocates nothing: no packet, no batch, no peer makes it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringspan::crypto::backend;
use ringspan_bench::hubs::{BATCH, Hubs};

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn sealing_and_opening_allocate_nothing() {
    for back_end in backend::supported() {
        for peers in [1, 1000] {
            let mut hubs = Hubs::new(back_end, peers);
            let warm_up = 4 + peers.div_ceil(BATCH);
            for len in [64, 256, 1420, 8920] {
                hubs.set_len(len);
                let mut batches = |count: usize| {
                    for _ in 0..count {
                        hubs.address();
                        hubs.seal();
                        hubs.open();
                    }
                };
                // The first ones may make what is kept: thread locals of the tables' readers, and
                // for each key the library's object.
                batches(warm_up);
                let before = COUNT.get();
                batches(16);
                let allocations = COUNT.get() - before;
                let name = back_end.name();
                assert_eq!(allocations, 0, "{name}, {len} bytes, {peers} peers");
            }
            assert_eq!(
                hubs.delivered(),
                4 * (warm_up + 16) * BATCH,
                "all is delivered"
            );
        }
    }
}

#[test]
fn the_counter_counts() {
    let before = COUNT.get();
    std::hint::black_box(vec![0_u8; std::hint::black_box(100)]);
    assert_eq!(COUNT.get() - before, 1);
}
