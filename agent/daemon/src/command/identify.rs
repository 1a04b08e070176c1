//! Makes a light blink, so that somebody in front of a rack finds a machine or a port.
//!
//! A port's is blinked by its driver (ethtool's `ETHTOOL_PHYS_ID`), which needs
//! CAP_NET_ADMIN and so a helper; a chassis has one where the kernel has it as an LED, or its BMC. What this
//! machine has not is said.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use purlin_proto::v1::{self, CommandOutcome};
use tokio::time;

use super::{
    Came,
    carry_out::{done, failed},
};
use crate::helper::{Changed, Client, What};

/// Seconds if none are told, and the most.
const USUAL_S: u32 = 30;
const MAX_S: u32 = 300;
/// On for so long, and off for so long.
const BLINK: Duration = Duration::from_millis(500);
/// What an LED is for, the last part of its name (Documentation/leds/leds-class.rst).
const CHASSIS: [&str; 5] = ["identify", "locate", "locator", "uid", "beacon"];

/// Who makes it blink, where that is not the agent itself.
#[derive(Debug)]
pub struct Lights {
    /// The chassis.
    pub bmc: Client,
    /// A port.
    pub nic: Client,
}

/// Blinks for as long as is told.
pub async fn identify(root: &Path, lights: &Lights, what: v1::Identify) -> Came {
    let seconds = match what.seconds {
        0 => USUAL_S,
        seconds @ 1..=MAX_S => seconds,
        seconds => return failed(format!("{seconds} s: at most {MAX_S}")),
    };
    match what.nic.is_empty() {
        true => chassis(root, &lights.bmc, seconds).await,
        false => port(&lights.nic, what.nic, seconds).await,
    }
}

async fn port(helper: &Client, nic: String, seconds: u32) -> Came {
    match helper.ask(What::Blink { nic: nic.clone(), seconds }).await.changed() {
        Changed::Identified => done(format!("{nic} blinked for {seconds} s")),
        Changed::Refused(why) => unsupported(format!("{nic}: {why}")),
        other => failed(format!("{nic}: the helper answers {other:?}")),
    }
}

async fn chassis(root: &Path, bmc: &Client, seconds: u32) -> Came {
    let leds = root.join("sys/class/leds");
    let Some(led) = find(&leds) else {
        // Its own timer puts the light out, after 255 s at most (IPMI 2.0, 28.5).
        let seconds = seconds.min(u8::MAX.into()) as u8;
        let bmcs = match bmc.ask(What::Identify(seconds)).await.changed() {
            Changed::Identified => {
                return done(format!("the BMC lets the chassis blink for {seconds} s"));
            }
            Changed::Refused(why) => format!("the BMC refuses: {why}"),
            _ => "there is no BMC".into(),
        };
        return unsupported(format!(
            "no LED of {} is one of {}, and {bmcs}: this chassis has no light that is known",
            leds.display(),
            CHASSIS.join(", ")
        ));
    };
    let name = led.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match blink(&led, seconds).await {
        Ok(()) => done(format!("{name} blinked for {seconds} s")),
        Err(error) => unsupported(format!("{}: {error}", led.display())),
    }
}

fn find(leds: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(leds).ok()?;
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|led| {
        let name = led.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let function = name.rsplit(':').next().unwrap_or_default();
        CHASSIS.contains(&function.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit()))
    });
    found.sort();
    found.into_iter().next()
}

/// Leaves it as it was.
async fn blink(led: &Path, seconds: u32) -> std::io::Result<()> {
    let brightness = led.join("brightness");
    let before = fs::read_to_string(&brightness)?;
    let most = fs::read_to_string(led.join("max_brightness")).unwrap_or("1".into());
    let rounds = u128::from(seconds) * 1000 / (2 * BLINK.as_millis());
    for _ in 0..rounds {
        fs::write(&brightness, most.trim())?;
        time::sleep(BLINK).await;
        fs::write(&brightness, "0")?;
        time::sleep(BLINK).await;
    }
    fs::write(&brightness, before.trim())
}

fn unsupported(text: String) -> Came {
    Came::new(CommandOutcome::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_chassis_light_blinks_and_is_left_as_it_was_and_where_there_is_none_that_is_said() {
        let root = tempfile::tempdir().expect("a directory");
        let ask = |seconds| v1::Identify { nic: String::new(), seconds };
        // Nobody answers it.
        let nobody = || crate::helper::client(root.path().to_owned()).0;
        let lights = || Lights { bmc: nobody(), nic: nobody() };
        let none = identify(root.path(), &lights(), ask(1)).await;
        assert_eq!(none.outcome, CommandOutcome::Unsupported, "{}", none.text);
        for (name, brightness) in [("input3::numlock", "0"), ("bmc:blue:identify", "7")] {
            let led = root.path().join("sys/class/leds").join(name);
            fs::create_dir_all(&led).expect("made");
            fs::write(led.join("brightness"), brightness).expect("written");
            fs::write(led.join("max_brightness"), "255\n").expect("written");
        }
        let led = root.path().join("sys/class/leds/bmc:blue:identify/brightness");
        let (path, read) = (root.path().to_owned(), || fs::read_to_string(&led).expect("read"));
        let own = lights();
        let blinking = tokio::spawn(async move { identify(&path, &own, ask(2)).await });
        let mut seen = Vec::new();
        while !blinking.is_finished() {
            seen.push(read());
            time::sleep(BLINK).await;
        }
        assert!(seen.contains(&"255".into()) && seen.contains(&"0".into()), "{seen:?}");
        assert_eq!(blinking.await.expect("it ended").outcome, CommandOutcome::Done);
        assert_eq!(read(), "7");
        let long = identify(root.path(), &lights(), ask(301)).await;
        assert_eq!(
            (long.outcome, long.text.as_str()),
            (CommandOutcome::Failed, "301 s: at most 300")
        );
    }
}
