//! The public functions, one file each, named as in Python.

pub mod cross_entropy;
pub mod entropy;
pub mod log_prob;
pub mod log_softmax;
pub mod log_softmax_vjp;
pub mod logsumexp;
pub mod softmax;
pub mod softmax_segments;
pub mod softmax_vjp;
pub mod top_k;

use ndarray::{ArrayD, ArrayRef, Dimension};

use crate::element::Float;
use crate::error::Result;
use crate::memory::{View, ViewMut};
use crate::shape::{Axis, Shape};
use crate::walk::digest;

/// A new array of the logits' shape without the axes. `run` fills it, with length 1 along the axes.
fn reduced<T: Float + Default, D: Dimension>(
    x: &ArrayRef<T, D>,
    axis: &Axis,
    run: impl FnOnce(&mut ViewMut<'_>) -> Result<()>,
) -> Result<ArrayD<T>> {
    let axes = axis.reduced(x.ndim())?;
    let mut out = ArrayD::from_elem(digest::shape(x.shape(), &axes, 1).as_slice(), T::default());
    run(&mut ViewMut::of(&mut out))?;
    for dim in (0..x.ndim()).rev().filter(|dim| axes[*dim]) {
        out = out.index_axis_move(ndarray::Axis(dim), 0);
    }
    Ok(out)
}

/// The logits' shape `x` without the `axes`.
fn kept(x: &[usize], axes: &[bool]) -> Shape {
    x.iter().zip(axes).filter(|(_, is_axis)| !**is_axis).map(|(len, _)| *len).collect()
}

/// Calls `run` with an array as input and as output.
fn in_place<T: Float, D: Dimension>(
    data: &mut ArrayRef<T, D>,
    run: impl FnOnce(&View<'_>, &mut ViewMut<'_>) -> Result<()>,
) -> Result<()> {
    let mut out = ViewMut::of(data);
    let x = out.array().clone();
    run(&x, &mut out)
}

/// An operand that broadcasts against the logits' shape `x` without the `axes`, as seen from the logits.
pub(crate) fn spread<'a>(operand: &View<'a>, x: &[usize], axes: &[bool], name: &str) -> Result<View<'a>> {
    let mut view = operand.broadcast(&kept(x, axes), name)?;
    for (axis, _) in axes.iter().enumerate().filter(|(_, is_axis)| **is_axis) {
        view.shape.insert(axis, 1);
        view.strides.insert(axis, 0);
    }
    Ok(view)
}
