//! Why a command failed, in words that say what to do, and what its exit code is.

use mvirt_net::{client::Refusal, telemetry::code_name};
use std::{path::PathBuf, process::ExitCode};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no connection, or it ended.
    #[error("cannot reach mvirt-net at {address}: {reason}\n  {remedy}")]
    Unreachable { address: String, reason: String, remedy: String },
    /// The server is there, and did not answer in time.
    #[error(
        "mvirt-net at {address} has not answered within {timeout:?}\n  \
         It may be busy or stopped; --timeout sets how long to wait."
    )]
    Late { address: String, timeout: std::time::Duration },
    /// A file of `--tls-…` cannot be read.
    #[error("{flag} {}: {source}", path.display())]
    Tls { flag: &'static str, path: PathBuf, source: std::io::Error },
    /// The server said no, or the connection ended.
    #[error("refused ({}): {}", code_name(.0.code()), said(.0))]
    Refused(#[from] tonic::Status),
    /// What the command line alone cannot tell: flags that do not go together.
    #[error("{0}")]
    Usage(String),
    /// This program refuses, as what was asked for would do harm or cannot work.
    #[error("{0}")]
    Stopped(String),
    #[error("cannot run {program}: {source}\n  {remedy}")]
    Vmm { program: String, source: std::io::Error, remedy: String },
    #[error("{0}")]
    Probe(String),
    /// `doctor` has told what fails.
    #[error("{0} failed")]
    Ill(String),
    /// `doctor` has told that the daemon cannot be reached.
    #[error("the daemon could not be looked at")]
    Unseen,
    /// A frame is dropped, which was printed already.
    #[error("dropped")]
    Dropped,
    /// There is no Switchyard fabric.
    #[error("{0}")]
    Fabric(String),
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    /// The gRPC code that says it best.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Refused(status) => code_name(status.code()),
            Self::Unreachable { .. } | Self::Fabric(_) | Self::Unseen => "UNAVAILABLE".into(),
            Self::Late { .. } => "DEADLINE_EXCEEDED".into(),
            Self::Usage(_) | Self::Tls { .. } => "INVALID_ARGUMENT".into(),
            Self::Stopped(_) | Self::Vmm { .. } | Self::Probe(_) => "FAILED_PRECONDITION".into(),
            Self::Dropped | Self::Ill(_) => "FAILED_PRECONDITION".into(),
            Self::Output(_) => "UNKNOWN".into(),
        }
    }

    /// What it says beside [`Self::code`], in a document.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Refused(status) => said(status),
            other => other.to_string(),
        }
    }

    /// What the server says of it for programs, where it was the server.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(status) => Some(status.clone().into()),
            _ => None,
        }
    }

    /// 2 for wrong usage, 3 for a fabric, or a daemon to look at, that is not there, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        // clap ends with 2 as well: scripts tell a wrong line from a refusal.
        ExitCode::from(match self {
            Self::Usage(_) | Self::Tls { .. } => 2,
            Self::Fabric(_) | Self::Unseen => 3,
            _ => 1,
        })
    }

    /// Whether no daemon has answered.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late { .. })
    }

    /// Whether the reader of the answer has left, having seen enough, like head(1).
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// What the server says, which knows fields and no flags.
fn said(status: &tonic::Status) -> String {
    match status.code() {
        // With this code it echoes no value, which could have the same words.
        tonic::Code::FailedPrecondition => status.message().replace("set force", "give --force"),
        _ => status.message().into(),
    }
}
