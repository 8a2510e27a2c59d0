//! The public functions, one file each, named as in Python.

pub mod log_softmax;
pub mod softmax;
