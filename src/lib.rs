//! The softmax family over n-dimensional arrays on the CPU: near the speed of a memory copy, exact to two units in the
//! last place, the same bits on every machine.
//!
//! The functions take [`ndarray`] arrays of any shape and strides and work along an [`Axis`]: one, several together,
//! or all. -1 is the last. What else can be asked stands in [`Options`].
//!
//! ```
//! use fastsoftmax::{Options, softmax, softmax_in_place};
//! use ndarray::array;
//!
//! let mut logits = array![[2.0f32, 1.0, 0.1], [0.0, 0.0, 0.0]];
//! let probabilities = softmax(&logits, -1, &Options::new().temperature(0.5))?;
//! assert!(probabilities.row(0).sum() > 0.999_999);
//!
//! softmax_in_place(&mut logits, -1, &Options::new())?;
//! assert_eq!(logits[[0, 0]], 0.659_001_1);
//! # Ok::<(), fastsoftmax::Error>(())
//! ```
//!
//! # What is promised
//! - **Accuracy**: float32 and float64 within [`ops::softmax::ULP`] units in the last place of the real-number result,
//!   half precision rounded once from float32, at any length and for any spread of logits.
//! - **The same bits** for a row whatever the instruction set, the number of threads, the layout, the other rows.
//! - **Special values**: NaN makes its row NaN and no other; +inf makes it NaN; so does nothing but -inf.
//!
//! # Levels and threads
//! The kernels are compiled for each [`Level`], and the best one that the processor has runs; the environment variable
//! `FASTSOFTMAX_SIMD` names another. Threads come from a pool of this crate's own, made when first needed; see
//! [`num_threads`].
//!
//! # Features
//! - `python`: the extension module of the Python package. It is off by default, and brings in `PyO3` and rust-numpy.

mod element;
mod error;
mod kernel;
mod memory;
pub mod ops;
mod options;
mod parallel;
#[cfg(feature = "python")]
mod python;
mod shape;
mod simd;
mod walk;
mod yardstick;

pub use element::{DType, Element, Float};
pub use error::{Error, Result};
pub use ops::cross_entropy::{CrossEntropy, cross_entropy};
pub use ops::entropy::entropy;
pub use ops::log_prob::log_prob;
pub use ops::log_softmax::{log_softmax, log_softmax_in_place, log_softmax_into};
pub use ops::log_softmax_vjp::{log_softmax_vjp, log_softmax_vjp_in_place, log_softmax_vjp_into};
pub use ops::logsumexp::logsumexp;
pub use ops::softmax::{softmax, softmax_in_place, softmax_into};
pub use ops::softmax_segments::{softmax_segments, softmax_segments_in_place, softmax_segments_into};
pub use ops::softmax_vjp::{softmax_vjp, softmax_vjp_in_place, softmax_vjp_into};
pub use ops::top_k::{TopK, top_k};
pub use options::Options;
pub use parallel::{num_threads, set_num_threads};
pub use shape::Axis;
pub use simd::Level;
#[doc(hidden)]
pub use yardstick::{Yardstick, yardstick};
