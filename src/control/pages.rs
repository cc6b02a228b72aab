//! Lists in pages: objects by name (floating IPs by address), from where the page before ended. The
//! name is the place, so what is made or deleted between two pages moves no other object to another
//! page.

use super::{fields::check_keys, refusal::Refusal};
use crate::model::{Labels, Name};
use prost::Message;
use std::{borrow::Borrow, collections::BTreeMap, fmt::Display, net::IpAddr, ops::Bound};
use uuid::Uuid;

/// Objects of a page.
// AIP-158: a page_size above it is cut to it and not refused.
const MAX_SIZE: usize = 1000;
/// Octets of a page: stock clients take messages of 4 MiB, and the last object may be a large one.
const MAX_OCTETS: usize = 3 << 20;

/// Which part of a list is wanted.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// As many as fit, where absent: the service joins what comes so to one list.
    size: Option<usize>,
    after: Option<&'a str>,
    prefix: &'a str,
    /// An empty value is any.
    labels: &'a Labels,
}

impl<'a> Page<'a> {
    /// As requests say it: which page, and of which objects.
    pub(super) fn new(
        (size, token): (u32, &'a str),
        prefix: &'a str,
        labels: &'a Labels,
    ) -> Result<Self, Refusal> {
        check_keys("labels", labels)?;
        let after = (!token.is_empty()).then_some(token);
        let is_one = token.parse::<Name>().is_ok() || token.parse::<IpAddr>().is_ok();
        if after.is_some() && !is_one {
            let expected = "expected next_page_token of the page before, or nothing";
            return Err(Refusal::invalid("page_token", token, expected));
        }
        let size = (size > 0).then_some(MAX_SIZE.min(size as usize));
        Ok(Self { size, after, prefix, labels })
    }

    /// Whether an object with these labels is wanted.
    pub(super) fn wants(&self, labels: &Labels) -> bool {
        let has = |(key, value): (&String, &String)| {
            labels.get(key).is_some_and(|there| value.is_empty() || there == value)
        };
        self.labels.iter().all(has)
    }

    /// The objects of `names` that are wanted and that `view` shows, and the token of the next
    /// page.
    pub(super) fn of<K: Borrow<str> + Display + Ord, T: Message>(
        &self,
        names: &BTreeMap<K, Uuid>,
        view: impl Fn(Uuid) -> Option<T>,
    ) -> (Vec<T>, String) {
        let start = match self.after {
            // A token that sorts before the prefix is of another list.
            Some(name) if name >= self.prefix => Bound::Excluded(name),
            _ => Bound::Included(self.prefix),
        };
        let named = names.range::<str, _>((start, Bound::Unbounded));
        let named = named.take_while(|(name, _)| (*name).borrow().starts_with(self.prefix));
        let seen = named.filter_map(|(name, id)| view(*id).map(|object| (name, object)));
        let (mut page, mut octets) = (Vec::new(), 0);
        let mut last = None;
        for (name, object) in seen {
            // Asked with an object at hand: a last page that is full has no token, and a page has
            // one object at least, however large.
            let is_full = self.size.is_some_and(|size| page.len() == size) || octets > MAX_OCTETS;
            if let Some(last) = last
                && is_full
            {
                let last: &K = last;
                return (page, last.to_string());
            }
            octets += object.encoded_len();
            page.push(object);
            last = Some(name);
        }
        (page, String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Network;

    fn names(page: &Page<'_>, there: &[&str]) -> (Vec<String>, String) {
        let there = there.iter().map(|name| (name.parse().unwrap(), Uuid::new_v4()));
        let there: BTreeMap<Name, Uuid> = there.collect();
        let name_of = |id| there.iter().find(|(_, there)| **there == id).unwrap().0.to_string();
        let view = |id| Some(Network { name: name_of(id), ..Default::default() });
        let (found, next) = page.of(&there, view);
        (found.into_iter().map(|network| network.name).collect(), next)
    }

    static ANY: Labels = Labels::new();

    fn page<'a>(size: u32, token: &'a str, prefix: &'a str) -> Page<'a> {
        Page::new((size, token), prefix, &ANY).unwrap()
    }

    #[test]
    fn labels_are_wanted_together_and_an_empty_value_is_any() {
        let labels = |of: &[(&str, &str)]| -> Labels {
            of.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        let there = labels(&[("owner", "me"), ("tier", "")]);
        for (wanted, is_wanted) in [
            (&[][..], true),
            (&[("owner", "me")], true),
            (&[("owner", "")], true),
            (&[("tier", "")], true),
            (&[("owner", "you")], false),
            (&[("owner", "me"), ("other", "")], false),
        ] {
            let wanted = labels(wanted);
            let page = Page::new((0, ""), "", &wanted).unwrap();
            assert_eq!(page.wants(&there), is_wanted, "{wanted:?}");
        }
        assert!(Page::new((0, ""), "", &labels(&[("no key", "")])).is_err());
    }

    #[test]
    fn pages_follow_one_another_whatever_comes_and_goes() {
        let (first, next) = names(&page(2, "", ""), &["d", "b", "a", "c"]);
        assert_eq!((first, &*next), (vec!["a".into(), "b".into()], "b"));
        let (second, next) = names(&page(2, &next, ""), &["c", "d", "aa"]);
        assert_eq!((second, &*next), (vec!["c".into(), "d".into()], ""));
        let (found, next) = names(&page(1, "a", "vm"), &["vm1", "vm2", "x", "vl"]);
        assert_eq!((found, &*next), (vec!["vm1".into()], "vm1"));
        let (found, next) = names(&page(1, "vm1", "vm"), &["vm1", "vm2", "x"]);
        assert_eq!((found, &*next), (vec!["vm2".into()], ""));
        assert_eq!(names(&page(0, "", ""), &["a"]).1, "");
        assert!(Page::new((1, "not a name"), "", &ANY).is_err());
    }

    #[test]
    fn a_page_of_large_objects_is_shorter() {
        let there: BTreeMap<Name, Uuid> =
            (0..8).map(|n| (format!("n{n}").parse().unwrap(), Uuid::new_v4())).collect();
        let large = |_| Some(Network { domain: "x".repeat(1 << 20), ..Default::default() });
        let (found, next) = page(8, "", "").of(&there, large);
        assert_eq!((found.len(), &*next), (3, "n2"));
        let (found, next) = page(0, "n2", "").of(&there, large);
        assert_eq!((found.len(), &*next), (3, "n5"), "a piece of a list without pages");
    }
}
