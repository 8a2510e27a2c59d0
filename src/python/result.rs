//! The memory of new arrays: NumPy's own, or for large ones that of [`recycle`], by a memory handler of NumPy's
//! (NEP 49). So they are ordinary arrays that own their memory, and NumPy may resize them.
//!
//! The handler is in force only while such an array is made, and in this thread; the array keeps it for its own end.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use numpy::PyUntypedArray;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCapsule;

use crate::memory::recycle;

/// `PyDataMem_Handler` of NumPy's C API.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    context: *mut c_void,
    malloc: extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

// SAFETY: it is never written, and there is nothing behind `context`.
#[allow(unsafe_code, reason = "a pointer that is null")]
unsafe impl Sync for Handler {}

static HANDLER: Handler =
    Handler { name: name(b"fastsoftmax"), version: 1, context: ptr::null_mut(), malloc, calloc, realloc, free };

/// What `get_handler_name` of NumPy's tells.
const fn name(text: &[u8]) -> [c_char; 127] {
    let mut name = [0; 127];
    let mut index = 0;
    while index < text.len() {
        name[index] = text[index].cast_signed() as c_char;
        index += 1;
    }
    name
}

extern "C" fn malloc(_: *mut c_void, bytes: usize) -> *mut c_void {
    recycle::allocate(bytes).cast()
}

extern "C" fn calloc(_: *mut c_void, count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return ptr::null_mut() };
    let pointer = recycle::allocate(bytes);
    if !pointer.is_null() {
        #[allow(unsafe_code, reason = "an allocator gives out pointers")]
        // SAFETY: so many bytes were just allocated.
        unsafe {
            pointer.write_bytes(0, bytes);
        }
    }
    pointer.cast()
}

#[allow(unsafe_code, reason = "an allocator takes pointers back")]
unsafe extern "C" fn realloc(_: *mut c_void, pointer: *mut c_void, bytes: usize) -> *mut c_void {
    if pointer.is_null() {
        return recycle::allocate(bytes).cast();
    }
    // SAFETY: NumPy passes what this handler gave it, and uses it no more unless the result is null.
    unsafe { recycle::reallocate(pointer.cast(), bytes).cast() }
}

#[allow(unsafe_code, reason = "an allocator takes pointers back")]
unsafe extern "C" fn free(_: *mut c_void, pointer: *mut c_void, _: usize) {
    if !pointer.is_null() {
        // SAFETY: NumPy passes what this handler gave it, and uses it no more.
        unsafe { recycle::free(pointer.cast()) }
    }
}

/// NumPy's way to change the handler, and ours as an object.
struct Handlers {
    /// `PyDataMem_SetHandler`: takes the handler, returns the one before; null with an exception where that failed.
    set: unsafe extern "C" fn(*mut PyObject) -> *mut PyObject,
    ours: Py<PyAny>,
}

impl Handlers {
    /// The place of `PyDataMem_SetHandler` in the table of NumPy's C API, from NumPy 1.22 on.
    const SET: usize = 304;
    /// What capsules of handlers are called.
    const NAME: &CStr = c"mem_handler";

    fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static HANDLERS: PyOnceLock<Handlers> = PyOnceLock::new();
        HANDLERS.get_or_try_init(py, || {
            let api = py.import("numpy._core.multiarray")?.getattr("_ARRAY_API")?.cast_into::<PyCapsule>()?;
            let table = api.pointer_checked(None)?.cast::<*const c_void>();
            #[allow(unsafe_code, reason = "rust-numpy does not have this function of NumPy's")]
            // SAFETY: the table has had this function there since NumPy 1.22, and NumPy 2 is required. It is static,
            // as is the handler, of which the capsule has the address.
            unsafe {
                let set = std::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut PyObject) -> *mut PyObject>(
                    table.add(Self::SET).read(),
                );
                let handler = ptr::from_ref(&HANDLER).cast_mut().cast();
                let ours = ffi::PyCapsule_New(handler, Self::NAME.as_ptr(), None);
                Ok(Self { set, ours: Bound::from_owned_ptr_or_err(py, ours)?.unbind() })
            }
        })
    }

    /// Whether a handler is NumPy's own.
    fn is_default(handler: &Bound<'_, PyAny>) -> bool {
        #[allow(unsafe_code, reason = "a capsule of NumPy's C API")]
        // SAFETY: the object is alive; where it is no capsule of a handler the pointer is null. A handler begins with its
        // name, which ends within the field.
        unsafe {
            let pointer = ffi::PyCapsule_GetPointer(handler.as_ptr(), Self::NAME.as_ptr());
            !pointer.is_null() && CStr::from_ptr(pointer.cast()) == c"default_allocator"
        }
    }

    /// Puts a handler in force, and returns the one before.
    fn set<'py>(&self, handler: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        #[allow(unsafe_code, reason = "a function of NumPy's C API")]
        // SAFETY: the argument is alive, and a capsule of a handler: ours, or one that NumPy returned.
        unsafe {
            Bound::from_owned_ptr_or_err(handler.py(), (self.set)(handler.as_ptr()))
        }
    }
}

/// The array of so many bytes that `make` makes, with memory that is recycled where it is large.
pub(super) fn array<'py>(
    py: Python<'py>,
    bytes: usize,
    make: impl FnOnce() -> PyResult<Bound<'py, PyUntypedArray>>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    if bytes < recycle::LEAST || recycle::limit() == 0 {
        return make();
    }
    let handlers = Handlers::get(py)?;
    let before = handlers.set(handlers.ours.bind(py))?;
    if !Handlers::is_default(&before) {
        // Somebody wants arrays to have other memory.
        handlers.set(&before)?;
        return make();
    }
    let array = make();
    let restored = handlers.set(&before);
    let array = array?;
    restored.map(|_| array)
}
