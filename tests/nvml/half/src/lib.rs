//! An incomplete `libnvidia-ml.so.1`: it starts, finds one GPU and knows its
//! name, and has none of the other symbols, not even the one to stop it. Old
//! drivers and stubs of containers look like this to a newer program.

#![allow(unsafe_code)]

use std::{ffi::c_char, ptr};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlReturn_t,
};

const NAME: &[u8] = b"Half a GPU\0";

/// `nvmlInit_v2`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    SUCCESS
}

/// `nvmlDeviceGetHandleByPciBusId_v2`: every address has the same GPU.
///
/// # Safety
/// `device` points to a handle, as NVML demands.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    _address: *const c_char,
    device: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    // SAFETY: as promised by the caller.
    unsafe { *device = ptr::without_provenance_mut(1) };
    SUCCESS
}

/// `nvmlDeviceGetName`
///
/// # Safety
/// `name` has room for `length` bytes, as NVML demands.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(
    _device: nvmlDevice_t,
    name: *mut c_char,
    length: u32,
) -> nvmlReturn_t {
    let fits = NAME.len().min(length as usize);
    // SAFETY: as promised by the caller, there is room for `fits` bytes.
    unsafe { ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, fits) };
    SUCCESS
}
