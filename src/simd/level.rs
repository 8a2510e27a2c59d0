//! Which levels there are, which this processor has, and which one a user asked for.

use std::sync::OnceLock;

/// A level: an instruction set that the kernels are compiled for.
///
/// All levels give the same bits; they differ in speed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No instructions beyond the target's baseline.
    Portable,
    /// 128-bit vectors of `AArch64`.
    Neon,
    /// 256-bit vectors with fused multiply-add: Intel Haswell, AMD Zen and later.
    Avx2,
    /// 512-bit vectors: Intel Skylake-X, AMD Zen 4 and later.
    Avx512,
}

/// The environment variable that forces a level.
pub(crate) const VARIABLE: &str = "FASTSOFTMAX_SIMD";

impl Level {
    /// Every level, the fastest last.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// The name that `FASTSOFTMAX_SIMD` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this processor can run the level.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => super::avx2::Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => super::avx512::Avx512::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => super::neon::Neon::new().is_some(),
            #[allow(unreachable_patterns, reason = "which levels are left depends on the target")]
            _ => false,
        }
    }

    /// The levels that this processor can run, the fastest last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.is_available()).collect()
    }

    /// The level that calls use: the one that `FASTSOFTMAX_SIMD` names, else the fastest.
    ///
    /// The choice is made once. A name that is unknown or a level that this processor lacks is ignored here;
    /// [`Level::from_environment`] reports it, and the Python package refuses to be imported then.
    #[must_use]
    pub fn active() -> Self {
        static ACTIVE: OnceLock<Level> = OnceLock::new();
        *ACTIVE.get_or_init(|| Self::from_environment().ok().flatten().unwrap_or_else(Self::fastest))
    }

    fn fastest() -> Self {
        Self::ALL.into_iter().rfind(|level| level.is_available()).unwrap_or(Self::Portable)
    }

    /// The level that `FASTSOFTMAX_SIMD` names, if it is set.
    ///
    /// # Errors
    /// A sentence that says which levels there are, where the name is unknown or the processor lacks the level.
    pub fn from_environment() -> Result<Option<Self>, String> {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let name = name.to_string_lossy().to_lowercase();
        let names: Vec<_> = Self::available().into_iter().map(Self::name).collect();
        match Self::ALL.into_iter().find(|level| level.name() == name) {
            Some(level) if level.is_available() => Ok(Some(level)),
            Some(_) => Err(format!(
                "{VARIABLE}={name} asks for instructions that this processor lacks; it has {}",
                names.join(", ")
            )),
            None => Err(format!("{VARIABLE}={name} names no level; this processor has {}", names.join(", "))),
        }
    }
}

/// Makes, from one list of features, the witness, its detection and the function that enables the features.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! witness {
    ($(#[$doc:meta])* $name:ident, $detected:ident, [$($feature:tt),+ $(,)?]) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(());

        impl $name {
            /// The witness, where the processor has every feature of the list.
            #[inline]
            pub(crate) fn new() -> Option<Self> {
                ($(std::arch::$detected!($feature))&&+).then_some(Self(()))
            }

            /// Runs a kernel compiled with the features of the list.
            #[inline]
            pub(crate) fn run<K: crate::simd::Kernel>(self, kernel: K) -> K::Output {
                #[inline(never)]
                #[target_feature($(enable = $feature),+)]
                fn with_features<K: crate::simd::Kernel>(token: $name, kernel: K) -> K::Output {
                    kernel.run(token)
                }
                // SAFETY: `self` exists, so `new` found the very features that `with_features` enables: both are
                // made from one list. A safe call is not possible: this function must not require the features.
                #[allow(unsafe_code, reason = "the one call that only the witness makes sound")]
                unsafe {
                    with_features(self, kernel)
                }
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use witness;
