//! Arguments: what Python passed, checked, and read once.
//!
//! The only unsafe code of `python` is here and in `result`. rust-numpy's own borrowing is not used: it takes a global lock and two
//! hash look-ups for an array, refuses an input and an output that are one array, and does not see that two arrays
//! share memory when their bases differ. What may be shared is decided in `memory`, from pointers and strides.

use std::ffi::{c_int, c_long};
use std::ptr;

use numpy::npyffi::{self, NPY_ORDER, NPY_TYPES, PY_ARRAY_API, PyArray_Descr};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString, PyTuple, PyType};
use pyo3::{PyTypeInfo, intern};

use super::error::axis_error;
use super::result;
use crate::element::DType;
use crate::memory::{View, ViewMut};
use crate::options::{self, check_temperature, check_threads};
use crate::shape::{Axis, Shape, Strides, display};

const SUPPORTED: &str = "bool, integers, float16, bfloat16, float32 and float64";
const SUPPORTED_FLOATS: &str = "float16, bfloat16, float32 and float64";

/// An array, or what `numpy.asarray` made of another object.
pub(super) struct Array<'py>(Bound<'py, PyUntypedArray>);

impl<'py> FromPyObject<'_, 'py> for Array<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let object = object.to_owned();
        match object.cast_into_exact::<PyUntypedArray>() {
            Ok(array) => Ok(Self(array)),
            Err(error) => Self::from_any(&error.into_inner()),
        }
    }
}

impl<'py> Array<'py> {
    #[cold]
    fn from_any(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        static AS_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Ok(array) = object.cast::<PyUntypedArray>() {
            refuse_masked(object)?;
            return Ok(Self(array.clone()));
        }
        let array = AS_ARRAY.import(object.py(), "numpy", "asarray")?.call1((object,))?;
        Ok(Self(array.cast_into()?))
    }

    /// The array as the kernels see it; `name` is what an error calls it.
    ///
    /// Reads the header of the array once, and so is called once for an array, after all arguments have been
    /// converted: that runs code of the caller's, which may give an array another shape or dtype.
    #[allow(unsafe_code, reason = "takes NumPy's header at its word")]
    pub(super) fn view(&self, name: &str) -> PyResult<View<'_>> {
        let (dtype, swapped) = self.dtype().map_err(|dtype| {
            PyTypeError::new_err(format!("{name} has dtype {dtype}, which is not supported; {SUPPORTED} are"))
        })?;
        // SAFETY: NumPy keeps every element that its shape and strides reach within memory that the array, or its
        // base, owns. `self` holds a reference to the array, and the view does not outlive the borrow of `self`.
        // (A slice will not do: elements may be unaligned, reversed, repeated, or of the other byte order.)
        Ok(unsafe { View::new(self.data(), dtype, swapped, self.0.shape(), self.0.strides()) })
    }

    /// The address of the element at index 0.
    #[allow(unsafe_code, reason = "rust-numpy gives the address of typed arrays alone")]
    fn data(&self) -> *mut u8 {
        // SAFETY: `self.0` is an array, so its object has NumPy's fields, and it is alive.
        unsafe { (*npyffi::objects::_PyArray_GET_ITEM_DATA(self.0.as_array_ptr())).data.cast() }
    }

    #[allow(unsafe_code, reason = "rust-numpy has no name for this flag")]
    fn is_writeable(&self) -> bool {
        // SAFETY: as in `data`.
        let flags = unsafe { (*npyffi::objects::_PyArray_GET_ITEM_DATA(self.0.as_array_ptr())).flags };
        flags & npyffi::NPY_ARRAY_WRITEABLE != 0
    }

    /// The element type, and whether its byte order is the other one; NumPy's dtype where it is not supported.
    fn dtype(&self) -> Result<(DType, bool), Bound<'py, PyArrayDescr>> {
        let descr = self.0.dtype();
        match recognise(&descr) {
            Some(dtype) => Ok((dtype, descr.is_native_byteorder() == Some(false))),
            None => Err(descr),
        }
    }
}

/// A mask must not be dropped in silence, as `numpy.asarray` does.
fn refuse_masked(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    // Without `numpy.ma` there are no masked arrays, and importing it takes longer than most calls.
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    if let Some(module) = modules.cast::<PyDict>()?.get_item(intern!(py, "numpy.ma"))?
        && object.is_instance(&module.getattr(intern!(py, "MaskedArray"))?)?
    {
        return Err(PyTypeError::new_err(
            "numpy.ma.MaskedArray is not supported, lest its mask be lost; \
             pass x.data, and where=~numpy.ma.getmaskarray(x)",
        ));
    }
    Ok(())
}

