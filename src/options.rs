//! What a caller may ask beside the arrays and the axis, and what is refused.

use ndarray::{ArrayRef, Dimension};

use crate::element::Element;
use crate::error::{Error, Result};
use crate::memory::View;
use crate::simd::Level;
use crate::simd::flags::Guard;

/// The temperature of a call.
#[derive(Clone, Default)]
pub(crate) enum Temperature<'a> {
    /// 1.
    #[default]
    One,
    /// The same for all rows.
    Number(f64),
    /// One for each row: broadcasts against the logits, with length 1 along the axis.
    Rows(View<'a>),
}

/// The options that all functions share. `Options::default()` is what calls without options mean.
#[derive(Clone, Default)]
pub struct Options<'a> {
    pub(crate) temperature: Temperature<'a>,
    pub(crate) mask: Option<View<'a>>,
    pub(crate) threads: Option<usize>,
    pub(crate) level: Option<Level>,
    pub(crate) interrupt: Option<&'a dyn Fn() -> bool>,
    /// Whether the caller's floating point flags are set aside already.
    pub(crate) guarded: bool,
}

impl<'a> Options<'a> {
    /// No options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Divides all logits by `temperature`.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Temperature::Number(temperature);
        self
    }

    /// Divides the logits of each row by a temperature of its own: `temperatures` broadcasts against the logits, with
    /// length 1 along the axis.
    #[must_use]
    pub fn temperatures<T: Element, D: Dimension>(mut self, temperatures: &'a ArrayRef<T, D>) -> Self {
        self.temperature = Temperature::Rows(View::of(temperatures));
        self
    }

    /// Keeps only the elements where `mask`, which broadcasts against the logits, is true.
    #[must_use]
    pub fn keep<D: Dimension>(mut self, mask: &'a ArrayRef<bool, D>) -> Self {
        self.mask = Some(View::of(mask));
        self
    }

    /// Uses at most `threads` threads, the caller's included.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Runs at a level other than [`Level::active`]. The results are the same; a level that the processor lacks
    /// is replaced by the portable one.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// Asks `interrupt` now and then, on the caller's thread, whether to stop; the call then fails with
    /// [`Error::Interrupted`].
    #[must_use]
    pub fn interrupt(mut self, interrupt: &'a dyn Fn() -> bool) -> Self {
        self.interrupt = Some(interrupt);
        self
    }

    /// Does an operation with these options under the default floating point flags; `interrupt`, the caller's code, is
    /// asked under the caller's.
    #[inline]
    pub(crate) fn guarded<R>(&self, operation: impl FnOnce(&Options<'_>) -> Result<R>) -> Result<R> {
        if self.guarded {
            return operation(self);
        }
        let flags = Guard::new();
        let lifted = || self.interrupt.is_some_and(|interrupt| flags.lifted(interrupt));
        let mut options = Options { guarded: true, ..self.clone() };
        if self.interrupt.is_some() {
            options.interrupt = Some(&lifted);
        }
        let mut operation = Some(operation);
        let mut result = None;
        behind_a_call(&mut || result = operation.take().map(|operation| operation(&options)));
        result.unwrap_or_else(|| Err(Error::Internal("the operation was not called".into())))
    }
}

/// Keeps the arithmetic within the guard; see `simd/flags.rs`.
#[inline(never)]
fn behind_a_call(operation: &mut dyn FnMut()) {
    operation();
}

/// Refuses what is not a temperature.
pub(crate) fn check_temperature(value: f64) -> Result<f64> {
    // By its bits, for which the flags do not matter that may have been set before the call: with denormals-are-zero,
    // no subnormal number is greater than 0.
    if (1..f64::INFINITY.to_bits()).contains(&value.to_bits()) {
        return Ok(value);
    }
    let hint = if value == 0.0 { " (for the limit at temperature 0, use argmax)" } else { "" };
    Err(Error::Value(format!("temperature must be a finite number greater than 0, not {value}{hint}")))
}

/// Refuses what is not a number of threads.
pub(crate) fn check_threads(threads: usize) -> Result<usize> {
    if threads == 0 {
        return Err(Error::Value("threads must be at least 1, or None for the library's number".into()));
    }
    Ok(threads)
}
