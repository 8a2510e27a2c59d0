//! The functions that Python sees. Each reads its arguments, makes one call of `ops`, and returns the output.

use std::num::NonZeroUsize;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::VERSION;
use super::arg::{Array, Bytes, FloatType, Mask, Output, Temperature, Threads};
use super::call::{Settings, call};
use crate::error::Result;
use crate::memory::{View, ViewMut, recycle};
use crate::options::Options;
use crate::shape::Axis;
use crate::simd::Level;
use crate::simd::flags::Guard;
use crate::yardstick::{Yardstick, yardstick};
use crate::{ops, parallel};

#[doc = include_str!("doc/softmax.rst")]
#[pyfunction]
#[pyo3(
    signature = (x, /, axis=Axis::One(-1), *, temperature=Temperature::Number(1.0), r#where=None, dtype=None, out=None, threads=None),
    text_signature = "(x, /, axis=-1, *, temperature=1.0, where=None, dtype=None, out=None, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn softmax<'py>(
    py: Python<'py>,
    x: Array<'py>,
    axis: Axis,
    temperature: Temperature<'py>,
    r#where: Option<Mask<'py>>,
    dtype: Option<FloatType>,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = Settings::new(Some(&temperature), r#where.as_ref(), threads)?;
    probabilities(py, &x, &axis, settings, dtype, out, ops::softmax::run)
}

#[doc = include_str!("doc/log_softmax.rst")]
#[pyfunction]
#[pyo3(
    signature = (x, /, axis=Axis::One(-1), *, temperature=Temperature::Number(1.0), r#where=None, dtype=None, out=None, threads=None),
    text_signature = "(x, /, axis=-1, *, temperature=1.0, where=None, dtype=None, out=None, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn log_softmax<'py>(
    py: Python<'py>,
    x: Array<'py>,
    axis: Axis,
    temperature: Temperature<'py>,
    r#where: Option<Mask<'py>>,
    dtype: Option<FloatType>,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = Settings::new(Some(&temperature), r#where.as_ref(), threads)?;
    probabilities(py, &x, &axis, settings, dtype, out, ops::log_softmax::run)
}

type Function = fn(&View<'_>, &mut ViewMut<'_>, &Axis, &Options<'_>) -> Result<()>;

/// What both functions whose result has the logits' shape do with their arguments.
fn probabilities<'py>(
    py: Python<'py>,
    x: &Array<'py>,
    axis: &Axis,
    settings: Settings<'_>,
    dtype: Option<FloatType>,
    out: Option<Output<'py>>,
    run: Function,
) -> PyResult<Bound<'py, PyAny>> {
    let logits = x.view("x")?;
    let mut out = output(x, &logits, dtype, out)?;
    let mut result = out.view()?;
    call(py, logits.size(), settings, |options| run(&logits, &mut result, axis, options))?;
    Ok(out.into_object())
}

/// The array that takes the result: the caller's, or a new one like `x`.
fn output<'py>(
    x: &Array<'py>,
    logits: &View<'_>,
    dtype: Option<FloatType>,
    out: Option<Output<'py>>,
) -> PyResult<Output<'py>> {
    let asked = dtype.map(|dtype| dtype.0);
    match out {
        None => Output::like(x, &logits.shape, asked.unwrap_or(logits.dtype.result())),
        Some(out) => out.check(asked),
    }
}

/// Return the number of threads that calls use.
///
/// It is what `set_num_threads` set last; else the smallest of the number of CPUs that this process
/// may use, by affinity and by its cgroup's quota, and of the environment variable
/// ``FASTSOFTMAX_NUM_THREADS``, else ``RAYON_NUM_THREADS``, else ``OMP_NUM_THREADS``, where set.
///
/// Returns
/// -------
/// int
///     At least 1. Small inputs use one thread in any case.
///
/// Examples
/// --------
/// >>> import fastsoftmax as fs
/// >>> fs.get_num_threads() >= 1
/// True
#[pyfunction]
pub(super) fn get_num_threads() -> usize {
    parallel::num_threads()
}

/// Set the number of threads that calls use.
///
/// Parameters
/// ----------
/// n : int or None
///     At least 1; it may be more than there are CPUs. None goes back to the default, for which see
///     `get_num_threads`. The argument `threads` of a call takes precedence.
///
/// Raises
/// ------
/// ValueError
///     `n` is below 1.
///
/// Examples
/// --------
/// >>> import fastsoftmax as fs
/// >>> fs.set_num_threads(3)
/// >>> fs.get_num_threads()
/// 3
/// >>> fs.set_num_threads(None)
#[pyfunction]
#[pyo3(signature = (n, /))]
pub(super) fn set_num_threads(n: Option<Threads>) {
    parallel::set_num_threads(n.and_then(|threads| NonZeroUsize::new(threads.0)));
}

