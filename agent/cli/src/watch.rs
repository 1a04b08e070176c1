//! Showing a document once, or again and again until Ctrl-C or a closed pipe.

use std::time::Duration;

use tokio::{signal, time::sleep};

use crate::{
    client::Answer,
    exit::{Ended, Exit, Failure},
    output::{Output, Page, note},
};

/// Shows what `fetch` brings, once or, with `every`, again after each such time.
pub async fn show<T: Page>(
    output: &Output,
    every: Option<Duration>,
    fetch: impl AsyncFn() -> Result<Answer<T>, Failure>,
) -> Ended {
    match every {
        None => show_once(output, fetch().await?),
        Some(every) => until_interrupted(show_forever(output, every, fetch)).await,
    }
}

/// Runs `work` until it ends by itself, or well until Ctrl-C.
///
/// Cancel safe: work writes whole documents without an await between.
pub async fn until_interrupted(work: impl Future<Output = Ended>) -> Ended {
    tokio::select! {
        ended = work => ended,
        _ = signal::ctrl_c() => Ok(Exit::Ok),
    }
}

fn show_once<T: Page>(output: &Output, answer: Answer<T>) -> Ended {
    output.show(&answer.document, |width| answer.document.page(width))?;
    answer.note.as_deref().inspect(|text| note(text));
    Ok(answer.document.exit())
}

/// An agent that can't be reached at first is an error; one that goes away later is
/// something to watch.
async fn show_forever<T: Page>(
    output: &Output,
    every: Duration,
    fetch: impl AsyncFn() -> Result<Answer<T>, Failure>,
) -> Ended {
    show_next(output, &fetch().await?)?;
    loop {
        sleep(every).await;
        match fetch().await {
            Ok(answer) => show_next(output, &answer)?,
            Err(failure @ Failure::Unreachable(_)) => {
                output.clear()?;
                failure.report();
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn show_next<T: Page>(output: &Output, answer: &Answer<T>) -> Result<(), Failure> {
    output.replace(&answer.document)?;
    answer.note.as_deref().inspect(|text| note(text));
    Ok(())
}
