//! Results that are written past the cache: the same bits as through it, for rows of every length and place.

use half::{bf16, f16};
use ndarray::{Array1, Array2, Array3, ArrayRef, ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis as NdAxis, Ix3};

use crate::error::Result;
use crate::memory::{HAS_NO_CACHE, IS_ANOTHER_MACHINE, View, ViewMut};
use crate::ops::{log_softmax, softmax, softmax_segments};
use crate::options::Options;
use crate::shape::Axis;
use crate::simd::Level;
use crate::{Element, Float};

/// Runs a call as if there were no cache, and as on a machine of the other kind.
fn past_the_cache<R>(on_another: bool, call: impl FnOnce() -> R) -> R {
    HAS_NO_CACHE.set(true);
    IS_ANOTHER_MACHINE.set(on_another);
    let result = call();
    HAS_NO_CACHE.set(false);
    IS_ANOTHER_MACHINE.set(false);
    result
}

/// The results of a call past the cache, at each of some places after the beginning of a line, with something after them.
fn check_places<T: Float + Into<f64>>(
    expected: &[u64],
    places: &[usize],
    seven: T,
    name: &str,
    call: impl Fn(&mut [T]) -> Result<()>,
) {
    // (On a machine of the other kind at one place, where rows share lines: the test takes a while.)
    let on_this = places.iter().map(|place| (place, false));
    for (place, on_another) in on_this.chain([(&places[1], true)]) {
        let mut room = vec![seven; place + expected.len() + 1];
        past_the_cache(on_another, || call(&mut room[*place..place + expected.len()])).unwrap();
        assert!(bits(room[*place..place + expected.len()].iter().copied()) == expected, "{name}, {place} on");
        assert!(bits([room[place + expected.len()]]) == bits([seven]), "past the end, {name}, {place} on");
    }
}

fn logits(rows: usize, len: usize) -> Array2<f64> {
    let mut state = (rows * len) as u64;
    let mut x = Array2::from_shape_simple_fn((rows, len), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from((state >> 40) as u32) / f64::from(1u32 << 21) - 4.0
    });
    for (row, mut x) in x.axis_iter_mut(NdAxis(0)).enumerate() {
        match row % 31 {
            2 => x[len / 2] = f64::NAN,
            3 => x[0] = f64::NEG_INFINITY,
            4 => x.mapv_inplace(|x| x * 30.0 + 9000.0),
            7 => x[len - 1] = -300.0,
            8 => x[len / 3] = f64::INFINITY,
            _ => {}
        }
    }
    x
}

fn bits<T: Float + Into<f64>>(x: impl IntoIterator<Item = T>) -> Vec<u64> {
    x.into_iter().map(|x| x.into().to_bits()).collect()
}

