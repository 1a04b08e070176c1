//! The door with a real ledger and a subsystem that is well or ill on demand.

use std::{
    fs,
    sync::{Mutex, PoisonError, atomic::AtomicBool, atomic::Ordering},
};

use super::{record::HISTORY, subsystem::Work, *};

/// Far over what a step takes, on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(20);

/// A subsystem that remembers what was applied, and is well or ill.
#[derive(Debug, Default)]
struct Patient {
    ill: AtomicBool,
    hangs: AtomicBool,
    applied: Mutex<Vec<u32>>,
}

impl Subsystem for Arc<Patient> {
    fn name(&self) -> &'static str {
        "sampling"
    }

    fn apply(&self, settings: Arc<Settings>) -> Work<'_> {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.push(settings.interval_s.value);
        let hangs = self.hangs.swap(false, Ordering::Relaxed);
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }

    fn read_back<'a>(&'a self, _: &'a Settings) -> Work<'a> {
        let ill = self.ill.load(Ordering::Relaxed);
        Box::pin(async move { if ill { Err("ill".into()) } else { Ok(()) } })
    }
}

struct Case {
    dir: tempfile::TempDir,
    state: state::StateDir,
    door: Door,
    patient: Arc<Patient>,
    _asks: mpsc::Sender<Ask>,
    inbox: mpsc::Receiver<Ask>,
}

async fn case() -> Case {
    let dir = tempfile::tempdir().expect("a directory");
    let state = state::StateDir::open(&dir.path().join("state")).expect("a free directory");
    let patient = Arc::default();
    let door = open(&state, &patient).await;
    let (asks, inbox) = mpsc::channel(1);
    Case { dir, state, door, patient, _asks: asks, inbox }
}

async fn open(state: &state::StateDir, patient: &Arc<Patient>) -> Door {
    let incarnation = purlin_core::identity::Incarnation(1);
    let board = crate::tasks::Board::default();
    let spool = Spool::open(&state.path().join("spool"), incarnation, clock::Clock::new(1), board)
        .expect("a spool");
    let opening = Opening {
        identity: Identity { fleet: "f".into(), node: "n1".into(), incarnation },
        start: Start::default(),
        spool,
        inventory: watch::channel(Arc::default()).1,
        audit: audit::new(state.path().join("audit")).0,
        floor: Floor::default(),
        keys: None,
        test: v1::AgentTest {
            trial_ms: Some(2000),
            confirm_after_ms: Some(100),
            ..Default::default()
        },
    };
    let mut door = Door::open(state, opening).0;
    door.attach([Box::new(Arc::clone(patient)) as Box<dyn Subsystem>]);
    door.boot().await;
    door
}

fn offer(text: &str, origin: Origin) -> Offer {
    offer_in(text, origin, Manner::default())
}

fn offer_in(text: &str, origin: Origin, manner: Manner) -> Offer {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let manner = Manner { by_hand: origin == Origin::Local, ..manner };
    Offer { origin, ..Offer::local(bytes, Format::Toml, "a test".into(), manner) }
}

fn by(who: &str) -> Confirm {
    Confirm { by: who.into(), generation: None, anyway: false }
}

impl Case {
    fn interval(&self) -> u32 {
        self.door.settings.borrow().interval_s.value
    }

