//! The functions that give one value, or a few, for each row.

use half::{bf16, f16};
use ndarray::{ArrayViewMutD, IxDyn};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use smallvec::SmallVec;

use super::arg::{Array, ClassAxis, Count, FloatType, Mask, Output, Summary, Temperature, Threads};
use super::call::{Settings, call};
use crate::element::{DType, Float};
use crate::error::Result;
use crate::kernel::double::Double;
use crate::memory::{View, ViewMut, zeros};
use crate::ops;
use crate::ops::cross_entropy::Targets;
use crate::options::Options;
use crate::shape::{Axis, Shape, display};

/// What a reduction leaves of the logits' shape.
struct Reduced {
    /// For each dimension of the logits, whether it is one of the axes.
    axes: SmallVec<[bool; 4]>,
    /// The shape of the result.
    shape: Shape,
}

impl Reduced {
    fn new(logits: &View<'_>, axis: &Axis, keepdims: bool) -> Result<Self> {
        let axes = axis.reduced(logits.shape.len())?;
        let kept = |(&len, &reduced): (&usize, &bool)| if reduced { keepdims.then_some(1) } else { Some(len) };
        let shape = logits.shape.iter().zip(&axes).filter_map(kept).collect();
        Ok(Self { axes, shape })
    }

    /// The array that takes the result: the caller's, or a new one.
    fn output<'py>(
        &self,
        py: Python<'py>,
        logits: &View<'_>,
        dtype: Option<FloatType>,
        out: Option<Output<'py>>,
    ) -> PyResult<Output<'py>> {
        let asked = dtype.map(|dtype| dtype.0);
        match out {
            None => Output::new(py, &self.shape, asked.unwrap_or(logits.dtype.result())),
            Some(out) => out.check(asked),
        }
    }

    fn view<'a>(&self, out: &'a mut Output<'_>) -> PyResult<ViewMut<'a>> {
        out.view_of_reduced(&self.shape, &self.axes)
    }
}