/// The element types of NumPy's own type numbers.
///
/// By number, not by kind and size: `ml_dtypes` registers types of kind `f` that have nothing to do with IEEE 754.
const NUMBERED: [Option<DType>; 24] = {
    const LONG_IS_64: bool = size_of::<c_long>() == 8;
    let mut table = [None; 24];
    table[NPY_TYPES::NPY_BOOL as usize] = Some(DType::Bool);
    table[NPY_TYPES::NPY_BYTE as usize] = Some(DType::I8);
    table[NPY_TYPES::NPY_SHORT as usize] = Some(DType::I16);
    table[NPY_TYPES::NPY_INT as usize] = Some(DType::I32);
    table[NPY_TYPES::NPY_LONG as usize] = Some(if LONG_IS_64 { DType::I64 } else { DType::I32 });
    table[NPY_TYPES::NPY_LONGLONG as usize] = Some(DType::I64);
    table[NPY_TYPES::NPY_UBYTE as usize] = Some(DType::U8);
    table[NPY_TYPES::NPY_USHORT as usize] = Some(DType::U16);
    table[NPY_TYPES::NPY_UINT as usize] = Some(DType::U32);
    table[NPY_TYPES::NPY_ULONG as usize] = Some(if LONG_IS_64 { DType::U64 } else { DType::U32 });
    table[NPY_TYPES::NPY_ULONGLONG as usize] = Some(DType::U64);
    table[NPY_TYPES::NPY_HALF as usize] = Some(DType::F16);
    table[NPY_TYPES::NPY_FLOAT as usize] = Some(DType::F32);
    table[NPY_TYPES::NPY_DOUBLE as usize] = Some(DType::F64);
    table
};

/// The class of `ml_dtypes.bfloat16` and NumPy's number for it, once an array or a dtype has shown it.
static BFLOAT16: PyOnceLock<(Py<PyType>, c_int)> = PyOnceLock::new();

/// The element type that a NumPy dtype stands for.
fn recognise(descr: &Bound<'_, PyArrayDescr>) -> Option<DType> {
    match usize::try_from(descr.num()).ok()? {
        number if number < NUMBERED.len() => NUMBERED[number],
        number if number >= NPY_TYPES::NPY_USERDEF as usize && is_bfloat16(descr) => Some(DType::BF16),
        _ => None,
    }
}

/// Whether a registered dtype is `ml_dtypes.bfloat16`; `ml_dtypes` is not imported for it.
fn is_bfloat16(descr: &Bound<'_, PyArrayDescr>) -> bool {
    let py = descr.py();
    let class = descr.typeobj();
    if let Some((known, _)) = BFLOAT16.get(py) {
        return class.is(known);
    }
    let named = |attribute, value| class.getattr(attribute).and_then(|name| name.eq(value)).unwrap_or(false);
    let found = named(intern!(py, "__name__"), "bfloat16")
        && named(intern!(py, "__module__"), "ml_dtypes")
        && descr.itemsize() == DType::BF16.size();
    if found {
        BFLOAT16.get_or_init(py, || (class.unbind(), descr.num()));
    }
    found
}

/// NumPy's type number of a result's dtype.
fn number(py: Python<'_>, dtype: DType) -> c_int {
    match dtype {
        DType::BF16 => BFLOAT16.get(py).map_or(NPY_TYPES::NPY_NOTYPE as c_int, |(_, number)| *number),
        DType::F16 => NPY_TYPES::NPY_HALF as c_int,
        DType::F32 => NPY_TYPES::NPY_FLOAT as c_int,
        // The number of `numpy.intp`, where two are of that size.
        DType::I64 if size_of::<c_long>() == 8 => NPY_TYPES::NPY_LONG as c_int,
        DType::I64 => NPY_TYPES::NPY_LONGLONG as c_int,
        _ => NPY_TYPES::NPY_DOUBLE as c_int,
    }
}

/// An array that takes the result.
pub(super) struct Output<'py>(Array<'py>);

impl<'py> FromPyObject<'_, 'py> for Output<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyUntypedArray>() {
            return object.extract().map(Self);
        }
        Err(PyTypeError::new_err(format!("out must be a numpy.ndarray, not {}", type_name(&object))))
    }
}

