//! Any shape, axes, strides, dtype, mask and temperature, against the definition; the same bits at every level.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "test data is rounded as it may be"
)]

mod common;

use common::{Double, Random, levels, softmax as reference, ulp_error};
use fastsoftmax::{Axis, Element, Float, Level, Options, softmax_into};
use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, IxDyn, SliceInfoElem};
use proptest::prelude::*;

/// A layout: the shape, and for each axis how its memory lies.
#[derive(Debug, Clone)]
struct Layout {
    shape: Vec<usize>,
    /// Elements from one index to the next in a larger array: negative, backwards; 0 for an axis that repeats one.
    steps: Vec<isize>,
    /// The order of the axes in memory: a seed for a shuffle.
    order: u64,
}

fn layout(shape: Vec<usize>, repeats: bool) -> impl Strategy<Value = Layout> {
    let least = if repeats { 0isize } else { 1 };
    let step = (least..=3, any::<bool>()).prop_map(|(step, back)| if back { -step } else { step });
    let steps = prop::collection::vec(step, shape.len());
    (Just(shape), steps, any::<u64>()).prop_map(|(shape, steps, order)| Layout { shape, steps, order })
}

impl Layout {
    /// Axis by axis as in memory, the outermost first.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.shape.len()).collect();
        let mut random = Random(self.order);
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        order
    }

    /// Memory for it.
    fn memory<T: Copy>(&self, fill: impl FnMut() -> T) -> ArrayD<T> {
        let lengths = self.order().into_iter().map(|axis| match self.steps[axis] {
            0 => 1,
            step => self.shape[axis] * step.unsigned_abs(),
        });
        ArrayD::from_shape_simple_fn(IxDyn(&lengths.collect::<Vec<_>>()), fill)
    }

    /// The array in its memory, before axes are repeated.
    fn slices(&self) -> (Vec<SliceInfoElem>, Vec<usize>) {
        let order = self.order();
        let slices = order.iter().map(|&axis| match self.steps[axis] {
            0 => SliceInfoElem::Slice { start: 0, end: None, step: 1 },
            step => SliceInfoElem::Slice { start: 0, end: None, step },
        });
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
        (slices.collect(), back)
    }

    fn view<'a, T>(&self, memory: &'a ArrayD<T>) -> ArrayViewD<'a, T> {
        let (slices, back) = self.slices();
        let view = memory.slice(slices.as_slice()).permuted_axes(IxDyn(&back));
        let strides = view.strides().to_vec();
        let repeated = view.broadcast(IxDyn(&self.shape)).expect("axes of length 1 are repeated");
        debug_assert_eq!(strides.len(), repeated.ndim());
        // SAFETY is ndarray's: the view borrows from `memory`, not from `view`.
        let repeated: ArrayViewD<'_, T> = repeated;
        repeat(memory, &repeated)
    }
}
