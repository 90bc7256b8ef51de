//! A hint to the CPU, here because the floors above have no unsafe code.

/// Calls for the cache line in which `of` begins, to be there when it is looked at: what is called
/// for together comes together. A hint: it changes nothing.
#[inline(always)]
pub fn prefetch<T>(of: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch neither faults nor reads in the sense of the language, whatever the
        // address; every x86-64 CPU has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(of).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        let _ = of;
    }
}
