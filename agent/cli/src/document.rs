//! Documents that a command takes from a file or from standard input.
//!
//! Only what a document is written in is told here, by its name; whoever gets it reads it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use purlin_proto::api::{self, Refusal};

use crate::{args::Language, client::Body, exit::Failure, units};

/// The most that is sent, in bytes. The agent takes less and says so; this is only
/// so that `apply /dev/zero` ends.
const MAX_DOCUMENT: u64 = 4 << 20;

/// The document in a file, or on standard input for `-`.
pub fn read(file: &Path, language: Option<Language>) -> Result<Body, Failure> {
    let content_type = content_type(language.map_or_else(|| written_in(file), Ok)?);
    let failed = |error| Failure::Failed(format!("can't read {}: {error}", file.display()));
    let mut bytes = Vec::new();
    source(file)
        .and_then(|source| source.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    match bytes.len() as u64 > MAX_DOCUMENT {
        true => Err(too_large(file)),
        false => Ok(Body { content_type: Some(content_type), bytes }),
    }
}

/// The file's name, for a message.
pub fn name(file: &Path) -> String {
    match is_stdin(file) {
        true => "standard input".into(),
        false => file.display().to_string(),
    }
}

fn source(file: &Path) -> io::Result<Box<dyn Read>> {
    match is_stdin(file) {
        true => Ok(Box::new(io::stdin().lock())),
        false => Ok(Box::new(File::open(file)?)),
    }
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

fn written_in(file: &Path) -> Result<Language, Failure> {
    if is_stdin(file) {
        return Ok(Language::Toml);
    }
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => Ok(Language::Toml),
        Some("yaml" | "yml") => Ok(Language::Yaml),
        Some("json") => Ok(Language::Json),
        Some("binpb" | "pb") => Ok(Language::Protobuf),
        _ => Err(Failure::Usage(format!(
            "can't tell what {} is written in: say --format toml, yaml, json or protobuf",
            file.display()
        ))),
    }
}

fn content_type(language: Language) -> &'static str {
    match language {
        Language::Toml => "application/toml",
        Language::Yaml => "application/yaml",
        Language::Json => "application/json",
        Language::Protobuf => "application/x-protobuf",
    }
}

fn too_large(file: &Path) -> Failure {
    let error = format!("{} is refused; nothing was changed", file.display());
    Failure::Refused(api::Error {
        error,
        refusals: vec![Refusal {
            path: "(the whole document)".into(),
            value: format!("over {}", units::size(MAX_DOCUMENT)),
            limit: "256 KiB at most".into(),
            hint: "is this the right file?".into(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::exit::Exit;

    #[test]
    fn the_extension_tells_the_language() {
        let told = |file: &str| written_in(Path::new(file)).ok();
        assert_eq!(told("-"), Some(Language::Toml));
        assert_eq!(told("a.toml"), Some(Language::Toml));
        assert_eq!(told("a.yml"), Some(Language::Yaml));
        assert_eq!(told("a.b.json"), Some(Language::Json));
        assert_eq!(told("a.pb"), Some(Language::Protobuf));
        assert_eq!(told("a.ini"), None);
        assert_eq!(told("toml"), None);
    }

    #[test]
    fn a_file_in_no_known_language_is_wrong_usage() {
        let failure = read(Path::new("a.ini"), None).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn an_endless_document_is_refused() {
        let failure = read(Path::new("/dev/zero"), Some(Language::Json)).unwrap_err();
        assert_eq!(failure.exit(), Exit::Refused);
    }

    #[test]
    fn a_document_goes_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("a.yaml");
        std::fs::write(&file, "log: {level: info}\n").unwrap();
        let body = read(&file, None).unwrap();
        assert_eq!(body.content_type, Some("application/yaml"));
        assert_eq!(body.bytes, b"log: {level: info}\n");
    }
}
