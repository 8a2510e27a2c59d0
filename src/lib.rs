//! The softmax family over n-dimensional arrays.
#![cfg_attr(docsrs, feature(doc_cfg))]

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
pub use ops::log_softmax::log_softmax;
pub use ops::softmax::{softmax, softmax_in_place, softmax_into};
pub use options::Options;
pub use shape::Axis;
pub use simd::Level;
#[doc(hidden)]
pub use yardstick::{Yardstick, yardstick};
