//! `purlin hw cdi`: what a container can be given, as its runtime reads it.

use purlin_core::cdi::{Device, Spec};
use serde::Serialize;

use crate::table::{self, Column::*, Width};

/// The specifications; each is the content of a file in `/var/run/cdi`.
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
        table::columns(&[Whole("DEVICE"), Left("BRINGS")], rows, width)
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
    use purlin_core::{
        cdi,
        inventory::{Gpu, Inventory},
    };

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
        let keys = serde_json::to_value(&specs().specs[0]).unwrap();
        let mut keys: Vec<&str> = keys.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["cdiVersion", "devices", "kind"]);
    }
}