/// Return how many bytes of freed results are kept for the next ones.
///
/// Memory that is fresh from the system takes longer to touch for the first time than a softmax to
/// compute. Results of 16 MiB and more therefore leave their memory, when they are freed, to the next
/// such result. Memory that is kept is lent to the system, which may take it whenever any program
/// needs it (``MADV_FREE``), and is given back entirely once it has not been used for two seconds (by
/// a thread, so that a process whose calls have one thread gives it back when it asks for more).
///
/// Returns
/// -------
/// int
///     Bytes: what `set_cache_bytes` set last; else the environment variable
///     ``FASTSOFTMAX_CACHE_BYTES``; else 1 GiB, or an eighth of the machine's memory if that is less.
///
/// Examples
/// --------
/// >>> import fastsoftmax as fs
/// >>> fs.get_cache_bytes() > 0
/// True
#[pyfunction]
pub(super) fn get_cache_bytes() -> usize {
    recycle::limit()
}

/// Set how many bytes of freed results are kept for the next ones.
///
/// What is kept beyond it is given back at once.
///
/// Parameters
/// ----------
/// n : int or None
///     Bytes, at least 0; 0 keeps nothing, so that results are NumPy's own in every respect. None goes
///     back to the default, for which see `get_cache_bytes`.
///
/// Raises
/// ------
/// ValueError
///     `n` is negative.
///
/// Examples
/// --------
/// >>> import fastsoftmax as fs
/// >>> fs.set_cache_bytes(0)
/// >>> fs.get_cache_bytes()
/// 0
/// >>> fs.set_cache_bytes(None)
#[pyfunction]
#[pyo3(signature = (n, /))]
pub(super) fn set_cache_bytes(n: Option<Bytes>) {
    recycle::set_limit(n.map(|bytes| bytes.0));
}

/// Tell what was built and what it runs on, for bug reports and tests.
///
/// Returns
/// -------
/// dict
///     ``version``, str: of the package. ``level``, str: the instruction set that calls use; the
///     environment variable ``FASTSOFTMAX_SIMD`` chooses another of ``levels``, list of str: those
///     that this processor has, the fastest last. ``threads``, int: `get_num_threads()`. ``debug``,
///     bool: whether this is a debug build, which is many times slower.
///
/// Examples
/// --------
/// >>> import fastsoftmax as fs
/// >>> "portable" in fs.build_info()["levels"]
/// True
#[pyfunction]
pub(super) fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", VERSION)?;
    info.set_item("level", Level::active().name())?;
    info.set_item("levels", Level::available().into_iter().map(Level::name).collect::<Vec<_>>())?;
    info.set_item("threads", parallel::num_threads())?;
    info.set_item("debug", cfg!(debug_assertions))?;
    Ok(info)
}

/// Call a function that does arithmetic with NumPy under the default floating point flags.
///
/// The caller's flags, those that tell of exceptions included, are as before when it returns.
#[pyfunction]
#[pyo3(signature = (function, args, kwargs, /))]
pub(super) fn _with_default_flags<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    let _flags = Guard::new();
    function.call(args, Some(kwargs))
}

/// Fail as nothing should, so that the tests can see what becomes of a panic.
#[pyfunction]
#[pyo3(signature = (elements, /))]
pub(super) fn _panic(py: Python<'_>, elements: usize) -> PyResult<()> {
    call(py, elements, Settings::new(None, None, None)?, |_| panic!("a test asked for this panic"))
}

/// Copy or read float32 arrays as fast as this machine can, for the benchmarks to measure against.
#[pyfunction]
#[pyo3(signature = (kind, src, dst, threads, /))]
#[allow(clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn _yardstick(
    py: Python<'_>,
    kind: &str,
    src: Array<'_>,
    dst: Option<Output<'_>>,
    threads: Threads,
) -> PyResult<()> {
    let kind = kind.parse::<Yardstick>()?;
    let src = src.view("src")?;
    let mut dst = dst;
    let mut dst = dst.as_mut().map(Output::view).transpose()?;
    let refuse = |name| PyValueError::new_err(format!("{name} must be a contiguous float32 array, and not the other"));
    if dst.as_ref().is_some_and(|dst| dst.array().overlaps(&src)) {
        return Err(refuse("dst"));
    }
    let from = src.as_slice::<f32>().ok_or_else(|| refuse("src"))?;
    let to = match &mut dst {
        Some(dst) => dst.as_mut_slice::<f32>().ok_or_else(|| refuse("dst"))?,
        None => &mut [],
    };
    Ok(py.detach(|| yardstick(kind, from, to, threads.0))?)
}
