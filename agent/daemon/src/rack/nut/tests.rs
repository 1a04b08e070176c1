//! A server that says what it should not: nothing of it becomes a reading.

use expect_test::{Expect, expect};
use tokio::io::duplex;

use super::*;

/// What becomes of one look at a server that answers each question in turn.
async fn look(answers: &[&str], upses: &mut BTreeMap<String, Ups>) -> Result<(), String> {
    let (ours, mut theirs) = duplex(1 << 16);
    let answers: Vec<String> = answers.iter().map(|it| (*it).to_owned()).collect();
    let serving = tokio::spawn(async move {
        let mut question = [0; 256];
        for answer in answers {
            if theirs.read(&mut question).await? == 0 {
                break;
            }
            theirs.write_all(answer.as_bytes()).await?;
        }
        // Silent from then on.
        theirs.read(&mut question).await
    });
    let result = read(&mut Server(BufReader::new(ours)), upses).await;
    serving.abort();
    result
}

fn shown(upses: &BTreeMap<String, Ups>) -> String {
    let device = |(name, ups): (&String, &Ups)| {
        let view = ups.view(name);
        let head = format!("{name}: {}, silent {}, {:?}\n", view.title, view.silent, view.error);
        let reading = |it: &RackReading| {
            let value = it.value.map(|value| value.to_string()).or(it.text.clone());
            format!("  {} {value:?} {} {:?}\n", it.name, it.unit, it.quality)
        };
        head + &view.readings.iter().map(reading).collect::<String>()
    };
    upses.iter().map(device).collect()
}

const SERVED: &str = "BEGIN LIST UPS\nUPS hall \"In the hall\"\nEND LIST UPS\n";
const SAID: &str = "BEGIN LIST VAR hall\nVAR hall ups.status \"OB DISCHRG\"\n\
    VAR hall device.model \"Smart 1500\"\nVAR hall battery.charge \"80\"\n\
    VAR hall input.voltage \"soon\"\nVAR hall x\nEND LIST VAR hall\n";

#[tokio::test(start_paused = true)]
async fn what_is_stale_is_shown_as_that_and_comes_back() {
    let mut upses = BTreeMap::new();
    assert_eq!(look(&[SERVED, SAID], &mut upses).await, Ok(()));
    let check = |upses: &_, expected: Expect| expected.assert_eq(&shown(upses));
    check(
        &upses,
        expect![[r#"
        hall: Smart 1500, silent false, None
          ups_status Some("OB DISCHRG")  Good
          battery_charge Some("0.8") 1 Good
          input_voltage Some("soon") V Bad
    "#]],
    );
    assert_eq!(upses["hall"].points("a/hall").len(), 1, "what is no number is none");
    assert_eq!(look(&[SERVED, "ERR DATA-STALE\n"], &mut upses).await, Ok(()));
    check(
        &upses,
        expect![[r#"
        hall: Smart 1500, silent true, Some("DATA-STALE")
          ups_status Some("OB DISCHRG")  Stale
          battery_charge Some("0.8") 1 Stale
          input_voltage Some("soon") V Bad
    "#]],
    );
    assert!(!upses["hall"].is_silent(), "not yet told");
    time::advance(STALE_AFTER + Duration::from_secs(1)).await;
    assert!(upses["hall"].is_silent());
    assert_eq!(look(&[SERVED, SAID], &mut upses).await, Ok(()));
    assert!(!upses["hall"].is_stale());
    assert_eq!(look(&["BEGIN LIST UPS\nEND LIST UPS\n"], &mut upses).await, Ok(()));
    assert_eq!(upses["hall"].error.as_deref(), Some("the server no longer serves it"));
}

#[tokio::test(start_paused = true)]
async fn nonsense_ends_the_connection_and_is_no_reading() {
    let long = format!("BEGIN LIST VAR hall\nVAR hall x \"{}\"\n", "y".repeat(5000));
    let many = "VAR hall a.b \"1\"\n".repeat(MAX_VARIABLES + 1);
    let many = format!("BEGIN LIST VAR hall\n{many}END LIST VAR hall\n");
    let cases = [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "BEGIN LIST VAR other\nEND LIST VAR other\n",
        "BEGIN LIST VAR hall\nVAR other ups.status \"OB\"\nEND LIST VAR hall\n",
        "BEGIN LIST VAR hall\nVAR hall ups.status \"OB\n",
        "BEGIN LIST VAR hall\nVAR hall ups.status \"OB\"\n",
        "\u{0}\u{1}\n",
        &long,
        &many,
    ];
    let mut told = String::new();
    for case in cases {
        let mut upses = BTreeMap::new();
        let error = look(&[SERVED, case], &mut upses).await.expect_err(case);
        assert!(upses.values().all(|ups| ups.variables.is_empty()), "{case}");
        told += &format!("{error}\n");
    }
    expect![[r#"
        what the server sends is no answer: "HTTP/1.1 400 Bad Request"
        what the server sends is no answer: "BEGIN LIST VAR other"
        what the server sends is no answer: "VAR other ups.status OB"
        what the server sends is no answer: "VAR hall ups.status \"OB"
        no answer within 5s
        what the server sends is no answer: "\0\u{1}"
        no line within 4096 bytes
        what the server sends is no answer: "VAR hall a.b 1"
    "#]]
    .assert_eq(&told);
    let mut upses = BTreeMap::new();
    let refused = look(&["ERR ACCESS-DENIED\n"], &mut upses).await;
    assert_eq!(refused, Err("the server refuses: ACCESS-DENIED".into()));
    let odd = "BEGIN LIST UPS\nUPS \"a b\" \"\"\nUPS a\nEND LIST UPS\n";
    let gone = look(&[odd, "ERR DRIVER-NOT-CONNECTED\n"], &mut upses).await;
    assert_eq!((gone, upses.len()), (Ok(()), 1), "what would be two words is not asked for");
    assert_eq!(upses["a"].error.as_deref(), Some("DRIVER-NOT-CONNECTED"));
}
