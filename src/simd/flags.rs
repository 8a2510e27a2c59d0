//! Default floating point flags for as long as a guard lives.
//!
//! Other libraries switch flush-to-zero on for a whole thread (`torch.set_flush_denormal`, anything built with
//! `-ffast-math`) or change its rounding mode, and a thread inherits the register of the one that made it. The
//! arithmetic of this crate needs what IEEE 754 calls the default: round to nearest, ties to even, subnormal numbers
//! kept, no exception trapped. So work runs inside a [`Guard`], on every thread, and the caller gets the register
//! back as it was, its sticky exception flags included: what we compute raises no flag that the caller could see.
//!
//! Why a barrier is needed, and which one there is: the compiler believes that float arithmetic depends on its
//! operands alone and may move it across the instructions below. Their `asm!` is without `nomem`, so no load or store
//! is moved across, and that holds arithmetic on values from memory in place; arithmetic on values in registers is
//! held only by a call that is not inlined. So a guard belongs in a function that does its arithmetic behind such a
//! call (`parallel.rs` calls its body through `dyn Fn`), never around an expression.

use std::cell::Cell;
use std::marker::PhantomData;

/// Sets this thread's floating point control bits to their defaults, and the register back to what it was on drop.
///
/// Costs a few nanoseconds: reading the register is cheap, and it is written only where it differs.
pub(crate) struct Guard {
    saved: Cell<register::Flags>,
    /// The register belongs to one thread, so the guard may not leave it.
    _not_send: PhantomData<*const ()>,
}

impl Guard {
    /// Saves the register and sets the defaults.
    #[inline]
    pub(crate) fn new() -> Self {
        let saved = register::read();
        let default = register::with_default_control(saved);
        if default != saved {
            register::write(default);
        }
        Self { saved: Cell::new(saved), _not_send: PhantomData }
    }

    /// Runs foreign code in the middle of the guarded work: with the register as it was, and what the code leaves in
    /// it is put back at the end.
    pub(crate) fn lifted<T>(&self, foreign: impl FnOnce() -> T) -> T {
        struct Lifted<'a>(&'a Guard);
        impl Drop for Lifted<'_> {
            fn drop(&mut self) {
                self.0.saved.set(register::read());
                register::write(register::with_default_control(register::read()));
            }
        }
        register::write(self.saved.get());
        let _lifted = Lifted(self);
        foreign()
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        if register::read() != self.saved.get() {
            register::write(self.saved.get());
        }
    }
}

// The `SAFETY` comments below share one argument. Rust takes the default control bits for granted; foreign code broke
// that before it called us, a guard makes it true again while our arithmetic runs, and what the guard puts back is
// the state that the foreign code is about to return to.

/// MXCSR: control and sticky flags in one register.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[allow(unsafe_code, reason = "only inline assembly reaches MXCSR: its intrinsics are deprecated")]
mod register {
    use std::arch::asm;

    pub(super) type Flags = u32;

    /// Flush to zero, rounding, exception masks, denormals are zero. Below them are the six sticky flags; above, bits
    /// that other makes of processor reserve, which are left alone.
    const CONTROL: Flags = 0xFFC0;
    /// Round to nearest, nothing flushed, all six exceptions masked: the value at process start by the ABI.
    const DEFAULT: Flags = 0x1F80;

    pub(super) const fn with_default_control(flags: Flags) -> Flags {
        (flags & !CONTROL) | DEFAULT
    }

    #[inline]
    pub(super) fn read() -> Flags {
        let mut flags: Flags = 0;
        // SAFETY: stmxcsr, which every x86_64 has, writes four bytes, to a variable of ours.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut flags, options(nostack, preserves_flags));
        }
        flags
    }

    #[inline]
    pub(super) fn write(flags: Flags) {
        // SAFETY: `flags` is what `read` gave, at most with other control bits, so no reserved bit is set, which would
        // fault. Not `preserves_flags`: the sticky flags count among them. That the control bits may be changed at
        // all is argued above.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const flags, options(nostack, readonly));
        }
    }
}

