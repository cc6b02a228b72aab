//! Copies of octets that another process may change meanwhile, by machine code that the compiler
//! cannot see into: guest memory is outside its memory model. Octets that are copied twice, because
//! the last step overlaps the one before, end with one of the values they had.
#![expect(unsafe_code, reason = "octets shared with another process are reached by raw copies")]

/// Asks for the cache line at `address` ahead of a read. Any address will do.
#[inline]
pub fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect on memory and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address as *const i8) };
    }
}

/// Asks for the cache line at `address` ahead of a write. Any address will do.
#[inline]
pub fn prefetch_write(address: usize) {
    // The intrinsic becomes a prefetch for reading where the compiler may not assume PREFETCHW,
    // which every x86-64 CPU takes, if only as a hint that it ignores.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect on memory and never faults.
    unsafe {
        std::arch::asm!(
            "prefetchw [{at}]",
            at = in(reg) address,
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// Copies octets that another process may change meanwhile: not through the compiler's memory
/// model.
///
/// # Safety
/// `len` octets are readable at `from` and writable at `to`.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY (all below): the caller's promise; each step touches no more than `len` octets.
    match len {
        // Whole registers are copied, the last one over the step before: 64 octets are one of
        // AVX-512. What the CPU has is found once and kept: after that it costs a load and a test.
        //
        // SAFETY: as above.
        64.. if std::arch::is_x86_feature_detected!("avx512f") => unsafe {
            copy_512(from, to, len)
        },
        // SAFETY: as above.
        64.. if std::arch::is_x86_feature_detected!("avx2") => unsafe { copy_256(from, to, len) },
        // SSE2, which every x86-64 CPU has: nothing to detect.
        //
        // SAFETY: as above.
        16.. => unsafe { copy_128(from, to, len) },
        // SAFETY: as above.
        _ => unsafe { copy_few(from, to, len) },
    }
}

/// As [`copy`], by 64 octets.
///
/// # Safety
/// As [`copy`]; `len` is 64 or more, the CPU has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_512(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the first 64 octets, steps of 64 while more than that are left, then the last 64: all
    // within what the caller promised. Registers from 16 on have no lower halves that code without
    // AVX would wait for, and no such code uses them.
    unsafe {
        // Not `nomem`: the compiler must take it that memory has changed here. Not
        // `preserves_flags`: `cmp`, `add` and `sub` change them.
        std::arch::asm!(
            "vmovdqu64 zmm16, [{from}]",
            "vmovdqu64 zmm17, [{from} + {left} - 64]",
            "vmovdqu64 [{to}], zmm16",
            "cmp {left}, 128",
            "jbe 3f",
            "2:",
            "add {from}, 64",
            "add {to}, 64",
            "sub {left}, 64",
            "vmovdqu64 zmm16, [{from}]",
            "vmovdqu64 [{to}], zmm16",
            "cmp {left}, 128",
            "ja 2b",
            "3:",
            "vmovdqu64 [{to} + {left} - 64], zmm17",
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) len => _,
            options(nostack),
        );
    }
}

/// As [`copy`], by 32 octets.
///
/// # Safety
/// As [`copy`]; `len` is 32 or more, the CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_256(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as `copy_512`, by 32.
    unsafe {
        std::arch::asm!(
            "cmp {left}, 32",
            "jbe 3f",
            "2:",
            "vmovdqu ymm0, [{from}]",
            "vmovdqu [{to}], ymm0",
            "add {from}, 32",
            "add {to}, 32",
            "sub {left}, 32",
            "cmp {left}, 32",
            "ja 2b",
            "3:",
            "vmovdqu ymm0, [{from} + {left} - 32]",
            "vmovdqu [{to} + {left} - 32], ymm0",
            // Upper halves left in use would slow down SSE code that runs later (Intel's
            // optimization manual, "Mixing AVX Code with SSE Code").
            "vzeroupper",
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) len => _,
            out("xmm0") _, options(nostack),
        );
    }
}

/// As [`copy`], by 16 octets.
///
/// # Safety
/// As [`copy`]; `len` is 16 or more.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_128(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as `copy_512`, by 16.
    unsafe {
        std::arch::asm!(
            "cmp {left}, 16",
            "jbe 3f",
            "2:",
            "movups {octets}, [{from}]",
            "movups [{to}], {octets}",
            "add {from}, 16",
            "add {to}, 16",
            "sub {left}, 16",
            "cmp {left}, 16",
            "ja 2b",
            "3:",
            "movups {octets}, [{from} + {left} - 16]",
            "movups [{to} + {left} - 16], {octets}",
            octets = out(xmm_reg) _,
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) len => _,
            options(nostack),
        );
    }
}

/// As [`copy`], by 8, 4, 2 and 1 octets.
///
/// # Safety
/// As [`copy`]; `len` is less than 16.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_few(mut from: *const u8, mut to: *mut u8, len: usize) {
    macro_rules! step {
        ($size:literal, $class:ident, $form:literal) => {
            if len & $size != 0 {
                // SAFETY: the steps taken are the bits of `len`: together what the caller promised.
                unsafe {
                    std::arch::asm!(
                        concat!("mov {r", $form, "}, [{from}]"),
                        concat!("mov [{to}], {r", $form, "}"),
                        r = out($class) _,
                        from = in(reg) from,
                        to = in(reg) to,
                        options(nostack, preserves_flags)
                    );
                }
                from = from.wrapping_add($size);
                to = to.wrapping_add($size);
            }
        };
    }
    // Each bit of `len` is one step: no loop, and no octet is touched twice.
    step!(8, reg, ":r");
    step!(4, reg, ":e");
    step!(2, reg, ":x");
    // Apart from the others: Rust has a register class of its own for octets.
    if len & 1 != 0 {
        // SAFETY: one octet is left of what the caller promised.
        unsafe {
            std::arch::asm!(
                "mov {r}, byte ptr [{from}]",
                "mov byte ptr [{to}], {r}",
                r = out(reg_byte) _,
                from = in(reg) from,
                to = in(reg) to,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// Copies octets that another process may change meanwhile: not through the compiler's memory
/// model.
///
/// # Safety
/// `len` octets are readable at `from` and writable at `to`.
#[cfg(not(target_arch = "x86_64"))]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    for at in 0..len {
        // SAFETY: the caller's promise; volatile, so that nothing is assumed about the octets.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    type Kernel = unsafe fn(*const u8, *mut u8, usize);

    #[test]
    fn every_kernel_copies_exactly_what_it_is_told() {
        let kernels: [(Kernel, usize, usize, bool); 5] = [
            (copy, 0, 700, true),
            (copy_few, 0, 15, true),
            (copy_128, 16, 700, true),
            (copy_256, 32, 700, std::arch::is_x86_feature_detected!("avx2")),
            (copy_512, 64, 700, std::arch::is_x86_feature_detected!("avx512f")),
        ];
        let from: Vec<u8> = (0..800_u32).map(|n| ((n * 31) >> 3) as u8 | 1).collect();
        for (kernel, shortest, longest, _) in kernels.into_iter().filter(|(.., has)| *has) {
            for len in shortest..=longest {
                let mut to = vec![0; 800];
                // SAFETY: both have 800 octets, more than `len` and the offset of 3; the CPU has
                // what the kernel needs.
                unsafe { kernel(from.as_ptr().add(3), to.as_mut_ptr().add(3), len) };
                assert_eq!(to[3..3 + len], from[3..3 + len], "{len}");
                assert!(to[..3].iter().chain(&to[3 + len..]).all(|octet| *octet == 0), "{len}");
            }
        }
    }
}
