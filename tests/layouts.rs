//! Any shape, axes, strides, dtypes, mask and temperatures, against the definition; the same bits at every level.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    clippy::unwrap_used,
    reason = "test data is rounded as it may be"
)]

mod common;

use common::{Double, Random, levels, softmax as reference, ulp_error};
use fastsoftmax::{Axis, Element, Float, Level, Options, softmax_into};
use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, Dimension, IxDyn, SliceInfoElem};
use proptest::prelude::*;

/// Where an array lies: a cut out of a larger one.
#[derive(Debug, Clone)]
struct Layout {
    shape: Vec<usize>,
    /// Elements of the larger array from one index to the next: negative, backwards; 0 for an axis that repeats one.
    steps: Vec<isize>,
    /// Decides the order of the axes in memory.
    seed: u64,
}

impl Layout {
    fn strategy(shape: Vec<usize>, repeats: bool) -> impl Strategy<Value = Self> {
        let step = (isize::from(!repeats)..=3, any::<bool>());
        let steps = prop::collection::vec(step.prop_map(|(step, back)| if back { -step } else { step }), shape.len());
        (Just(shape), steps, any::<u64>()).prop_map(|(shape, steps, seed)| Self { shape, steps, seed })
    }

    /// The axes in the order of memory, the outermost first.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.shape.len()).collect();
        let mut random = Random(self.seed);
        (1..order.len()).rev().for_each(|i| order.swap(i, random.below(i + 1)));
        order
    }

    /// The larger array.
    fn memory<T>(&self, fill: impl FnMut() -> T) -> ArrayD<T> {
        let length =
            |axis: usize| if self.steps[axis] == 0 { 1 } else { self.shape[axis] * self.steps[axis].unsigned_abs() };
        let lengths: Vec<_> = self.order().into_iter().map(length).collect();
        ArrayD::from_shape_simple_fn(IxDyn(&lengths), fill)
    }

    /// How to cut: a slice of each axis in memory, and where each axis is found.
    fn cut(&self) -> (Vec<SliceInfoElem>, IxDyn) {
        let order = self.order();
        let step = |axis: usize| if self.steps[axis] == 0 { 1 } else { self.steps[axis] };
        let slices = order.iter().map(|&axis| SliceInfoElem::Slice { start: 0, end: None, step: step(axis) }).collect();
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, &axis)| places[axis] = place);
        (slices, IxDyn(&places))
    }

    /// The cut, in which axes that repeat an element still have length 1.
    fn view<'a, T>(&self, memory: &'a ArrayD<T>) -> ArrayViewD<'a, T> {
        let (slices, places) = self.cut();
        memory.view().slice_move(slices.as_slice()).permuted_axes(places)
    }

    fn view_mut<'a, T>(&self, memory: &'a mut ArrayD<T>) -> ArrayViewMutD<'a, T> {
        let (slices, places) = self.cut();
        memory.view_mut().slice_move(slices.as_slice()).permuted_axes(places)
    }
}

/// A dtype of this test: how test data becomes it, and what its values are.
trait Number: Element {
    fn of(value: f64) -> Self;
    fn value(self) -> f64;
}

macro_rules! numbers {
    ($($type:ty: $of:expr, $value:expr;)*) => {$(
        impl Number for $type {
            fn of(value: f64) -> Self {
                $of(value)
            }
            fn value(self) -> f64 {
                $value(self)
            }
        }
    )*};
}
numbers! {
    f16: f16::from_f64, f16::to_f64;
    bf16: bf16::from_f64, bf16::to_f64;
    f32: |value| value as f32, f64::from;
    f64: |value| value, |value| value;
    bool: |value| value > 0.0, |value| f64::from(u8::from(value));
    i8: |value| value as i8, f64::from;
    i64: |value| value as i64, |value| value as f64;
    u16: |value| value as u16, f64::from;
    u64: |value| value as u64, |value| value as f64;
}