    /// What the subsystem runs on.
    fn applied(&self) -> Option<u32> {
        self.patient.applied.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    fn ledgers(&self) -> [Option<Vec<u8>>; 2] {
        ["ledger.a", "ledger.b"].map(|name| fs::read(self.state.path().join(name)).ok())
    }

    /// Lets the door work until it reports as much.
    async fn until(&mut self, what: impl Fn(&v1::Reported) -> bool) {
        let mut reported = self.door.reported();
        let seen = time::timeout(DEADLINE, reported.wait_for(|reported| what(reported)));
        let seen = tokio::select! {
            () = self.door.run(&mut self.inbox) => panic!("the door has ended"),
            seen = seen => seen.map(drop),
        };
        assert!(seen.is_ok(), "not reported: {:?}", self.door.reported.borrow());
    }

    /// Offers a document and waits until its trial is over.
    async fn tried(&mut self, offer: &Offer) -> v1::Verdict {
        self.door.offer(offer).await;
        self.over(&offer.sha256).await
    }

    async fn over(&mut self, sha256: &Bytes) -> v1::Verdict {
        let open = [Outcome::Trial, Outcome::Waiting];
        self.until(|reported| {
            let last = reported.last.as_ref();
            reported.trial.is_none() && last.is_some_and(|it| !open.contains(&it.outcome()))
        })
        .await;
        record::last_of(&self.door.content, sha256).cloned().expect("a verdict")
    }

    /// Offers a technician's document, and confirms it.
    async fn kept(&mut self, text: &str) {
        self.door.offer(&offer(text, Origin::Local)).await;
        self.until(|it| it.trial.as_ref().is_some_and(|it| it.well_since_unix_ms > 0)).await;
        let kept = self.door.confirm(by("a test")).await.expect("well");
        assert_eq!(kept.outcome, "confirmed");
    }

    /// The agent ends at this very moment, and starts again.
    async fn restart(&mut self) {
        self.door = open(&self.state, &self.patient).await;
    }
}

#[tokio::test]
async fn a_good_document_is_confirmed_by_itself_and_survives_a_restart() {
    let mut case = case().await;
    let verdict = case.tried(&offer("version = 3\nsampling.interval_s = 5", Origin::Uplink)).await;
    assert_eq!((verdict.outcome(), verdict.version), (Outcome::Confirmed, 3), "{verdict:?}");
    case.restart().await;
    assert_eq!((case.interval(), case.door.content.trial.is_none()), (5, true));
}

#[tokio::test]
async fn a_bad_document_changes_nothing_and_is_reported() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    let bad = "node = \"n2\"\nsampling.intervals = 1\nsampling.interval_s = 0\nspool.cap_mib = 0";
    let verdict = case.door.offer(&offer(bad, Origin::Uplink)).await;
    let paths: Vec<_> = verdict.refusals.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(paths, ["sampling.intervals", "node", "sampling.interval_s", "spool.cap_mib"]);
    assert_eq!((case.interval(), case.door.machine.trial()), (5, None));
    let reported = case.door.reported.borrow().clone();
    let last = reported.desired.clone().expect("a verdict");
    assert!(!last.accepted && last.refusals.len() == 4);
}

#[tokio::test]
async fn a_retained_document_delivered_again_does_nothing() {
    let mut case = case().await;
    let retained = offer("sampling.interval_s = 5", Origin::Uplink);
    assert!(!case.door.offer(&retained).await.repeated);
    let before = case.ledgers();
    assert!(case.door.offer(&retained).await.repeated, "it is on trial");
    assert_eq!(case.ledgers(), before);
    case.over(&retained.sha256).await;
    case.kept("sampling.interval_s = 7").await;
    let before = case.ledgers();
    assert!(case.door.offer(&retained).await.repeated, "the technician's later one stays");
    assert_eq!((case.interval(), case.ledgers() == before), (7, true));
    case.restart().await;
    assert!(case.door.offer(&retained).await.repeated, "also after a restart");
    let refused = offer("sampling.interval_s = 0", Origin::Uplink);
    assert!(!case.door.offer(&refused).await.repeated);
    let before = case.ledgers();
    assert!(case.door.offer(&refused).await.repeated);
    assert_eq!(case.ledgers(), before);
}

#[tokio::test]
async fn a_technician_can_apply_a_document_again() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    let first = offer("sampling.interval_s = 5", Origin::Local);
    assert!(case.door.offer(&first).await.repeated);
    case.tried(&offer("sampling.interval_s = 6", Origin::Uplink)).await;
    assert_eq!(case.interval(), 6);
    case.kept("sampling.interval_s = 5").await;
    assert_eq!(case.interval(), 5);
}

#[tokio::test]
async fn what_can_not_be_made_durable_is_not_put_in_force() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    let elsewhere = case.dir.path().join("moved");
    fs::rename(case.state.path(), &elsewhere).expect("a rename");
    let verdict = case.door.offer(&offer("sampling.interval_s = 6", Origin::Local)).await;
    assert!(!verdict.accepted && verdict.refusals[0].hint.contains("ledger"), "{verdict:?}");
    assert_eq!((case.interval(), case.applied()), (5, Some(5)));
}

