//! From a level chosen at run time to code compiled for it: once per call or block of rows, never per row.

use super::{Level, Simd, portable};

/// A piece of work written once for every level.
///
/// `run` and everything that it calls on vectors is `#[inline(always)]`: only then is it compiled with the
/// features of the level (`tests/inlining.py` looks for what was not).
pub(crate) trait Kernel {
    /// What the work returns.
    type Output;

    /// Does the work with the instructions that `token` is the witness of.
    fn run<S: Simd>(self, token: S) -> Self::Output;
}

/// Runs `kernel` at `level`, or portably where the processor lacks it.
#[inline]
pub(crate) fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            if let Some(token) = super::avx512::Avx512::new() {
                return token.run(kernel);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            if let Some(token) = super::avx2::Avx2::new() {
                return token.run(kernel);
            }
        }
        #[cfg(target_arch = "aarch64")]
        Level::Neon => {
            if let Some(token) = super::neon::Neon::new() {
                return token.run(kernel);
            }
        }
        _ => {}
    }
    portable::Portable.call(kernel)
}
