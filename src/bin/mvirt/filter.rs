//! Which objects of a list are wanted.

use crate::Failure;
use clap::Args;
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
        let mut labels = BTreeMap::new();
        for label in self.labels {
            let (key, value) = label.split_once('=').unwrap_or((&label, ""));
            // No object has two values of one.
            if labels.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(Failure::Usage(format!("--label: {key} is given twice")));
            }
        }
        Ok(labels)
    }
}