impl<'py> Output<'py> {
    /// A new array of this dtype with the shape of `like`, laid out in memory as that is (NumPy's order 'K').
    ///
    /// `shape` is what `like`'s shape was when it was read.
    #[allow(unsafe_code, reason = "rust-numpy's own allocation panics where there is no memory")]
    pub(super) fn like(like: &Array<'py>, shape: &[usize], dtype: DType) -> PyResult<Self> {
        let py = like.0.py();
        if like.0.is_c_contiguous() {
            // The common case without the search for an order: 0.1 us of a small call.
            return Self::new(py, shape, dtype);
        }
        #[allow(unsafe_code, reason = "rust-numpy's own allocation panics where there is no memory")]
        Self::made(py, shape, dtype, |descr| {
            // SAFETY: the prototype is an array and alive; for the descriptor see `made`.
            unsafe { PY_ARRAY_API.PyArray_NewLikeArray(py, like.0.as_array_ptr(), NPY_ORDER::NPY_KEEPORDER, descr, 0) }
        })
    }

    /// A new array of this dtype and shape, in C order.
    #[allow(unsafe_code, reason = "rust-numpy's own allocation panics where there is no memory")]
    pub(super) fn new(py: Python<'py>, shape: &[usize], dtype: DType) -> PyResult<Self> {
        // Lengths are below `isize::MAX` and dimensions below 65: they are those of an array, or fewer.
        let dimensions = c_int::try_from(shape.len()).unwrap_or(c_int::MAX);
        Self::made(py, shape, dtype, |descr| {
            // SAFETY: `shape` holds that many lengths, and they are only read; for the descriptor see `made`.
            unsafe {
                PY_ARRAY_API.PyArray_NewFromDescr(
                    py,
                    PyUntypedArray::type_object_raw(py),
                    descr,
                    dimensions,
                    shape.as_ptr().cast_mut().cast(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                    0,
                    ptr::null_mut(),
                )
            }
        })
    }

    /// The new array of this dtype and shape that `make` makes of the dtype's descriptor, which it takes over.
    #[allow(unsafe_code, reason = "rust-numpy's own allocation panics where there is no memory")]
    fn made(
        py: Python<'py>,
        shape: &[usize],
        dtype: DType,
        make: impl FnOnce(*mut PyArray_Descr) -> *mut PyObject,
    ) -> PyResult<Self> {
        let array = result::array(py, bytes(shape, dtype), || {
            // SAFETY: where the number is unknown there is no descriptor; where there is no memory there is no array; and
            // in both cases an exception is set. What is returned is a new reference.
            let array = unsafe {
                let descr = PY_ARRAY_API.PyArray_DescrFromType(py, number(py, dtype));
                let array = if descr.is_null() { ptr::null_mut() } else { make(descr) };
                Bound::from_owned_ptr_or_err(py, array)?
            };
            Ok(array.cast_into()?)
        })?;
        Ok(Self(Array(array)))
    }

    /// The caller's own array, if the result may go there. `asked` is the argument `dtype`.
    pub(super) fn check(self, asked: Option<DType>) -> PyResult<Self> {
        let descr = self.0.0.dtype();
        match (recognise(&descr), asked) {
            (Some(dtype), Some(asked)) if dtype.is_float() && dtype != asked => Err(PyTypeError::new_err(format!(
                "dtype is {} but out has dtype {descr}; leave dtype out, the result takes that of out",
                asked.name()
            ))),
            (Some(dtype), _) if dtype.is_float() => Ok(self),
            _ => Err(unsupported_output(&descr)),
        }
    }

    /// The array as the kernels write it. Reads its header once; see [`Array::view`].
    pub(super) fn view(&mut self) -> PyResult<ViewMut<'_>> {
        let dtype = self.dtype(DType::is_float)?;
        let array = self.0.0.clone();
        Ok(self.view_as(dtype, array.shape(), array.strides()))
    }

