//! The public functions, one file each, named as in Python.

pub mod softmax;


