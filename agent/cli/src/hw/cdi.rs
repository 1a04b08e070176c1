//! `purlin hw cdi`: what a container can be given, as its runtime reads it.

use std::path::Path;

use purlin_core::{
    cdi::{Device, Spec},
    inventory::Inventory,
};
use purlin_daemon::cdi;
use serde::Serialize;

use crate::{
    exit::Failure,
    output::note,
    table::{self, Column::*, Width},
};

/// `purlin hw cdi --write`
pub fn write(dir: &Path, inventory: &Inventory) -> Result<(), Failure> {
    let changed = cdi::write(dir, inventory).map_err(Failure::Failed)?;
    match changed.as_slice() {
        [] => note(&format!("{}: nothing to change", dir.display())),
        changed => changed.iter().for_each(|name| note(&format!("{}", dir.join(name).display()))),
    }
    Ok(())
}

/// The specifications; each is the content of a file in `/run/cdi`.
#[derive(Serialize)]
pub struct Specs {
    /// One a kind.
    pub specs: Vec<Spec>,
}

impl Specs {
    /// A line a device, under the name it is asked for by.
    pub fn page(&self, width: Width) -> String {
        if self.specs.is_empty() {
            return "no GPU and no virtual function of a NIC to give to a container\n".into();
        }
        let rows = self.specs.iter().flat_map(|spec| spec.devices.iter().map(|it| row(spec, it)));
        let files: usize = self.specs.iter().map(|spec| spec.container_edits.mounts.len()).sum();
        let with_files = match files {
            0 => String::new(),
            files => format!("each GPU with {files} files of NVIDIA's driver\n"),
        };
        table::columns(&[Whole("DEVICE"), Left("BRINGS")], rows, width) + &with_files
    }
}

fn row(spec: &Spec, device: &Device) -> Vec<String> {
    let edits = &device.container_edits;
    let nodes = edits.device_nodes.iter().map(|node| node.path.as_str());
    let nets = edits.net_devices.iter().map(|net| net.host_interface_name.as_str());
    let brings: Vec<&str> = nodes.chain(nets).collect();
    vec![format!("{}={}", spec.kind, device.name), brings.join(" ")]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use purlin_core::{cdi, inventory::Gpu};

    use super::*;
    use crate::sample;

    fn specs() -> Specs {
        let gpu = Gpu {
            pci: "0000:03:00.0".into(),
            device_nodes: vec!["/dev/dri/card0".into(), "/dev/kfd".into()],
            ..Gpu::default()
        };
        Specs { specs: cdi::specs(&Inventory { gpus: Some(vec![gpu]), ..Inventory::default() }) }
    }

    #[test]
    fn a_device_is_shown_as_it_is_asked_for() {
        expect![[r#"
            DEVICE                      BRINGS
            purlin.io/gpu=0             /dev/dri/card0 /dev/kfd
            purlin.io/gpu=0000:03:00.0  /dev/dri/card0 /dev/kfd
        "#]]
        .assert_eq(&sample::strip(&specs().page(Some(80))));
    }

    #[test]
    fn a_specification_has_the_names_that_runtimes_read() {
        let json = serde_json::to_string_pretty(&specs().specs[0].devices[1..]).unwrap();
        expect![[r#"
            [
              {
                "name": "0000:03:00.0",
                "containerEdits": {
                  "deviceNodes": [
                    {
                      "path": "/dev/dri/card0"
                    },
                    {
                      "path": "/dev/kfd"
                    }
                  ]
                }
              }
            ]"#]]
        .assert_eq(&json);
        let mount = cdi::Mount::read_only("/usr/lib64/libcuda.so.1.2", "/usr/lib64/libcuda.so.1");
        expect![[r#"{"hostPath":"/usr/lib64/libcuda.so.1.2","containerPath":"/usr/lib64/libcuda.so.1","options":["ro","nosuid","nodev","rbind","rprivate"]}"#]]
            .assert_eq(&serde_json::to_string(&mount).unwrap());
        let keys = serde_json::to_value(&specs().specs[0]).unwrap();
        let mut keys: Vec<&str> = keys.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["cdiVersion", "devices", "kind"]);
    }
}