/// FPCR (control) in the low half and FPSR (sticky flags) in the high half: each has 32 bits in use.
#[cfg(all(target_arch = "aarch64", not(miri)))]
#[allow(unsafe_code, reason = "only inline assembly reaches FPCR and FPSR")]
mod register {
    use std::arch::asm;

    pub(super) type Flags = u64;

    const CONTROL: Flags = 0xFFFF_FFFF;

    /// All zero is the default: round to nearest, nothing flushed, NaNs propagated, nothing trapped.
    pub(super) const fn with_default_control(flags: Flags) -> Flags {
        flags & !CONTROL
    }

    #[inline]
    pub(super) fn read() -> Flags {
        let (control, status): (u64, u64);
        // SAFETY: both registers can be read without privileges and nothing else is touched.
        unsafe {
            asm!("mrs {}, fpcr", "mrs {}, fpsr", out(reg) control, out(reg) status, options(nostack, preserves_flags));
        }
        (control & CONTROL) | status << 32
    }

    #[inline]
    pub(super) fn write(flags: Flags) {
        // Writing FPCR can drain the pipeline, and most often only FPSR differs.
        if (read() ^ flags) & CONTROL != 0 {
            // SAFETY: the value is zero or what `read` gave; that the control bits may be changed is argued above.
            unsafe { asm!("msr fpcr, {}", in(reg) flags & CONTROL, options(nostack)) };
        }
        // SAFETY: as above. Not `preserves_flags`: FPSR counts among them.
        unsafe { asm!("msr fpsr, {}", in(reg) flags >> 32, options(nostack)) };
    }
}

/// No register that is known here, or an interpreter without one: the guard does nothing.
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod register {
    pub(super) type Flags = u32;

    pub(super) const fn with_default_control(flags: Flags) -> Flags {
        flags
    }

    pub(super) fn read() -> Flags {
        0
    }

    pub(super) fn write(_: Flags) {}
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Guard, register};
    use std::hint::black_box;

    /// Whether this thread keeps subnormal numbers and rounds to nearest. In a function of its own, so that the
    /// arithmetic stays between the guards of the test that asks.
    #[inline(never)]
    pub(crate) fn is_default() -> bool {
        let kept = black_box(f32::MIN_POSITIVE) * black_box(0.5) > 0.0;
        let above = black_box(1.0_f32) + black_box(f32::EPSILON / 4.0);
        let below = black_box(-1.0_f32) - black_box(f32::EPSILON / 4.0);
        let nearest = above.to_bits() == 1.0_f32.to_bits() && below.to_bits() == (-1.0_f32).to_bits();
        kept && nearest
    }

    /// Runs `body` with flush-to-zero and rounding towards plus infinity on this thread; false where that cannot be
    /// set. `body` is told a function that says whether the register still is as it was when `body` began.
    pub(crate) fn with_foreign_flags(body: impl FnOnce(&dyn Fn() -> bool)) -> bool {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        const FOREIGN: register::Flags = 0x8000 | 0x4000 | 0x0040;
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        const FOREIGN: register::Flags = 1 << 24 | 1 << 22;
        #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
        const FOREIGN: register::Flags = 0;

        let saved = register::read();
        let foreign = saved | FOREIGN;
        register::write(foreign);
        body(&|| register::read() == foreign);
        register::write(saved);
        FOREIGN != 0
    }

    #[test]
    fn guard_sets_defaults_and_restores_all_bits() {
        assert!(is_default());
        let mut seen = Vec::new();
        let set = with_foreign_flags(|unchanged| {
            seen.push(is_default());
            // `is_default` has raised sticky flags, so this one is compared with a register of its own.
            let before = register::read();
            let guard = Guard::new();
            seen.push(is_default());
            black_box(black_box(0.0_f32) / black_box(0.0));
            drop(guard);
            seen.push(register::read() == before);
            seen.push(is_default());
            black_box(unchanged);
        });
        assert_eq!(seen, if set { [false, true, true, false] } else { [true; 4] });
        assert!(is_default());
    }
}
