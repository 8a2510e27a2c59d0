//! The kernels alone: per level, dtype and shape, in bytes per second beside a copy of the same bytes.
//!
//! ```sh
//! cargo bench -- 'rows_1000/f32'       # a part, by a regular expression on the names
//! cargo bench -- --test                # each once, quickly, as CI does
//! ```
//!
//! One thread, so that it is the kernel that is measured; `versus.py` measures the rest. Bytes are those read and
//! written, so that figures of softmax and of the copies can be compared.
#![allow(missing_docs, reason = "criterion's macros make functions without")]
#![allow(clippy::cast_possible_truncation, reason = "test data is rounded as it may be")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastsoftmax::{Float, Level, Options, Yardstick, softmax_in_place, softmax_into, yardstick};
use half::{bf16, f16};
use ndarray::Array2;

/// Elements of the larger arrays: 16 MiB of float32, more than most second-level caches.
const LARGE: usize = 1 << 22;
/// Elements of the smaller ones: 256 KiB, input and output in the second-level cache.
const SMALL: usize = 1 << 16;

/// A name, and how a dtype is made of a logit.
trait Number: Float {
    const NAME: &'static str;
    fn of(value: f64) -> Self;
}

macro_rules! numbers {
    ($($type:ty: $name:literal, $of:expr;)*) => {$(
        impl Number for $type {
            const NAME: &'static str = $name;
            fn of(value: f64) -> Self {
                $of(value)
            }
        }
    )*};
}
numbers! {
    f16: "f16", f16::from_f64;
    bf16: "bf16", bf16::from_f64;
    f32: "f32", |value| value as f32;
    f64: "f64", |value| value;
}

/// Whether each benchmark runs once only.
fn is_test() -> bool {
    std::env::args().any(|argument| argument == "--test") || !std::env::args().any(|argument| argument == "--bench")
}

/// Logits between -16 and 16, by a linear congruential generator (Knuth's MMIX).
fn logits<T: Number>(shape: (usize, usize)) -> Array2<T> {
    let mut state = 1u64;
    Array2::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::of(f64::from((state >> 40) as u32) / f64::from(1 << 19) - 16.0)
    })
}

/// A shape of about `elements` elements: rows of `len`, or columns of it for axis 0.
fn shape(elements: usize, len: usize, axis: isize) -> (usize, usize) {
    let rows = (elements / len).max(1);
    if axis == 0 { (len, rows) } else { (rows, len) }
}

fn levels<T: Number>(group: &mut BenchmarkGroup<'_, WallTime>, shape: (usize, usize), axis: isize) {
    let x = logits::<T>(shape);
    let mut out = x.clone();
    group.throughput(Throughput::Bytes(2 * size_of_val(x.as_slice().unwrap_or(&[])) as u64));
    for level in Level::available() {
        let options = Options::new().level(level).threads(1);
        let name = BenchmarkId::new(T::NAME, level.name());
        group.bench_function(name, |bencher| {
            bencher.iter(|| softmax_into(black_box(&x), black_box(&mut out), axis, &options));
        });
    }
}

/// What a copy of as many bytes of float32 takes.
fn copies(group: &mut BenchmarkGroup<'_, WallTime>, elements: usize) {
    let (from, mut to) = (vec![1.0f32; elements], vec![0.0f32; elements]);
    group.throughput(Throughput::Bytes(2 * size_of_val(from.as_slice()) as u64));
    for (kind, name) in [(Yardstick::Memcpy, "memcpy"), (Yardstick::Stream, "stream")] {
        group.bench_function(BenchmarkId::new("copy", name), |bencher| {
            bencher.iter(|| yardstick(kind, black_box(&from), black_box(&mut to), 1));
        });
    }
}

fn shapes(criterion: &mut Criterion) {
    for (size, elements) in [("small", SMALL), ("large", LARGE)] {
        let elements = if is_test() { SMALL } else { elements };
        for (name, len, axis) in [
            ("rows_10", 10, -1),
            ("rows_100", 100, -1),
            ("rows_1000", 1_000, -1),
            ("rows_32000", 32_000, -1),
            ("axis0_10", 10, 0),
            ("axis0_1000", 1_000, 0),
        ] {
            let shape = shape(elements, len, axis);
            let mut group = criterion.benchmark_group(format!("{name}/{size}"));
            levels::<f32>(&mut group, shape, axis);
            levels::<f64>(&mut group, shape, axis);
            levels::<f16>(&mut group, shape, axis);
            levels::<bf16>(&mut group, shape, axis);
            copies(&mut group, shape.0 * shape.1);
            group.finish();
        }
    }
}

/// The cost of a call that has next to nothing to do, and of a row in place.
fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("calls");
    let options = Options::new();
    let x = ndarray::Array1::from_elem(10, 1.0f32);
    let mut out = x.clone();
    group.bench_function("10 elements", |bencher| {
        bencher.iter(|| softmax_into(black_box(&x), black_box(&mut out), -1, &options));
    });
    // The softmax of a softmax, and so on: the values do not matter.
    let mut row = ndarray::Array1::from_elem(1_000, 1.0f32);
    group.bench_function("1,000 elements in place", |bencher| {
        bencher.iter(|| softmax_in_place(black_box(&mut row), -1, &options));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = shapes, calls
}
criterion_main!(benches);