#[tokio::test]
async fn what_can_not_be_made_durable_is_not_confirmed() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    case.door.offer(&offer("sampling.interval_s = 6", Origin::Local)).await;
    case.until(|it| it.trial.as_ref().is_some_and(|it| it.well_since_unix_ms > 0)).await;
    let (here, elsewhere) = (case.state.path().to_owned(), case.dir.path().join("moved"));
    fs::rename(&here, &elsewhere).expect("a rename");
    assert!(case.door.confirm(by("a test")).await.is_err());
    case.until(|it| it.trial.is_none()).await;
    assert_eq!((case.interval(), case.applied()), (5, Some(5)), "it is undone");
    fs::rename(&elsewhere, &here).expect("a rename");
    case.restart().await;
    assert_eq!(case.interval(), 5);
}

#[tokio::test]
async fn the_history_is_bounded() {
    let mut case = case().await;
    for n in 0..HISTORY + 5 {
        let refused = format!("version = {n}\nspool.cap_mib = 0");
        case.door.offer(&offer(&refused, Origin::Local)).await;
    }
    assert_eq!(view::history(&case.door.content).verdicts.len(), HISTORY);
}

#[tokio::test]
async fn what_nobody_confirms_is_undone() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    let verdict = case.tried(&offer("sampling.interval_s = 6", Origin::Local)).await;
    assert_eq!(verdict.outcome(), Outcome::Reverted);
    assert!(verdict.why.contains("nobody confirmed it"), "{verdict:?}");
    assert_eq!((case.interval(), case.applied()), (5, Some(5)));
    // It did not fail: it may be tried again.
    case.kept("sampling.interval_s = 6").await;
}

#[tokio::test]
async fn what_is_not_well_is_undone_and_not_tried_again_unless_forced() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    case.patient.ill.store(true, Ordering::Relaxed);
    let ill = offer("sampling.interval_s = 6", Origin::Uplink);
    let verdict = case.tried(&ill).await;
    assert_eq!(verdict.outcome(), Outcome::Reverted);
    assert!(verdict.why.contains("sampling: ill"), "{verdict:?}");
    assert_eq!((case.interval(), case.applied()), (5, Some(5)));
    case.patient.ill.store(false, Ordering::Relaxed);
    let before = case.ledgers();
    assert!(case.door.offer(&ill).await.repeated);
    assert_eq!((case.door.machine.trial(), case.ledgers() == before), (None, true));
    case.restart().await;
    let local = offer("sampling.interval_s = 6", Origin::Local);
    assert!(!case.door.offer(&local).await.accepted, "also from the other side");
    let manner = Manner { force: true, ..Manner::default() };
    let forced = case.tried(&offer_in("sampling.interval_s = 6", Origin::Uplink, manner)).await;
    assert_eq!(forced.outcome(), Outcome::Confirmed);
}

#[tokio::test]
async fn an_apply_that_hangs_is_given_up_when_time_is_up() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    case.patient.hangs.store(true, Ordering::Relaxed);
    let verdict = case.tried(&offer("sampling.interval_s = 6", Origin::Uplink)).await;
    assert!(verdict.why.contains("could not be put in force"), "{verdict:?}");
    assert_eq!((case.interval(), case.applied()), (5, Some(5)));
}

#[tokio::test]
async fn a_restart_in_a_trial_reverts_and_the_document_is_tried_when_it_comes_again() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    let tried = offer("sampling.interval_s = 6", Origin::Uplink);
    for restarts in 1..=3 {
        assert!(!case.door.offer(&tried).await.repeated, "after {restarts} restarts");
        assert!(case.door.content.trial.is_some(), "durable before anything is applied");
        case.restart().await;
        assert_eq!(case.interval(), 5);
        case.until(|it| it.trial.is_none() && it.last.is_some()).await;
        let verdict = record::last_of(&case.door.content, &tried.sha256).expect("a verdict");
        let given_up = verdict.outcome() == Outcome::Reverted;
        assert_eq!(given_up, restarts == 3, "three times is no accident: {verdict:?}");
    }
    assert!(case.door.offer(&tried).await.repeated);
    assert!(case.door.machine.trial().is_none());
}

#[tokio::test]
async fn by_hand_a_trial_is_over_at_once() {
    let mut case = case().await;
    case.kept("sampling.interval_s = 5").await;
    case.door.offer(&offer("sampling.interval_s = 6", Origin::Uplink)).await;
    case.until(|it| it.trial.as_ref().is_some_and(|it| it.well_since_unix_ms > 0)).await;
    let (reply, answer) = oneshot::channel();
    case.door.revert(reply).await;
    case.until(|it| it.trial.is_none()).await;
    let verdict = answer.await.expect("an answer").expect("a trial");
    assert_eq!((verdict.outcome.as_str(), case.applied()), ("reverted", Some(5)));
    assert!(case.door.confirm(by("late")).await.is_err(), "there is nothing to confirm");
}

