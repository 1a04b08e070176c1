//! What NVIDIA's GPUs may take: read and set through NVML.
//!
//! Page: `hw-docs/power.md`. Source: NVML's `nvmlDeviceSetPowerManagementLimit` and
//! `nvmlDeviceGetPowerManagementLimitConstraints`. A GPU is known by its UUID, which goes
//! with the board and not with the slot. A limit is for as long as the driver holds the
//! GPU; setting one needs CAP_SYS_ADMIN. Each change is read back before it is told.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use serde::{Deserialize, Serialize};

use super::{MAX_GPUS, NVML_VARIABLE, nvml, nvml_library};
use crate::Root;

/// The kernel driver's module.
const DRIVER: &str = "/sys/module/nvidia";

/// A GPU's limit, in mW.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Whose.
    pub uuid: String,
    /// What it is set to.
    pub set_mw: u32,
    /// The least that it may be set to.
    pub min_mw: u32,
    /// The most.
    pub max_mw: u32,
}

/// A GPU's UUID, and what it may take, in mW.
pub type Cap = (String, u32);

/// The limits of all GPUs whose limit can be set; none without NVIDIA's driver.
pub fn limits(root: &Root) -> Result<Vec<Limit>, String> {
    if env::var_os(NVML_VARIABLE).is_none() && !root.exists(DRIVER) {
        return Ok(Vec::new());
    }
    limits_with(&nvml_library())
}

/// [`limits`], asking the given library.
pub fn limits_with(library: &Path) -> Result<Vec<Limit>, String> {
    with(library, |nvml| {
        let count = nvml.device_count().map_err(|error| error.to_string())?;
        let all = (0..count.min(MAX_GPUS as u32)).map(|index| {
            let device = nvml.device_by_index(index);
            match device.and_then(|device| limit(&device)) {
                Ok(limit) => Ok(Some(limit)),
                Err(NvmlError::NotSupported) => Ok(None),
                Err(error) => Err(format!("GPU {index}: its power limit can't be read: {error}")),
            }
        });
        all.filter_map(Result::transpose).collect()
    })
}

/// Sets limits, each within what its GPU takes. A GPU that is not there is passed over.
pub fn limit_to(caps: &[Cap]) -> Result<(), String> {
    limit_with(&nvml_library(), caps)
}

/// [`limit_to`], asking the given library.
pub fn limit_with(library: &Path, caps: &[Cap]) -> Result<(), String> {
    with(library, |nvml| caps.iter().try_for_each(|cap| set(nvml, cap)))
}

fn set(nvml: &Nvml, (uuid, wanted): &Cap) -> Result<(), String> {
    let told = |error: NvmlError| match error {
        NvmlError::NoPermission => {
            format!("{uuid}: the driver lets nobody without CAP_SYS_ADMIN set its power limit")
        }
        error => format!("{uuid}: a power limit of {wanted} mW is not taken: {error}"),
    };
    let mut device = match nvml.device_by_uuid(uuid.as_str()) {
        Ok(device) => device,
        Err(NvmlError::NotFound) => return Ok(()),
        Err(error) => return Err(told(error)),
    };
    let Limit { set_mw, min_mw, max_mw, .. } = limit(&device).map_err(told)?;
    if !(min_mw..=max_mw).contains(wanted) {
        return Err(format!("{uuid}: a power limit of {wanted} mW; may be {min_mw} to {max_mw}"));
    }
    if set_mw == *wanted {
        return Ok(());
    }
    device.set_power_management_limit(*wanted).map_err(told)?;
    match device.power_management_limit().map_err(told)? {
        now if now == *wanted => Ok(()),
        now => Err(format!("{uuid}: set to {wanted} mW without an error, but it is {now}")),
    }
}

fn limit(device: &Device<'_>) -> Result<Limit, NvmlError> {
    let constraints = device.power_management_limit_constraints()?;
    Ok(Limit {
        uuid: device.uuid()?,
        set_mw: device.power_management_limit()?,
        min_mw: constraints.min_limit,
        max_mw: constraints.max_limit,
    })
}

/// Loads the library for one question; it panics where it lacks what it takes for granted.
fn with<T>(library: &Path, ask: impl FnOnce(&Nvml) -> Result<T, String>) -> Result<T, String> {
    let at = |what: String| format!("{}: {what}", library.display());
    let nvml = nvml::open(library).map_err(at)?;
    let answer = catch_unwind(AssertUnwindSafe(|| ask(&nvml)));
    nvml::close(nvml);
    answer.unwrap_or_else(|_| Err(at("a call panicked; the library may be incomplete".into())))
}
