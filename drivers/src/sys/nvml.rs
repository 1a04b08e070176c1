//! What nvml-wrapper has no safe method for: the ids of MIG instances, and an
//! event set that lives as long as its library.

use std::{mem, ptr::NonNull};

use nvml_wrapper::{
    Device, EventSet, Nvml,
    bitmasks::event::EventTypes,
    error::{NvmlError, nvml_try},
};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlReturn_t,
};

type GetNumber = unsafe extern "C" fn(nvmlDevice_t, *mut u32) -> nvmlReturn_t;

/// The id of the GPU instance that a MIG device is of.
pub(crate) fn gpu_instance_id(device: &Device<'_>) -> Result<u32, NvmlError> {
    number(device, device.nvml().lib().nvmlDeviceGetGpuInstanceId.as_ref().ok())
}

/// The id of the compute instance that a MIG device is.
pub(crate) fn compute_instance_id(device: &Device<'_>) -> Result<u32, NvmlError> {
    number(device, device.nvml().lib().nvmlDeviceGetComputeInstanceId.as_ref().ok())
}

fn number(device: &Device<'_>, get: Option<&GetNumber>) -> Result<u32, NvmlError> {
    let get = get.ok_or(NvmlError::FunctionNotFound)?;
    let mut number = 0;
    // SAFETY: the function is the library's own of this signature, the library
    // and the handle live as long as `device`, and `number` outlives the call.
    nvml_try(unsafe { get(device.handle(), &mut number) })?;
    Ok(number)
}

/// What the other end of an NVLink is (`nvmlIntNvLinkDeviceType_t`).
/// nvml-wrapper 0.13 has a method for it that throws the answer away.
pub(crate) fn remote_device_type(device: &Device<'_>, link: u32) -> Result<u32, NvmlError> {
    let lib = device.nvml().lib();
    let Ok(get) = &lib.nvmlDeviceGetNvLinkRemoteDeviceType else {
        return Err(NvmlError::FunctionNotFound);
    };
    let mut kind = 0;
    // SAFETY: as in `number`.
    nvml_try(unsafe { get(device.handle(), link, &mut kind) })?;
    Ok(kind)
}

/// First memory slice of a GPU instance, and how many.
pub(crate) fn placement(device: &Device<'_>, instance: u32) -> Result<(u32, u32), NvmlError> {
    let lib = device.nvml().lib();
    let (Ok(by_id), Ok(info_of)) = (&lib.nvmlDeviceGetGpuInstanceById, &lib.nvmlGpuInstanceGetInfo)
    else {
        return Err(NvmlError::FunctionNotFound);
    };
    let mut handle: nvmlGpuInstance_t = std::ptr::null_mut();
    // SAFETY: as in `number`; the handle written is only given back to the
    // library, and the structure of plain numbers may be all zeros.
    let info = unsafe {
        let mut info: nvmlGpuInstanceInfo_t = mem::zeroed();
        nvml_try(by_id(device.handle(), instance, &mut handle))?;
        nvml_try(info_of(handle, &mut info))?;
        info
    };
    Ok((info.placement.start, info.placement.size))
}

/// NVML held open, with an event set for each GPU that has any to tell.
pub(crate) struct Watch {
    /// Borrow from `nvml`, and are gone before it: see `drop`.
    sets: Vec<(String, EventSet<'static>)>,
    nvml: NonNull<Nvml>,
}

// SAFETY: a library and its event sets may be used from any thread (NVML is
// thread-safe, and nvml-wrapper's own types are `Send`); the pointer is owned.
unsafe impl Send for Watch {}

impl Watch {
    /// Gives the library back if it lacks what events need: its own `Drop`
    /// panics without.
    pub(crate) fn new(nvml: Box<Nvml>) -> Result<Self, Box<Nvml>> {
        let lib = nvml.lib();
        let whole = lib.nvmlShutdown.is_ok()
            && lib.nvmlEventSetFree.is_ok()
            && lib.nvmlEventSetWait_v2.is_ok();
        match whole {
            true => Ok(Self { sets: Vec::new(), nvml: NonNull::from(Box::leak(nvml)) }),
            false => Err(nvml),
        }
    }

    pub(crate) fn nvml(&self) -> &Nvml {
        self.forever()
    }

    /// Private, so that the life claimed here gets no further than `sets`.
    fn forever(&self) -> &'static Nvml {
        // SAFETY: `nvml` came from a box, is freed in `drop` alone and never
        // borrowed mutably; `sets`, the only place where this reference is
        // kept, is emptied before.
        unsafe { self.nvml.as_ref() }
    }

    /// Watches the GPU at a PCI address for those of the events that it has.
    pub(crate) fn add(&mut self, pci: &str, events: EventTypes) -> Result<(), NvmlError> {
        let nvml = self.forever();
        let device = nvml.device_by_pci_bus_id(pci)?;
        let events = events & device.supported_event_types()?;
        let set = device.register_events(events, nvml.create_event_set()?);
        self.sets.push((pci.to_owned(), set.map_err(|error| error.error)?));
        Ok(())
    }

    /// The GPUs watched.
    pub(crate) fn watched(&self) -> impl Iterator<Item = &str> {
        self.sets.iter().map(|(pci, _)| pci.as_str())
    }

    /// Stops watching one.
    pub(crate) fn remove(&mut self, pci: &str) {
        self.sets.retain(|(watched, _)| watched != pci);
    }

    /// The next event of a GPU, with the Xid code if it is one; at once.
    pub(crate) fn next(&self, pci: &str) -> Result<(EventTypes, Option<u64>), NvmlError> {
        use nvml_wrapper::enums::event::XidError;
        let found = self.sets.iter().find(|(watched, _)| watched == pci);
        let event = found.ok_or(NvmlError::NotFound)?.1.wait(0)?;
        let code = event.event_data.map(|code| match code {
            XidError::Value(code) => code,
            XidError::Unknown => 999,
        });
        Ok((event.event_type, code))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.sets.clear();
        // SAFETY: made from a box in `new`, and nothing borrows from it any more.
        drop(unsafe { Box::from_raw(self.nvml.as_ptr()) });
    }
}