#[tokio::test]
async fn what_is_not_well_is_confirmed_only_by_one_who_insists() {
    let mut case = case().await;
    case.patient.ill.store(true, Ordering::Relaxed);
    case.door.offer(&offer("sampling.interval_s = 6", Origin::Local)).await;
    case.until(|it| it.subsystems.iter().any(|it| it.problem == "ill")).await;
    let refused = case.door.confirm(by("a test")).await.expect_err("ill");
    assert!(refused.contains("sampling: ill") && refused.contains("--anyway"), "{refused}");
    let wrong = Confirm { generation: Some(9), anyway: true, ..by("a test") };
    assert!(case.door.confirm(wrong).await.is_err(), "another generation");
    let insists = Confirm { anyway: true, ..by("a test") };
    assert_eq!(case.door.confirm(insists).await.expect("kept").outcome, "confirmed");
}

#[tokio::test]
async fn documents_that_come_in_a_trial_wait_and_the_last_one_wins() {
    let mut case = case().await;
    case.door.offer(&offer("sampling.interval_s = 5", Origin::Uplink)).await;
    for interval in [6, 7] {
        let later = offer(&format!("sampling.interval_s = {interval}"), Origin::Uplink);
        assert_eq!(case.door.offer(&later).await.outcome, "waiting");
    }
    case.until(|it| it.trial.is_none() && it.active.as_ref().is_some_and(|it| it.generation == 2))
        .await;
    assert_eq!(case.interval(), 7);
    let history = view::history(&case.door.content).verdicts;
    let outcomes: Vec<_> = history.iter().map(|it| it.outcome.as_str()).collect();
    assert_eq!(outcomes, ["confirmed", "superseded", "confirmed"]);
}

#[tokio::test]
async fn an_override_is_drift_and_the_cores_document_comes_back_by_itself() {
    let mut case = case().await;
    case.tried(&offer("version = 1\nsampling.interval_s = 5", Origin::Uplink)).await;
    let over = Some(("a fan is being replaced".to_owned(), Duration::from_secs(3)));
    let manner = Manner { over, ..Manner::default() };
    case.door.offer(&offer_in("sampling.interval_s = 60", Origin::Local, manner)).await;
    case.until(|it| it.trial.as_ref().is_some_and(|it| it.well_since_unix_ms > 0)).await;
    case.door.confirm(by("a test")).await.expect("well");
    let drift = case.door.reported.borrow().drift.clone().expect("drift");
    let applied = drift.applied.clone().expect("an override");
    let reason = applied.r#override.expect("an override").reason;
    assert_eq!((drift.desired_version, reason.as_str()), (1, "a fan is being replaced"));
    let later = offer("version = 2\nsampling.interval_s = 7", Origin::Uplink);
    assert_eq!(case.door.offer(&later).await.outcome, "waiting");
    assert!(case.door.offer(&later).await.repeated);
    assert_eq!(case.interval(), 60, "the technician's holds");
    case.restart().await;
    assert_eq!(case.interval(), 60, "also over a restart");
    case.until(|it| it.drift.is_none() && it.trial.is_none()).await;
    assert_eq!(case.interval(), 7);
    let last = case.door.reported.borrow().desired.clone().expect("a verdict");
    assert_eq!((last.outcome(), last.version), (Outcome::Confirmed, 2));
}

#[tokio::test]
async fn earlier_documents_are_kept_by_generation() {
    let mut case = case().await;
    case.kept("version = 1\nsampling.interval_s_by_sampler.cpu = 2").await;
    case.kept("version = 2").await;
    let first = view::document(&case.door.content, Some(1)).expect("kept");
    let expected = serde_json::json!({
        "version": 1, "sampling": { "interval_s_by_sampler": { "cpu": 2 } }
    });
    assert_eq!(first.document, expected);
    assert_eq!(view::document(&case.door.content, None).expect("kept").applied.generation, 2);
    assert!(view::document(&case.door.content, Some(3)).is_none());
    let diff = case.door.diff();
    assert_eq!(diff.from, "generation 1 (version 1)");
    assert_eq!(diff.changes.len(), 1, "{diff:?}");
}