#[doc = include_str!("doc/logsumexp.rst")]
#[pyfunction]
#[pyo3(
    signature = (x, /, axis=Axis::One(-1), *, keepdims=false, r#where=None, dtype=None, out=None, threads=None),
    text_signature = "(x, /, axis=-1, *, keepdims=False, where=None, dtype=None, out=None, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn logsumexp<'py>(
    py: Python<'py>,
    x: Array<'py>,
    axis: Axis,
    keepdims: bool,
    r#where: Option<Mask<'py>>,
    dtype: Option<FloatType>,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    let logits = x.view("x")?;
    let reduced = Reduced::new(&logits, &axis, keepdims)?;
    let is_given = out.is_some();
    let mut out = reduced.output(py, &logits, dtype, out)?;
    let settings = Settings::new(None, r#where.as_ref(), threads)?;
    let mut result = reduced.view(&mut out)?;
    call(py, logits.size(), settings, |options| ops::logsumexp::run(&logits, &mut result, &axis, options))?;
    if is_given { Ok(out.into_object()) } else { out.into_scalar() }
}

#[doc = include_str!("doc/log_prob.rst")]
#[pyfunction]
#[pyo3(
    signature = (logits, index, /, axis=ClassAxis(-1), *, temperature=Temperature::Number(1.0), r#where=None, dtype=None, out=None, threads=None),
    text_signature = "(logits, index, /, axis=-1, *, temperature=1.0, where=None, dtype=None, out=None, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn log_prob<'py>(
    py: Python<'py>,
    logits: Array<'py>,
    index: Array<'py>,
    axis: ClassAxis,
    temperature: Temperature<'py>,
    r#where: Option<Mask<'py>>,
    dtype: Option<FloatType>,
    out: Option<Output<'py>>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    let axis = Axis::One(axis.0);
    let logits = logits.view("logits")?;
    let index = index.view("index")?;
    let reduced = Reduced::new(&logits, &axis, false)?;
    let index = ops::log_prob::spread(&index, &logits.shape, &reduced.axes)?;
    let mut out = reduced.output(py, &logits, dtype, out)?;
    let settings = Settings::new(Some(&temperature), r#where.as_ref(), threads)?;
    let mut result = reduced.view(&mut out)?;
    call(py, logits.size(), settings, |options| ops::log_prob::run(&logits, &index, &mut result, &axis, options))?;
    Ok(out.into_object())
}

#[doc = include_str!("doc/cross_entropy.rst")]
#[pyfunction]
#[pyo3(
    signature = (logits, labels, /, axis=ClassAxis(-1), *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction=Summary::Mean, temperature=Temperature::Number(1.0), threads=None),
    text_signature = "(logits, labels, /, axis=-1, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction=\"mean\", temperature=1.0, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn cross_entropy<'py>(
    py: Python<'py>,
    logits: Array<'py>,
    labels: Array<'py>,
    axis: ClassAxis,
    weight: Option<Array<'py>>,
    ignore_index: i64,
    label_smoothing: f64,
    reduction: Summary,
    temperature: Temperature<'py>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    let axis = Axis::One(axis.0);
    let logits = logits.view("logits")?;
    let reduced = Reduced::new(&logits, &axis, false)?;
    let weight = weight.as_ref().map(|weight| weight.view("weight")).transpose()?;
    let targets = Targets::new(&labels.view("labels")?, &logits.shape, &reduced.axes)?;
    let targets = Targets { weight, ignore_index, label_smoothing, ..targets };
    let settings = Settings::new(Some(&temperature), None, threads)?;
    let dtype = logits.dtype.result();
    if reduction == Summary::None {
        let mut out = Output::new(py, &reduced.shape, dtype)?;
        let mut result = reduced.view(&mut out)?;
        call(py, logits.size(), settings, |options| {
            ops::cross_entropy::run(&logits, &targets, &mut result, &axis, options).map(drop)
        })?;
        return Ok(out.into_object());
    }
    let mut out = Output::new(py, &[], dtype)?;
    let mut result = out.view()?;
    call(py, logits.size(), settings, |options| {
        // Losses in the type of the arithmetic: in float64 they would be no more exact, as the logits are not.
        let (sum, count) = if dtype == DType::F64 {
            summed::<f64>(&logits, &targets, &reduced, &axis, options)?
        } else {
            summed::<f32>(&logits, &targets, &reduced, &axis, options)?
        };
        let value = if reduction == Summary::Mean { sum / count } else { sum };
        // A NaN that the processor made has a sign, and not the same one on all.
        write_one(&mut result, if value.is_nan() { f64::NAN } else { value });
        Ok(())
    })?;
    out.into_scalar()
}

#[doc = include_str!("doc/entropy.rst")]
#[pyfunction]
#[pyo3(
    signature = (logits, /, axis=ClassAxis(-1), *, temperature=Temperature::Number(1.0), r#where=None, dtype=None, threads=None),
    text_signature = "(logits, /, axis=-1, *, temperature=1.0, where=None, dtype=None, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn entropy<'py>(
    py: Python<'py>,
    logits: Array<'py>,
    axis: ClassAxis,
    temperature: Temperature<'py>,
    r#where: Option<Mask<'py>>,
    dtype: Option<FloatType>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    let axis = Axis::One(axis.0);
    let logits = logits.view("logits")?;
    let reduced = Reduced::new(&logits, &axis, false)?;
    let mut out = reduced.output(py, &logits, dtype, None)?;
    let settings = Settings::new(Some(&temperature), r#where.as_ref(), threads)?;
    let mut result = reduced.view(&mut out)?;
    call(py, logits.size(), settings, |options| ops::entropy::run(&logits, &mut result, &axis, options))?;
    Ok(out.into_object())
}

#[doc = include_str!("doc/top_k.rst")]
#[pyfunction]
#[pyo3(
    signature = (logits, k, /, axis=ClassAxis(-1), *, log=false, temperature=Temperature::Number(1.0), r#where=None, dtype=None, threads=None),
    text_signature = "(logits, k, /, axis=-1, *, log=False, temperature=1.0, where=None, dtype=None, threads=None)"
)]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "the signature is Python's")]
pub(super) fn top_k<'py>(
    py: Python<'py>,
    logits: Array<'py>,
    k: Count,
    axis: ClassAxis,
    log: bool,
    temperature: Temperature<'py>,
    r#where: Option<Mask<'py>>,
    dtype: Option<FloatType>,
    threads: Option<Threads>,
) -> PyResult<Bound<'py, PyAny>> {
    static TOP_K: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let (axis, k) = (Axis::One(axis.0), k.0);
    let logits = logits.view("logits")?;
    let axes = axis.reduced(logits.shape.len())?;
    let lengths = logits.shape.iter().zip(&axes);
    let classes = lengths.clone().find(|(_, is_axis)| **is_axis).map_or(1, |(len, _)| *len);
    if k > classes {
        return Err(PyValueError::new_err(format!(
            "k is {k}, but the axis has length {classes} in an array of shape {}",
            display(&logits.shape)
        )));
    }
    // A number has no axis whose length could be k: one of length k is made, and taken away again if k is 1.
    let shape: Shape = lengths.map(|(&len, &is_axis)| if is_axis { k } else { len }).collect();
    if logits.shape.is_empty() && k == 0 {
        return Err(PyValueError::new_err("k is 0, but logits is a single number; pass an array of one"));
    }
    let mut values = Output::new(py, &shape, dtype.map_or(logits.dtype.result(), |dtype| dtype.0))?;
    let mut indices = Output::new(py, &shape, DType::I64)?;
    let settings = Settings::new(Some(&temperature), r#where.as_ref(), threads)?;
    let (mut to, mut places) = (values.view()?, indices.view_of_indices()?);
    call(py, logits.size(), settings, |options| {
        ops::top_k::run(&logits, k, &mut to, &mut places, &axis, log, options)
    })?;
    let class = TOP_K.import(py, "fastsoftmax._functions", "TopK")?;
    class.call1((values.into_object(), indices.into_object()))
}

