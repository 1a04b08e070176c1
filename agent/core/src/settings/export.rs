//! What is handed to others on site.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::{Origin, PORT, Refusal, Setting, Webhook, check_range, parsed};

/// Values as they stand in a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is documented in proto/purlin/v1/export.proto")]
pub struct ExportDraft {
    pub openmetrics_port: Option<u32>,
    pub otlp: Option<String>,
}

/// Beside what goes to the core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// Where on loopback the latest samples are read.
    pub openmetrics_port: Option<u16>,
    /// Where records are posted to.
    pub otlp: Option<Webhook>,
}

/// Checks what a document says of it; `None`: nothing.
pub(super) fn check(draft: &ExportDraft, refusals: &mut Vec<Refusal>) -> Option<Export> {
    if *draft == ExportDraft::default() {
        return None;
    }
    if let Some(port) = draft.openmetrics_port {
        check_range("export.openmetrics_port", port, &PORT, refusals);
    }
    let port = draft.openmetrics_port.and_then(|port| u16::try_from(port).ok());
    Some(Export {
        openmetrics_port: port.filter(|port| *port > 0),
        otlp: parsed("export.otlp", &draft.otlp, refusals),
    })
}

/// As (path, value, origin).
pub(super) fn rows(setting: &Setting<Export>) -> [(String, String, &Origin); 2] {
    let Export { openmetrics_port, otlp } = &setting.value;
    let port = openmetrics_port.map_or("none".into(), |port| port.to_string());
    let otlp = otlp.as_ref().map_or("none".into(), |to| format!("{to}"));
    [("export.openmetrics_port", port), ("export.otlp", otlp)]
        .map(|(path, value)| (path.into(), value, &setting.origin))
}