    /// A new array of int64 as the kernels write it.
    pub(super) fn view_of_indices(&mut self) -> PyResult<ViewMut<'_>> {
        let dtype = self.dtype(|dtype| dtype == DType::I64)?;
        let array = self.0.0.clone();
        Ok(self.view_as(dtype, array.shape(), array.strides()))
    }

    /// The array as reductions write it: with an axis of length 1 for each of the logits' axes that are `reduced`.
    /// Its own shape must be `shape`, which may have these axes already.
    pub(super) fn view_of_reduced(&mut self, shape: &[usize], reduced: &[bool]) -> PyResult<ViewMut<'_>> {
        let dtype = self.dtype(DType::is_float)?;
        let array = &self.0.0;
        if array.shape() != shape {
            return Err(PyValueError::new_err(format!(
                "out has shape {}, but the result has shape {}",
                display(array.shape()),
                display(shape)
            )));
        }
        let (mut all, mut strides) = (Shape::from_slice(shape), Strides::from_slice(array.strides()));
        if shape.len() != reduced.len() {
            for (axis, _) in reduced.iter().enumerate().filter(|(_, is_reduced)| **is_reduced) {
                all.insert(axis, 1);
                strides.insert(axis, 0);
            }
        }
        Ok(self.view_as(dtype, &all, &strides))
    }

    /// The element type, if it `fits` and the array may be written, and whether its byte order is the other one.
    ///
    /// To tell may run code of the caller's, so the header's other fields are read afterwards.
    fn dtype(&self, fits: fn(DType) -> bool) -> PyResult<(DType, bool)> {
        match self.0.dtype() {
            Ok((dtype, _)) if !fits(dtype) => Err(unsupported_output(&self.0.0.dtype())),
            Ok(_) if !self.0.is_writeable() => Err(PyValueError::new_err("out is read-only")),
            Ok(dtype) => Ok(dtype),
            Err(descr) => Err(unsupported_output(&descr)),
        }
    }

    /// The array seen with this shape and these strides, which must reach no other elements than its own do.
    #[allow(unsafe_code, reason = "takes NumPy's header at its word")]
    fn view_as(&mut self, (dtype, swapped): (DType, bool), shape: &[usize], strides: &[isize]) -> ViewMut<'_> {
        // SAFETY: as in `Array::view`: shape and strides are the array's own, but for axes of length 1. The memory is
        // writeable, as the flag said when the dtype was looked at just now. The view borrows `self`, but the array may be
        // an input, too: that is for `memory` to find out and to treat.
        unsafe { ViewMut::new(self.0.data(), dtype, swapped, shape, strides) }
    }

    /// The array, to be returned.
    pub(super) fn into_object(self) -> Bound<'py, PyAny> {
        self.0.0.into_any()
    }

    /// The array, to be returned; one without dimensions as a NumPy scalar.
    pub(super) fn into_scalar(self) -> PyResult<Bound<'py, PyAny>> {
        let array = self.0.0;
        if array.ndim() == 0 { array.get_item(PyTuple::empty(array.py())) } else { Ok(array.into_any()) }
    }
}

fn unsupported_output(descr: &Bound<'_, PyArrayDescr>) -> PyErr {
    PyTypeError::new_err(format!("out has dtype {descr}, which is not supported; {SUPPORTED_FLOATS} are"))
}

/// The argument `dtype`.
#[derive(Clone, Copy)]
pub(super) struct FloatType(pub(super) DType);

impl<'py> FromPyObject<'_, 'py> for FloatType {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let descr = PyArrayDescr::new(object.py(), object.to_owned())?;
        match recognise(&descr) {
            Some(dtype) if dtype.is_float() => Ok(Self(dtype)),
            _ => {
                Err(PyTypeError::new_err(format!("dtype {descr} is not supported for results; {SUPPORTED_FLOATS} are")))
            }
        }
    }
}

/// The argument `where`.
pub(super) struct Mask<'py>(Array<'py>);

impl<'py> FromPyObject<'_, 'py> for Mask<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self)
    }
}

impl Mask<'_> {
    pub(super) fn view(&self) -> PyResult<View<'_>> {
        match self.0.dtype() {
            Ok((DType::Bool, _)) => self.0.view("where"),
            _ => Err(PyTypeError::new_err(format!(
                "where must be an array of bool, not of {}; compare numbers, as in where=mask != 0",
                self.0.0.dtype()
            ))),
        }
    }
}

/// The argument `temperature`.
pub(super) enum Temperature<'py> {
    Number(f64),
    Rows(Array<'py>),
}

impl<'py> FromPyObject<'_, 'py> for Temperature<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        // NumPy's float64 is a float, too.
        if let Ok(number) = object.cast::<PyFloat>() {
            return Self::number(number.value());
        }
        if object.is_instance_of::<PyInt>() && !object.is_instance_of::<PyBool>() {
            return match object.extract::<f64>() {
                Err(error) if !error.is_instance_of::<PyOverflowError>(object.py()) => Err(error),
                // Too large a number is infinite, and is refused as that is.
                number => Self::number(number.unwrap_or(f64::INFINITY)),
            };
        }
        let array: Array<'py> = object.extract()?;
        match array.dtype() {
            Ok((dtype, _)) if dtype != DType::Bool => {}
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "temperature must be a real number, or an array of such, not {}",
                    if array.0.ndim() == 0 { type_name(&object) } else { array.0.dtype().to_string() }
                )));
            }
        }
        if array.0.ndim() == 0 { Self::number(array.0.extract()?) } else { Ok(Self::Rows(array)) }
    }
}

