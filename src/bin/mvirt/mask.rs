//! Which fields of a request are meant, and what clients note beside an object.

use super::Failure;
use clap::Args;
use mvirt_net::proto::Boot;
use prost_types::FieldMask;
use std::collections::BTreeMap;

/// The fields that a request names; what it does not name stays as it is.
#[derive(Debug, Default)]
pub(crate) struct Mask(Vec<String>);

impl Mask {
    /// Sets a field to what is given for it, if anything is.
    pub(crate) fn set<T>(&mut self, field: &str, place: &mut T, given: Option<T>) {
        if let Some(given) = given {
            *place = given;
            self.0.push(field.into());
        }
    }

    /// As requests have it.
    ///
    /// # Errors
    ///
    /// Nothing is named; `examples` says what could be.
    pub(crate) fn into_paths(self, examples: &str) -> Result<Option<FieldMask>, Failure> {
        if self.0.is_empty() {
            return Err(Failure::Usage(format!(
                "nothing to change is named: give {examples}, or others that --help lists"
            )));
        }
        Ok(Some(FieldMask { paths: self.0 }))
    }
}

/// `KEY=VALUE`
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

const BOOT: &str = "Booting from the network";

/// What clients note beside an object.
#[derive(Debug, Default, Args)]
pub(crate) struct Marks {
    /// A note of your own; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// A note for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

/// What clients note beside an object, and what its guests boot.
#[derive(Debug, Args)]
pub(crate) struct Notes {
    #[command(flatten)]
    pub(crate) marks: Marks,
    /// IPv4 address of the TFTP server
    #[arg(long, value_name = "ADDRESS", help_heading = BOOT)]
    boot_server: Option<String>,
    /// Path of the file on it
    #[arg(long, value_name = "PATH", help_heading = BOOT)]
    boot_file: Option<String>,
    /// For HTTP boot and DHCPv6, like http://10.0.0.1/boot.efi
    #[arg(long, value_name = "URL", help_heading = BOOT)]
    boot_url: Option<String>,
}

impl Marks {
    /// The labels `now` with those given in place of those of their keys.
    ///
    /// # Errors
    ///
    /// A key is given twice.
    pub(crate) fn labels(
        &self,
        now: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let mut labels = now;
        for (at, (key, value)) in self.label.iter().enumerate() {
            // The last one would win silently, and the other be lost.
            if self.label[..at].iter().any(|(other, _)| other == key) {
                return Err(Failure::Usage(format!("--label: {key} is given twice")));
            }
            labels.insert(key.clone(), value.clone());
        }
        Ok(labels)
    }

    /// The labels that are to take the place of those that there are `now`; nothing where none are
    /// asked for. To ask for what is there already is no mistake.
    ///
    /// # Errors
    ///
    /// A key is given twice.
    pub(crate) fn new_labels(
        &self,
        now: &BTreeMap<String, String>,
        clear: Clear,
    ) -> Result<Option<BTreeMap<String, String>>, Failure> {
        if clear == Clear::No && self.label.is_empty() {
            return Ok(None);
        }
        let kept = if clear == Clear::First { BTreeMap::new() } else { now.clone() };
        self.labels(kept).map(Some)
    }
}

/// Whether to remove all labels first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clear {
    No,
    First,
}

impl From<bool> for Clear {
    fn from(first: bool) -> Self {
        if first { Self::First } else { Self::No }
    }
}

impl Notes {
    /// What to boot `now`, with what is given in its place.
    pub(crate) fn boot(&self, now: Option<Boot>) -> Option<Boot> {
        let mut boot = now.unwrap_or_default();
        let given = [
            (&mut boot.server, &self.boot_server),
            (&mut boot.file, &self.boot_file),
            (&mut boot.url, &self.boot_url),
        ];
        for (place, given) in given {
            if let Some(given) = given {
                place.clone_from(given);
            }
        }
        (boot != Boot::default()).then_some(boot)
    }
}

/// Changes of notes.
#[derive(Debug, Args)]
pub(crate) struct NewNotes {
    #[command(flatten)]
    notes: Notes,
    /// First remove all labels
    #[arg(long)]
    clear_labels: bool,
    /// First remove what is booted from the network
    #[arg(long, help_heading = BOOT)]
    clear_boot: bool,
}

/// Places of a request for notes.
pub(crate) struct Places<'a> {
    pub(crate) labels: &'a mut BTreeMap<String, String>,
    pub(crate) description: &'a mut String,
    pub(crate) boot: &'a mut Option<Boot>,
    /// The precondition of what is changed in part.
    pub(crate) etag: &'a mut String,
}

/// Notes as they are.
pub(crate) struct Now {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) boot: Option<Boot>,
    pub(crate) etag: String,
}

impl NewNotes {
    /// Puts the changes of what is `now` into a request.
    ///
    /// # Errors
    ///
    /// A label is given twice.
    pub(crate) fn put(self, now: Now, mask: &mut Mask, to: Places<'_>) -> Result<(), Failure> {
        let Notes { marks, boot_server, boot_file, boot_url } = &self.notes;
        let labels = marks.new_labels(&now.labels, self.clear_labels.into())?;
        let relabels = labels.is_some();
        mask.set("labels", to.labels, labels);
        let reboots =
            self.clear_boot || [boot_server, boot_file, boot_url].iter().any(|b| b.is_some());
        if reboots {
            let kept = now.boot.filter(|_| !self.clear_boot);
            mask.set("boot", to.boot, Some(self.notes.boot(kept)));
        }
        if relabels || reboots {
            // These are changed in part: what another client has added meanwhile must not be lost.
            *to.etag = now.etag;
        }
        mask.set("description", to.description, self.notes.marks.description);
        Ok(())
    }
}

/// Labels for people.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(",")
}

/// What is booted, for people.
pub(crate) fn boot(boot: Option<&Boot>) -> String {
    let parts = boot.map(|boot| [&*boot.server, &boot.file, &boot.url]).unwrap_or_default();
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}
