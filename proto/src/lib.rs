//! What Purlin says to others: protobuf messages ([`v1`]), MQTT topics
//! ([`topic`]) and the JSON of the local API ([`api`]). No logic: these types
//! are converted where they arrive and never enter the core.

#![forbid(unsafe_code)]

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

pub mod api;
pub mod mesh;
pub mod topic;

/// The messages of `purlin.v1`; each field is documented in its `.proto` file.
#[allow(missing_docs, rustdoc::invalid_html_tags, reason = "generated from the .proto files")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/purlin.v1.rs"));
}

/// What a container runtime and its NRI plugins say to each other.
#[allow(missing_docs, rustdoc::invalid_html_tags, reason = "generated from the .proto file")]
pub mod nri {
    include!(concat!(env!("OUT_DIR"), "/nri.v1alpha1.rs"));
}

/// OTLP, the OpenTelemetry protocol: what workloads and collectors speak.
#[allow(missing_docs, rustdoc::invalid_html_tags, reason = "generated from the .proto file")]
pub mod otlp {
    include!(concat!(env!("OUT_DIR"), "/otlp.v1.rs"));
}

/// Sparkplug B, which SCADA hosts read.
#[allow(missing_docs, rustdoc::invalid_html_tags, reason = "generated from the .proto file")]
pub mod sparkplug {
    include!(concat!(env!("OUT_DIR"), "/sparkplug.b.rs"));
}

/// The descriptors of every message, with the comments of their `.proto` files.
pub static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice())
        .expect("the descriptors were compiled into this very crate")
});
