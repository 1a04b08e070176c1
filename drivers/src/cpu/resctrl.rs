//! What resctrl can divide and monitor, where it is mounted
//! (Documentation/filesystems/resctrl.rst).

use purlin_core::inventory::{Resctrl, ResctrlResource};

use crate::{
    Dir,
    probe::{Probe, label},
};

const INFO: &str = "/sys/fs/resctrl/info";

/// Resources kept at most; x86 and Arm have under ten.
const MAX_RESOURCES: usize = 32;

pub(super) fn read(probe: &mut Probe<'_>) -> Option<Resctrl> {
    let info = probe.dir(INFO)?;
    let mut resctrl = Resctrl::default();
    for name in info.names().take(MAX_RESOURCES) {
        let Some(dir) = probe.dir_in(&info, name) else { continue };
        if name.ends_with("_MON") {
            let features = probe.text((&dir, "mon_features")).unwrap_or_default();
            resctrl.monitors.extend(features.lines().filter_map(label));
            resctrl.rmids = probe.number((&dir, "num_rmids")).or(resctrl.rmids);
        } else if dir.has("num_closids") {
            resctrl.resources.extend(label(name).map(|name| (name, resource(probe, &dir))));
        }
    }
    Some(resctrl)
}

fn resource(probe: &mut Probe<'_>, dir: &Dir<'_>) -> ResctrlResource {
    ResctrlResource {
        closids: probe.number((dir, "num_closids")),
        cbm_mask: probe.label((dir, "cbm_mask")),
        min_cbm_bits: probe.number((dir, "min_cbm_bits")),
        shareable_bits: probe.label((dir, "shareable_bits")),
        min_bandwidth: probe.number((dir, "min_bandwidth")),
        bandwidth_gran: probe.number((dir, "bandwidth_gran")),
    }
}
