//! What a check found, on one line: `fail NAME: text → what to do`.

use mvirt_net::printable::printable;
use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It may be meant, or hurt later.
    Warn,
    /// Something does not work.
    Fail,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) name: &'static str,
    text: String,
    /// What to do; empty where nothing is to be done.
    remedy: String,
}

impl Finding {
    pub(super) fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, name, text: text.into(), remedy: String::new() }
    }

    pub(super) fn warn(
        name: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warn, name, text: text.into(), remedy: remedy.into() }
    }

    pub(super) fn fail(
        name: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Fail, name, text: text.into(), remedy: remedy.into() }
    }

    /// Returns its parts: how bad it is, of what, what was found, and what to do.
    pub(super) fn parts(&self) -> [&str; 4] {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        [level, self.name, &self.text, &self.remedy]
    }

    /// Returns the finding as a line; it may quote guests.
    pub(super) fn line(&self) -> String {
        let [level, name, text, remedy] = self.parts();
        let arrow = if remedy.is_empty() { "" } else { " → " };
        printable(&format!("{level:4} {name}: {text}{arrow}{remedy}"))
    }
}