/// Logits that are `of` numbers, and results of type `T`.
fn check<X: Element, T: Float + Element + Default + Into<f64>>(of: impl Fn(f64) -> X, seven: T) {
    let long = [(50, 800), (40, 1000), (41, 1001), (9, 5000), (3, 40_001), (2, 140_000)];
    for (rows, len) in [(900, 3), (500, 10), (700, 65), (400, 100), (61, 399)].into_iter().chain(long) {
        let x = logits(rows, len).mapv(&of);
        let each: Array2<f64> = Array2::from_shape_fn((rows, 1), |(row, _)| [1.0, 0.3, 1e-20][row % 3]);
        for level in Level::available() {
            let plain = || Options::new().level(level);
            for (case, options) in
                [plain(), plain().threads(3), plain().temperature(0.7), plain().temperatures(&each)].iter().enumerate()
            {
                for run in [softmax::run, log_softmax::run] {
                    let mut expected = Array2::<T>::default(x.raw_dim());
                    run(&View::of(&x), &mut ViewMut::of(&mut expected), &Axis::One(-1), options).unwrap();
                    // Outputs that begin at, before and after the beginning of a line, the last elements past them.
                    let name = format!("{} {rows} x {len} options {case}", level.name());
                    check_places(&bits(expected), &[0, 1, 5], seven, &name, |out| {
                        let mut out = ArrayViewMut2::from_shape((rows, len), out).unwrap();
                        run(&View::of(&x), &mut ViewMut::of(&mut out), &Axis::One(-1), options)
                    });
                }
            }
        }
    }
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
fn rows_of_float32() {
    check(|value| value as f32, 7.0f32);
}

#[test]
fn rows_of_float64() {
    check(|value| value, 7.0f64);
}

#[test]
fn rows_of_half_precision() {
    check(f16::from_f64, f16::from_f64(7.0));
    check(bf16::from_f64, bf16::from_f64(7.0));
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
fn rows_of_one_dtype_into_another() {
    check(f16::from_f64, 7.0f32);
    check(|value| value as f32, bf16::from_f64(7.0));
    check(|value| value, f16::from_f64(7.0));
}

/// Results so little after the logits, modulo a page, that loads would wait for stores.
#[test]
#[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
fn results_that_trail() {
    for (rows, len) in [(40, 100), (30, 1000), (9, 5000)] {
        let x = logits(rows, len).mapv(|value| value as f32);
        let apart = (x.len() + 1024).next_multiple_of(1024);
        let mut room = vec![0.0f32; apart + x.len() + 32];
        let (room_of_x, room_of_out) = room.split_at_mut(apart);
        room_of_x[..x.len()].copy_from_slice(x.as_slice().unwrap());
        let x = ArrayView2::from_shape((rows, len), &room_of_x[..x.len()]).unwrap();
        for level in Level::available() {
            let options = Options::new().level(level);
            for run in [softmax::run, log_softmax::run] {
                let mut expected = Array2::<f32>::default(x.raw_dim());
                run(&View::of(&x), &mut ViewMut::of(&mut expected), &Axis::One(-1), &options).unwrap();
                let places = [0, 4, 8, 12, 15, 16, 31];
                for (after, on_another) in places.into_iter().flat_map(|after| [(after, false), (after, true)]) {
                    let out = &mut room_of_out[after..after + x.len()];
                    out.fill(7.0);
                    let mut out = ArrayViewMut2::from_shape((rows, len), out).unwrap();
                    let axis = Axis::One(-1);
                    past_the_cache(on_another, || run(&View::of(&x), &mut ViewMut::of(&mut out), &axis, &options))
                        .unwrap();
                    let name = format!("{} {rows} x {len}, {after} after", level.name());
                    assert!(bits(out.iter().copied()) == bits(expected.iter().copied()), "{name}");
                }
            }
        }
    }
}

/// Columns, whose tiles begin where lines of the output do, or cannot, and the same as rows.
fn check_columns<T: Float + Element + Default + Into<f64>>(of: impl Fn(f64) -> T, seven: T) {
    let some = [(1, 9, 4096), (3, 40, 336), (2, 1500, 80), (1, 4700, 211), (2, 30, 1001), (40, 7, 16), (1, 3, 70)];
    // Narrow ones: of part of a chunk, of several, of several blocks.
    let narrow = [(3, 141, 15), (2, 2100, 7), (1, 66_000, 2)];
    // With rows that are special, by which a whole tile takes another way, and without.
    let shapes = some.into_iter().chain(narrow);
    for ((outer, len, lanes), special) in shapes.flat_map(|shape| [(shape, true), (shape, false)]) {
        let x = logits(outer * lanes, len).mapv(|x| of(if special || x.abs() < 10.0 { x } else { 0.5 }));
        // (Where nothing is special, every row keeps some.)
        let kept = Array2::from_shape_fn(x.raw_dim(), |(row, place)| {
            (row * 7 + place * 5) % 11 > 2 && !(special && row % 13 == 5) || !special && place == 0
        });
        for level in Level::available() {
            for (threads, temperature, is_masked) in
                [(1, 1.0, false), (3, 1.0, false), (3, 0.7, false), (1, 1.0, true), (3, 0.7, true)]
            {
                let plain = Options::new().level(level).threads(threads).temperature(temperature);
                let name = format!(
                    "{} {outer} x {len} x {lanes}, {threads}, {temperature}, {is_masked} {special}",
                    level.name()
                );
                for (run, in_place) in [
                    (softmax::run as Run, softmax::softmax_in_place as InPlace<T>),
                    (log_softmax::run, log_softmax::log_softmax_in_place),
                ] {
                    let options = if is_masked { plain.clone().keep(&kept) } else { plain.clone() };
                    let mut expected = Array2::<T>::default(x.raw_dim());
                    run(&View::of(&x), &mut ViewMut::of(&mut expected), &Axis::One(-1), &options).unwrap();

                    let (x, expected) = (columns(&x, outer), bits(columns(&expected, outer)));
                    let kept = columns(&kept, outer);
                    let options = if is_masked { plain.clone().keep(&kept) } else { plain.clone() };
                    let mut out = Array3::<T>::default(x.raw_dim());
                    run(&View::of(&x), &mut ViewMut::of(&mut out), &Axis::One(1), &options).unwrap();
                    assert!(bits(out) == expected, "{name}");
                    let mut data = x.clone();
                    in_place(&mut data, Axis::One(1), &options).unwrap();
                    assert!(bits(data) == expected, "in place, {name}");
                    check_places(&expected, &[0, 1, 4, 15], seven, &name, |out| {
                        let mut out = ArrayViewMut3::from_shape((outer, len, lanes), out).unwrap();
                        run(&View::of(&x), &mut ViewMut::of(&mut out), &Axis::One(1), &options)
                    });
                }
            }
        }
    }
}

type Run = fn(&View<'_>, &mut ViewMut<'_>, &Axis, &Options<'_>) -> Result<()>;
type InPlace<T> = fn(&mut ArrayRef<T, Ix3>, Axis, &Options<'_>) -> Result<()>;

/// Rows as columns of so many matrices.
fn columns<T: Copy>(rows: &Array2<T>, outer: usize) -> Array3<T> {
    let (count, len) = rows.dim();
    let rows = rows.to_shape((outer, count / outer, len)).unwrap();
    rows.permuted_axes([0, 2, 1]).as_standard_layout().into_owned()
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
fn columns_of_float32() {
    check_columns(|value| value as f32, 7.0);
}

#[test]
fn columns_of_float64() {
    check_columns(|value| value, 7.0);
}

#[test]
fn columns_of_half_precision() {
    check_columns(f16::from_f64, f16::from_f32(7.0));
}

/// Rows together, where they lie or by way of working memory, and each by itself.
fn check_alone<T: Float + Element + Default + Into<f64>>(of: impl Fn(f64) -> T) {
    let few = [(70, 1), (70, 2), (70, 3), (70, 4), (70, 5), (70, 8), (70, 17), (70, 20)];
    for (rows, len) in few.into_iter().chain([(70, 33), (64, 64), (50, 100), (40, 300), (9, 700), (5, 3000), (3, 5000)])
    {
        let wide = logits(rows, 2 * len).mapv(&of);
        let spaced = wide.slice(ndarray::s![.., ..;2]);
        let dense = spaced.as_standard_layout().into_owned();
        let mask = Array2::from_shape_fn((rows, len), |(row, place)| row != 3 && (row * 5 + place * 3) % 7 > 1);
        for level in Level::available() {
            for run in [softmax::run, log_softmax::run] {
                let call = |x: &View<'_>, shape, options: &Options<'_>| {
                    let mut out = Array2::<T>::default(shape);
                    run(x, &mut ViewMut::of(&mut out), &Axis::One(-1), &options.clone().level(level)).unwrap();
                    out
                };
                let (plain, warm) = (Options::new(), Options::new().temperature(0.7));
                let masked = Options::new().keep(&mask);
                let together = call(&View::of(&dense), (rows, len), &plain);
                let apart = call(&View::of(&spaced), (rows, len), &plain);
                let kept = call(&View::of(&spaced), (rows, len), &masked);
                let kept_where_they_lie = call(&View::of(&dense), (rows, len), &masked);
                assert!(bits(kept_where_they_lie) == bits(kept.iter().copied()), "{} {rows} x {len}", level.name());
                let past = past_the_cache(false, || call(&View::of(&dense), (rows, len), &masked));
                assert!(bits(past) == bits(kept.iter().copied()), "{} {rows} x {len}, past the cache", level.name());
                let warmer = call(&View::of(&dense), (rows, len), &warm);
                for row in 0..rows {
                    let name = format!("{} row {row} of {rows} x {len}", level.name());
                    let one = ndarray::s![row..=row, ..];
                    let (x, mask) = (dense.slice(one), mask.slice(one));
                    let alone = call(&View::of(&x), (1, len), &plain);
                    assert!(bits(together.slice(one).iter().copied()) == bits(alone.iter().copied()), "{name}");
                    assert!(bits(apart.slice(one).iter().copied()) == bits(alone), "{name}, not adjacent");
                    let alone = call(&View::of(&x), (1, len), &warm);
                    assert!(bits(warmer.slice(one).iter().copied()) == bits(alone), "{name}, at a temperature");
                    let alone = call(&View::of(&x), (1, len), &Options::new().keep(&mask));
                    assert!(bits(kept.slice(one).iter().copied()) == bits(alone), "{name}, masked");
                }
            }
        }
    }
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
fn rows_together_and_alone() {
    check_alone::<f32>(|value| value as f32);
    check_alone::<f64>(|value| value);
    check_alone::<half::f16>(half::f16::from_f64);
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
fn segments() {
    let x: Array1<f32> = logits(600, 100).iter().map(|x| *x as f32).collect();
    let offsets = Array1::from(vec![3i64, 3, 8, 30, 31, 1000, 1016, 1033, 50_000, 59_990]);
    for level in Level::available() {
        let options = Options::new().level(level);
        let call = |out: &mut Array1<f32>| {
            softmax_segments::run(&View::of(&x), &View::of(&offsets), &mut ViewMut::of(out), &options)
        };
        let (mut expected, mut out) = (Array1::default(x.len()), Array1::default(x.len()));
        call(&mut expected).unwrap();
        past_the_cache(false, || call(&mut out)).unwrap();
        assert!(bits(out) == bits(expected), "{}", level.name());
    }
}