/// The sum of the losses, and the weight by which a mean divides it.
fn summed<T: Float + Default + Into<f64>>(
    logits: &View<'_>,
    targets: &Targets<'_>,
    reduced: &Reduced,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<(f64, f64)> {
    let lengths = logits.shape.iter().zip(&reduced.axes);
    let shape: Shape = lengths.map(|(&len, &is_axis)| if is_axis { 1 } else { len }).collect();
    let mut losses: Vec<T> = zeros(shape.iter().product())?;
    let count = {
        let mut view = ArrayViewMutD::from_shape(IxDyn(&shape), &mut losses)
            .map_err(|error| crate::Error::Internal(error.to_string()))?;
        ops::cross_entropy::run(logits, targets, &mut ViewMut::of(&mut view), axis, options)?
    };
    let (mut exact, mut plain) = (Double::default(), 0.0);
    for loss in losses {
        let loss: f64 = loss.into();
        exact = exact.plus(Double::new(loss));
        plain += loss;
    }
    Ok((if plain.is_finite() { exact.high } else { plain }, count))
}

/// Writes the only element of an array.
fn write_one(out: &mut ViewMut<'_>, value: f64) {
    if let Some([to]) = out.as_mut_slice::<f64>() {
        *to = value;
    } else if let Some([to]) = out.as_mut_slice::<f32>() {
        #[allow(clippy::cast_possible_truncation, reason = "rounds")]
        let value = value as f32;
        *to = value;
    } else if let Some([to]) = out.as_mut_slice::<f16>() {
        *to = f16::from_f64(value);
    } else if let Some([to]) = out.as_mut_slice::<bf16>() {
        *to = bf16::from_f64(value);
    }
}
