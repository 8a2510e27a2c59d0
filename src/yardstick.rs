//! What the benchmarks measure against: copying and reading memory, as fast as this machine can.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::kernel::Real;
use crate::kernel::fold::largest;
use crate::kernel::row::copy_streaming;
use crate::parallel;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// A way to copy or to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Yardstick {
    /// The C library's `memcpy`.
    Memcpy,
    /// Loads, and stores past the cache.
    Stream,
    /// The maximum, and nothing else.
    Read,
    /// The same, asking for lines ahead.
    ReadPrefetch,
}

impl std::str::FromStr for Yardstick {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "memcpy" => Ok(Self::Memcpy),
            "stream" => Ok(Self::Stream),
            "read" => Ok(Self::Read),
            "read_prefetch" => Ok(Self::ReadPrefetch),
            _ => Err(Error::Value(format!("no yardstick is named {name:?}"))),
        }
    }
}

/// Does so once, on so many threads. `to` is as long as `from`, or empty for those that only read.
///
/// # Errors
/// [`Error::Value`] for slices of different lengths.
#[doc(hidden)]
pub fn yardstick(kind: Yardstick, from: &[f32], to: &mut [f32], threads: usize) -> Result<()> {
    let reads = matches!(kind, Yardstick::Read | Yardstick::ReadPrefetch);
    if !reads && to.len() != from.len() {
        return Err(Error::Value("source and destination differ in length".into()));
    }
    let part = from.len().div_ceil(threads.max(1)).next_multiple_of(16).max(16);
    let mut rest = to;
    let parts: Vec<_> = from
        .chunks(part)
        .map(|from| {
            let (to, after) = std::mem::take(&mut rest).split_at_mut(if reads { 0 } else { from.len() });
            rest = after;
            Mutex::new(Some(Part { kind, from, to }))
        })
        .collect();
    parallel::run(threads, parts.len(), None, &|index| {
        if let Some(part) = parts[index].lock().ok().and_then(|mut part| part.take()) {
            dispatch(Level::active(), part);
        }
    })
}

struct Part<'a> {
    kind: Yardstick,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        const LANES: usize = <f32 as Real>::LANES;
        match self.kind {
            Yardstick::Memcpy => self.to.copy_from_slice(self.from),
            Yardstick::Stream => {
                copy_streaming(token, self.from, self.to);
                token.fence();
            }
            Yardstick::Read => {
                std::hint::black_box(largest(token, self.from));
            }
            Yardstick::ReadPrefetch => {
                for chunk in self.from.chunks(1024) {
                    for line in 0..chunk.len() / LANES {
                        token.prefetch(chunk, 4096 + line * LANES);
                    }
                    std::hint::black_box(largest(token, chunk));
                }
            }
        }
    }
}