impl Temperature<'_> {
    fn number(value: f64) -> PyResult<Self> {
        Ok(Self::Number(check_temperature(value)?))
    }

    pub(super) fn view(&self) -> PyResult<options::Temperature<'_>> {
        Ok(match self {
            // By its bits: to compare a subnormal number would raise a flag that the caller could see.
            Self::Number(value) if value.to_bits() == 1.0f64.to_bits() => options::Temperature::One,
            Self::Number(value) => options::Temperature::Number(*value),
            Self::Rows(array) => options::Temperature::Rows(array.view("temperature")?),
        })
    }
}

impl<'py> FromPyObject<'_, 'py> for Axis {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(Self::All);
        }
        if let Ok(axes) = object.cast::<PyTuple>() {
            return axes.iter().map(|axis| index(axis.as_borrowed())).collect::<PyResult<_>>().map(Self::Several);
        }
        index(object).map(Self::One)
    }
}

/// One axis: anything with `__index__` but a bool, as in NumPy.
fn index(object: Borrowed<'_, '_, PyAny>) -> PyResult<isize> {
    one_axis(object, "an integer, a tuple of integers or None")
}

/// One axis; `wanted` is what an error says the argument must be.
fn one_axis(object: Borrowed<'_, '_, PyAny>, wanted: &str) -> PyResult<isize> {
    let py = object.py();
    let refuse = || PyTypeError::new_err(format!("axis must be {wanted}, not {}", type_name(&object)));
    if object.is_instance_of::<PyBool>() {
        return Err(refuse());
    }
    object.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(py) {
            return axis_error(("axis is out of bounds for any array",));
        }
        if error.is_instance_of::<PyTypeError>(py) { refuse() } else { error }
    })
}

/// The argument `axis` of functions that work along one axis.
#[derive(Clone, Copy)]
pub(super) struct ClassAxis(pub(super) isize);

impl FromPyObject<'_, '_> for ClassAxis {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        one_axis(object, "an integer").map(Self)
    }
}

/// The argument `k`.
#[derive(Clone, Copy)]
pub(super) struct Count(pub(super) usize);

impl FromPyObject<'_, '_> for Count {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match integer(object, "k must be an integer")? {
            Some(count) => usize::try_from(count)
                .map(Self)
                .map_err(|_| PyValueError::new_err(format!("k must be at least 0, not {count}"))),
            None => Err(PyValueError::new_err("k is not a length that an axis can have")),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy)]
pub(super) struct Bytes(pub(super) usize);

impl FromPyObject<'_, '_> for Bytes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let bytes = integer(object, "n must be an integer or None")?;
        bytes.and_then(|bytes| usize::try_from(bytes).ok()).map(Self).ok_or_else(|| {
            PyValueError::new_err("n must be a number of bytes that a machine can have; 0 keeps no memory")
        })
    }
}

/// An integer, anything with `__index__` but a bool; none where it is too large. `wanted` begins the error about any
/// other class.
fn integer(object: Borrowed<'_, '_, PyAny>, wanted: &str) -> PyResult<Option<isize>> {
    let py = object.py();
    let refuse = || PyTypeError::new_err(format!("{wanted}, not {}", type_name(&object)));
    if object.is_instance_of::<PyBool>() {
        return Err(refuse());
    }
    match object.extract::<isize>() {
        Ok(integer) => Ok(Some(integer)),
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => Ok(None),
        Err(error) if error.is_instance_of::<PyTypeError>(py) => Err(refuse()),
        Err(error) => Err(error),
    }
}

/// The argument `reduction`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Summary {
    Mean,
    Sum,
    None,
}

impl FromPyObject<'_, '_> for Summary {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let Ok(name) = object.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!("reduction must be a string, not {}", type_name(&object))));
        };
        match name.to_cow()?.as_ref() {
            "mean" => Ok(Self::Mean),
            "sum" => Ok(Self::Sum),
            "none" => Ok(Self::None),
            other => Err(PyValueError::new_err(format!("reduction must be 'mean', 'sum' or 'none', not {other:?}"))),
        }
    }
}

/// The argument `threads`, at least 1.
#[derive(Clone, Copy)]
pub(super) struct Threads(pub(super) usize);

impl FromPyObject<'_, '_> for Threads {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match integer(object, "threads must be an integer or None")? {
            Some(threads) => Ok(Self(check_threads(usize::try_from(threads).unwrap_or(0))?)),
            None => Err(PyValueError::new_err("threads is not a number that a machine can have")),
        }
    }
}

/// The bytes of an array.
fn bytes(shape: &[usize], dtype: DType) -> usize {
    shape.iter().fold(dtype.size(), |bytes, len| bytes.saturating_mul(*len))
}

/// The name of an object's class, for an error.
fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "that object".into(), |name| name.to_string())
}
