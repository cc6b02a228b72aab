//! Deletions of several objects, each told by a sentence, a name or a document of its own.

use crate::{Failure, output::Output};
use clap::Args;
use serde::Serialize;
use std::error::Error as _;

// No documentation: that would be the commands'.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// What is not there is no error
    #[arg(long)]
    if_exists: bool,
    /// Check only: change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The answer about one of several, for programs.
#[derive(Serialize)]
struct Named<'a, R> {
    name: &'a str,
    #[serde(flatten)]
    response: R,
}

impl How {
    /// Deletes all that are named, by `delete`, which returns the answer and what went with it, in
    /// words. One that cannot be deleted keeps no other one.
    ///
    /// # Errors
    ///
    /// The last of those that could not be deleted; the others are told.
    pub(crate) async fn each<R: Serialize + Default>(
        self,
        names: &[String],
        kind: &str,
        out: &Output,
        mut delete: impl AsyncFnMut(&str) -> Result<(R, String), Failure>,
    ) -> Result<(), Failure> {
        let mut failed = None;
        for name in names {
            let told = match delete(name).await {
                Ok((response, with)) => {
                    let done = if self.dry_run { "Would delete" } else { "Deleted" };
                    (response, format!("{done} {kind} {name}{with}."))
                }
                Err(failure) if self.if_exists && is_absence(&failure) => {
                    (R::default(), format!("There is no {kind} {name}."))
                }
                Err(failure) => {
                    let goes_on = matches!(&failure, Failure::Stopped(_)) || is_refusal(&failure);
                    if let Some(before) = failed.replace(failure) {
                        out.failure(&before);
                    }
                    if goes_on {
                        continue;
                    }
                    break;
                }
            };
            match (told, names.len()) {
                ((response, sentence), 1) => out.done(&response, name, &sentence)?,
                ((response, _), _) if out.is_document() => out.event(&Named { name, response })?,
                ((response, sentence), _) => out.done(&response, name, &sentence)?,
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Whether the server has refused: it answers still.
fn is_refusal(failure: &Failure) -> bool {
    // A status that came over the wire has no cause here.
    matches!(failure, Failure::Refused(status) if status.source().is_none())
}

fn is_absence(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(status) if status.code() == tonic::Code::NotFound)
}
