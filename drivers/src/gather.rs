//! A dump in the making: what drivers read of the live machine, file by file.
//!
//! Owns where a file that was read has its place in the dump: at the end of the
//! links that led to it, which become part of the dump. It never reads a file
//! itself, so a dump has what drivers read and nothing else.

use crate::{Archive, Node};

/// Links followed on the way to one file, as the kernel's `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;

/// Keeps what was found at `path`. `target` tells where a link leads. What was
/// kept first stays, unless it was only known to be there.
pub(crate) fn keep(
    archive: &mut Archive,
    path: &str,
    node: Node,
    target: impl Fn(&str) -> Option<String>,
) {
    let follow = !matches!(node, Node::Link(_));
    let Some(place) = place(archive, path, follow, target) else { return };
    // The limits of an archive are far above what drivers read of a machine.
    _ = match (archive.get(&place), node) {
        (Err(_), Node::Link(target)) => archive.put_link(&place, &target),
        (Ok(Node::File(known)), Node::File(content)) if known.is_empty() => {
            archive.put_file(&place, content)
        }
        (Err(_), Node::File(content)) => archive.put_file(&place, content),
        (Err(_), Node::Dir(_)) => archive.put_dir(&place),
        _ => Ok(()),
    };
}

/// Where `path` leads, and every link on the way into the archive.
fn place(
    archive: &mut Archive,
    path: &str,
    follow: bool,
    target: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let mut place = String::new();
    let mut ahead: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                place.truncate(place.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let here = format!("{place}/{name}");
        let known = match archive.get(&here) {
            Ok(Node::Link(to)) => Some(to.clone()),
            Ok(_) => None,
            Err(_) => target(&here),
        };
        match known {
            Some(to) if follow || !ahead.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                archive.put_link(&here, &to).ok()?;
                if to.starts_with('/') {
                    place.clear();
                }
                ahead.extend(to.rsplit('/').map(str::to_owned));
            }
            _ => place = here,
        }
    }
    Some(place)
}
