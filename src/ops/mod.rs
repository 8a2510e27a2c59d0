//! The public functions, one file each, named as in Python.

pub(crate) mod cross_entropy;
pub mod entropy;
pub(crate) mod log_prob;
pub mod log_softmax;
pub(crate) mod logsumexp;
pub mod softmax;
pub mod top_k;