/// A dtype of results: its precision, and the bound that is promised.
trait Result: Number + Float {
    const MANTISSA: i32;
    const LEAST: i32;
    const ULP: f64;
}

macro_rules! results {
    ($($type:ty: $mantissa:expr, $least:expr, $ulp:expr;)*) => {$(
        impl Result for $type {
            const MANTISSA: i32 = $mantissa;
            const LEAST: i32 = $least;
            const ULP: f64 = $ulp;
        }
    )*};
}
results! {
    f16: 10, -14, 0.51;
    bf16: 7, -126, 0.51;
    f32: 23, -126, fastsoftmax::ops::softmax::ULP;
    f64: 52, -1022, fastsoftmax::ops::softmax::ULP;
}

/// What is called: dtypes are left to the tests.
#[derive(Debug, Clone)]
struct Call {
    x: Layout,
    out: Layout,
    mask: Option<Layout>,
    /// For each axis, whether it is one of the function's.
    reduced: Vec<bool>,
    temperature: Temperature,
    spread: f64,
    seed: u64,
}

#[derive(Debug, Clone)]
enum Temperature {
    One,
    Number(f64),
    Rows(Layout),
}

fn call() -> impl Strategy<Value = Call> {
    let length = prop_oneof![20 => 1usize..8, 2 => 15usize..40, 1 => Just(0usize)];
    let shape = prop::collection::vec(length, 0..=4);
    let shape = shape.prop_filter("small", |shape| shape.iter().product::<usize>() <= 3_000);
    shape.prop_flat_map(|shape| {
        let reduced = prop::collection::vec(any::<bool>(), shape.len());
        (Just(shape), reduced).prop_flat_map(|(shape, reduced)| {
            let rows = shape.iter().zip(&reduced).map(|(len, reduced)| if *reduced { 1 } else { *len }).collect();
            let temperature = prop_oneof![
                2 => Just(Temperature::One),
                1 => (-3.0f64..3.0).prop_map(|exponent| Temperature::Number(10f64.powf(exponent))),
                1 => Layout::strategy(rows, true).prop_map(Temperature::Rows),
            ];
            let x = Layout::strategy(shape.clone(), true);
            let out = Layout::strategy(shape.clone(), false);
            let mask = prop::option::of(Layout::strategy(shape, true));
            (x, out, mask, Just(reduced), temperature, 0.0f64..30.0, any::<u64>()).prop_map(
                |(x, out, mask, reduced, temperature, spread, seed)| Call {
                    x,
                    out,
                    mask,
                    reduced,
                    temperature,
                    spread,
                    seed,
                },
            )
        })
    })
}

/// For each row, the places of its elements, in order.
fn rows(shape: &[usize], reduced: &[bool]) -> Vec<Vec<IxDyn>> {
    let mut rows = std::collections::BTreeMap::<Vec<usize>, Vec<IxDyn>>::new();
    for (place, ()) in ArrayD::<()>::default(IxDyn(shape)).indexed_iter() {
        let place = place.slice().to_vec();
        let row = place.iter().zip(reduced).filter(|(_, reduced)| !**reduced).map(|(index, _)| *index).collect();
        rows.entry(row).or_default().push(IxDyn(&place));
    }
    rows.into_values().collect()
}

