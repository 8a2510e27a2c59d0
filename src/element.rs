//! The element types: what may come in, what may go out, and the type that the arithmetic uses between the two.

use half::{bf16, f16};

/// The dtype of an array, as the kernels see it: native byte order, numbers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the dtypes' own")]
pub enum DType {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    BF16,
    F32,
    F64,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Whether results can have this dtype.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// NumPy's name of the dtype.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// The dtype of a result when the caller names none: floats keep theirs, all else gives float64.
    #[must_use]
    pub const fn result(self) -> Self {
        if self.is_float() { self } else { Self::F64 }
    }

    /// The dtype of a result of two operands, by NumPy's rules; float16 and bfloat16 meet in float32.
    #[must_use]
    pub const fn promoted(self, other: Self) -> Self {
        match (self.result(), other.result()) {
            (Self::F64, _) | (_, Self::F64) => Self::F64,
            (Self::F16, Self::F16) => Self::F16,
            (Self::BF16, Self::BF16) => Self::BF16,
            _ => Self::F32,
        }
    }

    /// Whether the dtype is one of integers; bool is not.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        !self.is_float() && !matches!(self, Self::Bool)
    }

    /// Whether the arithmetic from `self` to a result of dtype `out` is done in float64.
    ///
    /// It is when either side holds more than float32 does: the input is then rounded once, at the end.
    #[must_use]
    pub const fn computes_in_f64(self, out: Self) -> bool {
        matches!(out, Self::F64) || matches!(self.result(), Self::F64)
    }
}

/// A Rust type that arrays of this crate may hold.
pub trait Element: Copy + Send + Sync + 'static + sealed::Sealed {
    /// The dtype with this layout.
    const DTYPE: DType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! {
    bool => Bool, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64,
}

/// An [`Element`] that results may have.
pub trait Float: Element {}
impl Float for f16 {}
impl Float for bf16 {}
impl Float for f32 {}
impl Float for f64 {}
