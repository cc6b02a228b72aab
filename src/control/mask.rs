//! Which fields a request changes (`google.protobuf.FieldMask`, AIP-134): those that its mask
//! names, or without one those that it always changed. Nothing that is given is ignored silently.

use super::refusal::Refusal;
use prost_types::FieldMask;

/// The name of a field, and whether the request has it.
pub(super) type Field = (&'static str, bool);

/// Paths of a mask: more than any request has fields, for one may be named twice.
// A request of 1 MiB can name 340,000 fields. Each is compared with all, on Control's thread.
const MAX_PATHS: usize = 64;

/// Fields that a request changes.
#[derive(Debug)]
pub(super) struct Mask(Vec<&'static str>);

impl Mask {
    /// Those of `fields` that `mask` names; of a request without one, `unmasked`, and then others
    /// must not be given.
    pub(super) fn new(
        mask: Option<&FieldMask>,
        unmasked: &[&'static str],
        fields: &[Field],
    ) -> Result<Self, Refusal> {
        let names = || fields.iter().map(|(name, _)| *name);
        let Some(mask) = mask else {
            let beyond = |(name, given): &&Field| *given && !unmasked.contains(name);
            return match fields.iter().find(beyond) {
                Some((name, _)) => {
                    let expected = format!("{name} is given: name it here to change it");
                    Err(Refusal::invalid("update_mask", "", expected))
                }
                // A client that knows no masks means all of these: an empty list clears.
                None => Ok(Self(unmasked.to_vec())),
            };
        };
        Refusal::unless_at_most(MAX_PATHS, "update_mask", mask.paths.len(), "paths")?;
        // AIP-134: everything, also what the request leaves empty.
        if mask.paths.iter().any(|path| path == "*") {
            return Ok(Self(names().collect()));
        }
        let known = |path: &String| {
            names().find(|name| name == path).ok_or_else(|| {
                let expected =
                    format!("expected * or some of {}", names().collect::<Vec<_>>().join(", "));
                Refusal::invalid("update_mask", path, expected)
            })
        };
        mask.paths.iter().map(known).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a field is among them.
    pub(super) fn names(&self, field: &str) -> bool {
        self.0.contains(&field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(mask: Option<&[&str]>, fields: &[Field]) -> Result<Vec<&'static str>, String> {
        let mask =
            mask.map(|paths| FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
        Mask::new(mask.as_ref(), &["dns"], fields).map(|mask| mask.0).map_err(|r| r.to_string())
    }

    #[test]
    fn a_mask_names_what_changes_and_nothing_given_is_ignored() {
        let (given, plain) = ([("dns", true), ("mtu", true)], [("dns", true), ("mtu", false)]);
        assert_eq!(named(None, &plain), Ok(vec!["dns"]));
        assert_eq!(named(Some(&["mtu"]), &given), Ok(vec!["mtu"]));
        assert_eq!(named(Some(&["*"]), &given), Ok(vec!["dns", "mtu"]));
        assert_eq!(named(Some(&[]), &given), Ok(vec![]), "named nothing: changes nothing");
        assert!(named(None, &given).unwrap_err().contains("mtu is given"));
        let refused = named(Some(&["mtu", "subnet"]), &given).unwrap_err();
        assert_eq!(refused, "update_mask: \"subnet\": expected * or some of dns, mtu");
        assert_eq!(named(Some(&["mtu"; 64]), &given).map(|named| named.len()), Ok(64));
        for path in ["mtu", "subnet", "*"] {
            let refused = named(Some(&[path; 65]), &given).unwrap_err();
            assert_eq!(refused, "update_mask: \"65 paths\": expected at most 64");
        }
    }
}