fn check<T: Number, U: Result>(call: &Call) {
    let shape = IxDyn(&call.x.shape);
    let mut random = Random(call.seed);
    let x_memory = call.x.memory(|| T::of(random.normal() * call.spread));
    let x_cut = call.x.view(&x_memory);
    let x = x_cut.broadcast(shape.clone()).unwrap();
    let mask_memory = call.mask.as_ref().map(|mask| mask.memory(|| random.uniform() < 0.7));
    let mask_cut = call.mask.as_ref().zip(mask_memory.as_ref()).map(|(mask, memory)| mask.view(memory));
    let mask = mask_cut.as_ref().map(|mask| mask.broadcast(shape.clone()).unwrap());
    let empty = Layout { shape: Vec::new(), steps: Vec::new(), seed: 0 };
    let layout = if let Temperature::Rows(layout) = &call.temperature { layout } else { &empty };
    let temperature_memory = layout.memory(|| 10f64.powf(random.normal()));
    let temperature_cut = layout.view(&temperature_memory);
    let temperatures = temperature_cut.broadcast(IxDyn(&layout.shape)).unwrap();

    let mut options = match call.temperature {
        Temperature::One => Options::new(),
        Temperature::Number(value) => Options::new().temperature(value),
        Temperature::Rows(_) => Options::new().temperatures(&temperatures),
    };
    if let Some(mask) = &mask {
        options = options.keep(mask);
    }
    let axes = (0..).zip(&call.reduced).filter(|(_, reduced)| **reduced).map(|(axis, _)| axis);
    let axes: Vec<isize> = axes.collect();
    let ndim = call.reduced.len().cast_signed();
    let axis = match axes.as_slice() {
        all if all.len() == call.reduced.len() && ndim != 1 => Axis::All,
        [one] => Axis::One(one - ndim),
        several => Axis::Several(several.iter().rev().copied().collect()),
    };

    let mut first: Option<Vec<u64>> = None;
    for level in levels() {
        for threads in [1, 3] {
            let mut out_memory = call.out.memory(|| U::of(-7.0));
            let mut out = call.out.view_mut(&mut out_memory);
            softmax_into(&x, &mut out, axis.clone(), &options.clone().level(level).threads(threads)).unwrap();
            let bits: Vec<_> = out.iter().map(|value| value.value().to_bits()).collect();
            if let Some(first) = &first {
                assert!(*first == bits, "{} with {threads} threads has other bits", level.name());
                continue;
            }
            assert_eq!(level, Level::Portable);
            for row in rows(&call.x.shape, &call.reduced) {
                let kept: Vec<_> = row.iter().filter(|place| mask.as_ref().is_none_or(|mask| mask[*place])).collect();
                let temperature = match (&call.temperature, row.first()) {
                    (Temperature::Number(value), _) => *value,
                    (Temperature::Rows(layout), Some(place)) => {
                        let place = place.slice().to_vec();
                        let place: Vec<_> =
                            place.iter().zip(&layout.shape).map(|(index, len)| *index.min(&(len - 1))).collect();
                        temperatures[IxDyn(&place)]
                    }
                    _ => 1.0,
                };
                let logits: Vec<_> = kept.iter().map(|place| x[*place].value()).collect();
                let exact = reference(&logits, temperature);
                let mut exact = kept.into_iter().zip(exact).collect::<std::collections::HashMap<&IxDyn, Double>>();
                for place in &row {
                    let exact = exact.remove(place).unwrap_or(Double(0.0, 0.0));
                    let got = out[place].value();
                    let error = ulp_error(got, exact, U::MANTISSA, U::LEAST);
                    assert!(error <= U::ULP, "{place:?}: {got}, not {exact:?}: {error} ULP");
                }
            }
            let written = bits.len();
            let untouched = out_memory.iter().filter(|value| value.value().to_bits() == (-7.0f64).to_bits()).count();
            assert_eq!(written + untouched, out_memory.len(), "something was written between the elements");
            first = Some(bits);
        }
    }
}

macro_rules! tests {
    ($($name:ident: $from:ty => $to:ty;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $name(call in call()) {
                    check::<$from, $to>(&call);
                }
            )*
        }
    };
}
tests! {
    float16: f16 => f16;
    bfloat16: bf16 => bf16;
    float32: f32 => f32;
    float64: f64 => f64;
    float32_to_float64: f32 => f64;
    float64_to_float32: f64 => f32;
    float32_to_float16: f32 => f16;
    bfloat16_to_float32: bf16 => f32;
    boolean: bool => f64;
    int8: i8 => f64;
    int64: i64 => f64;
    uint16: u16 => f32;
    uint64: u64 => f64;
}
