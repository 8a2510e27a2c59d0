//! Vector-Jacobian products, and softmax of segments.

use pyo3::prelude::*;

use super::arg::{Array, FloatType, Output, Temperature, Threads};
use super::call::{Settings, call};
use crate::element::DType;
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::ops;
use crate::options::Options;
use crate::shape::Axis;

#[doc = include_str!("doc/softmax_vjp.rst")]
#[pyfunction]
#[pyo3(
    signature = (probs, grad, /, axis=Axis::One(-1), *, out=None, threads=None),
    text_signature = "(probs, grad, /, axis=-1, *, out=None, threads=None)"
)]
#[allow(clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn softmax_vjp<'py>(
    py: Python<'py>,
    probs: Array<'py>,
    grad: Array<'py>,
    axis: Axis,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    product(py, (&probs, "probs"), &grad, &axis, out, threads, ops::softmax_vjp::run)
}

#[doc = include_str!("doc/log_softmax_vjp.rst")]
#[pyfunction]
#[pyo3(
    signature = (log_probs, grad, /, axis=Axis::One(-1), *, out=None, threads=None),
    text_signature = "(log_probs, grad, /, axis=-1, *, out=None, threads=None)"
)]
#[allow(clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn log_softmax_vjp<'py>(
    py: Python<'py>,
    log_probs: Array<'py>,
    grad: Array<'py>,
    axis: Axis,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    product(py, (&log_probs, "log_probs"), &grad, &axis, out, threads, ops::log_softmax_vjp::run)
}

type Product = fn(&View<'_>, &View<'_>, &mut ViewMut<'_>, &Axis, &Options<'_>) -> Result<()>;

/// What both vector-Jacobian products do with their arguments.
fn product<'py>(
    py: Python<'py>,
    (forward, name): (&Array<'py>, &str),
    grad: &Array<'py>,
    axis: &Axis,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
    run: Product,
) -> PyResult<Bound<'py, PyAny>> {
    let values = forward.view(name)?;
    let grad = grad.view("grad")?;
    let mut out = match out {
        None => Output::like(forward, &values.shape, wider(values.dtype, grad.dtype))?,
        Some(out) => out.check(None)?,
    };
    let settings = Settings::new(None, None, threads)?;
    let mut result = out.view()?;
    call(py, values.size(), settings, |options| run(&values, &grad, &mut result, axis, options))?;
    Ok(out.into_object())
}

/// The dtype that NumPy gives to a product of two; what is not a float leaves that of the other.
fn wider(forward: DType, grad: DType) -> DType {
    match (forward.is_float(), grad.is_float()) {
        (true, false) => forward,
        (false, _) => DType::F64,
        (true, true) if forward == grad => forward,
        // Of float16 and bfloat16 neither holds the other.
        (true, true) if forward.size() == grad.size() => DType::F32,
        (true, true) if forward.size() > grad.size() => forward,
        (true, true) => grad,
    }
}

#[doc = include_str!("doc/softmax_segments.rst")]
#[pyfunction]
#[pyo3(
    signature = (values, offsets, /, *, temperature=Temperature::Number(1.0), dtype=None, out=None, threads=None),
    text_signature = "(values, offsets, /, *, temperature=1.0, dtype=None, out=None, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn softmax_segments<'py>(
    py: Python<'py>,
    values: Array<'py>,
    offsets: Array<'py>,
    temperature: Temperature<'py>,
    dtype: Option<FloatType>,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    let logits = values.view("values")?;
    let offsets = offsets.view("offsets")?;
    let asked = dtype.map(|dtype| dtype.0);
    let mut out = match out {
        None => Output::like(&values, &logits.shape, asked.unwrap_or(logits.dtype.result()))?,
        Some(out) => out.check(asked)?,
    };
    let settings = Settings::new(Some(&temperature), None, threads)?;
    let mut result = out.view()?;
    // A segment costs something even where it is empty.
    let work = logits.size() + offsets.size();
    call(py, work, settings, |options| ops::softmax_segments::run(&logits, &offsets, &mut result, options))?;
    Ok(out.into_object())
}
