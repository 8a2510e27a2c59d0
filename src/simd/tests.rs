//! Parts of vectors at every level.

use super::{Kernel, Level, Simd, Vector, dispatch};
use crate::kernel::Real;

/// What lies around the elements that a part has.
const AROUND: f64 = -7.0;
/// What the lanes without an element hold.
const FILL: f64 = 3.0;

/// Every number of lanes that a part can have: loaded, told by the mask, stored.
struct Parts<T>(std::marker::PhantomData<T>);

impl<T: Real> Kernel for Parts<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let lanes = T::LANES;
        for count in 0..lanes {
            let mut from = vec![T::from_f64(AROUND); 3 * lanes];
            for (place, element) in from[lanes..lanes + count].iter_mut().enumerate() {
                *element = number(place);
            }
            let part = T::Vector::<S>::load_partial(token, &from[lanes..lanes + count], T::from_f64(FILL));
            for (lane, have) in part.to_array().as_ref().iter().enumerate() {
                let want = if lane < count { number(lane) } else { T::from_f64(FILL) };
                assert!(*have == want, "lane {lane} of {count}");
            }
            assert_eq!(T::Vector::<S>::bits(token, T::Vector::<S>::first_lanes(token, count)), (1 << count) - 1);

            let mut to = vec![T::from_f64(AROUND); 3 * lanes];
            part.store_partial(&mut to[lanes..lanes + count]);
            assert!(to == from, "the first {count} lanes, and nothing else, are stored");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "below 16")]
fn number<T: Real>(place: usize) -> T {
    T::from_f64(place as f64 + 0.5)
}

#[test]
fn parts_of_vectors_are_loaded_and_stored() {
    for level in Level::available() {
        dispatch(level, Parts::<f32>(std::marker::PhantomData));
        dispatch(level, Parts::<f64>(std::marker::PhantomData));
    }
}
