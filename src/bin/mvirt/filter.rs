//! Which objects of a list are wanted.

use crate::Failure;
use clap::Args;
use mvirt_net::written;
use std::collections::BTreeMap;

// No documentation: that would be the commands'.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only those whose name begins so
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    labels: Labels,
}

// Likewise.
#[derive(Debug, Args)]
pub(crate) struct Labels {
    /// Only those with this label, whatever its value where none is given; may be given several
    /// times
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    labels: Vec<String>,
}

impl Filter {
    /// Returns them as requests have them: how names begin, and labels.
    ///
    /// # Errors
    ///
    /// A label is given twice.
    pub(crate) fn wanted(self) -> Result<(String, BTreeMap<String, String>), Failure> {
        Ok((self.name, self.labels.wanted()?))
    }
}

impl Labels {
    /// Returns them as requests have them.
    ///
    /// # Errors
    ///
    /// One is given twice.
    pub(crate) fn wanted(self) -> Result<BTreeMap<String, String>, Failure> {
        written::labels(self.labels).map_err(|twice| Failure::Usage(format!("--label: {twice}")))
    }
}
