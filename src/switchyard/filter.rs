//! Rules at the entrance of a fabric: what an endpoint may send, what is counted, what is copied.
//!
//! Takes rules as TOML or as the JSON of FILTER_SET, and refuses with the number of the rule that
//! is wrong. The first `allow` or `drop` that fits a frame decides about it; `count` and `mirror`
//! do their work and leave that to the rules behind them. What no rule decides about is allowed.
//!
//! ```toml
//! [[rule]]
//! from = "cli1"                   # the endpoint that sends; absent: any
//! match = "udp dst port 7007"     # as pcap-filter(7); absent: every frame
//! action = "drop"                 # allow, drop, count, or mirror with: to = "sniffer"
//! ```

use super::expression::{BadExpression, Expression};
use serde::{Deserialize, Serialize};

/// Rules at most: each is tried on each frame.
const MAX_RULES: usize = 256;

/// What is done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It goes on, whatever later rules say.
    Allow,
    /// It is dropped.
    Drop,
    /// It is counted.
    Count,
    /// An endpoint gets a copy.
    Mirror,
}

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The endpoint that sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Which of its frames.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// What is done with them.
    pub action: Action,
    /// The endpoint that gets a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Rules as they are written: a file, or the JSON of FILTER_SET.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleList {
    /// In order.
    #[serde(default, rename = "rule", alias = "rules")]
    pub rules: Vec<RuleText>,
}

/// Why rules are none.
#[derive(Debug, thiserror::Error)]
pub enum BadFilter {
    /// The file is no TOML, or says something else.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// There are too many.
    #[error("{0} rules; expected at most {MAX_RULES}")]
    Many(usize),
    /// What a rule matches is no expression.
    #[error("rule {0}: match: {1}")]
    Match(usize, BadExpression),
    /// A copy has nowhere to go, or there is none.
    #[error("rule {0}: expected to = ENDPOINT with action mirror, and with no other")]
    To(usize),
}

#[derive(Debug)]
struct Rule {
    text: RuleText,
    expression: Option<Expression>,
    frames: u64,
}

/// Rules in force.
#[derive(Debug, Default)]
pub struct Filter(Vec<Rule>);

/// What the rules say about a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The number of the rule by which it is dropped.
    pub dropped_by: Option<usize>,
    /// The names of endpoints that get a copy.
    pub mirrors: Vec<&'a str>,
}

impl Filter {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It is no TOML, or not of rules.
    pub fn from_toml(text: &str) -> Result<Self, BadFilter> {
        Self::new(toml::from_str(text)?)
    }

    /// Takes rules.
    ///
    /// # Errors
    ///
    /// One of them is none, or they are too many.
    pub fn new(list: RuleList) -> Result<Self, BadFilter> {
        if list.rules.len() > MAX_RULES {
            return Err(BadFilter::Many(list.rules.len()));
        }
        let rule = |(at, text): (usize, RuleText)| {
            let expression = text.expression.as_deref().map(str::parse).transpose();
            let expression = expression.map_err(|error| BadFilter::Match(at + 1, error))?;
            if (text.action == Action::Mirror) != text.to.is_some() {
                return Err(BadFilter::To(at + 1));
            }
            Ok(Rule { text, expression, frames: 0 })
        };
        Ok(Self(list.rules.into_iter().enumerate().map(rule).collect::<Result<_, _>>()?))
    }

    /// Decides about a frame that an endpoint sends, and counts it at each rule that fits.
    pub fn decide(&mut self, from: &str, frame: &[u8]) -> Decision<'_> {
        let mut decision = Decision::default();
        for (at, rule) in self.0.iter_mut().enumerate() {
            let is_from = rule.text.from.as_deref().is_none_or(|name| name == from);
            if !is_from || rule.expression.as_ref().is_some_and(|e| !e.matches(frame)) {
                continue;
            }
            rule.frames += 1;
            match rule.text.action {
                Action::Allow => return decision,
                Action::Drop => {
                    decision.dropped_by = Some(at + 1);
                    return decision;
                }
                Action::Count => {}
                Action::Mirror => decision.mirrors.extend(rule.text.to.as_deref()),
            }
        }
        decision
    }

    /// The rules as they are written, and how many frames each has fitted.
    pub fn rules(&self) -> impl Iterator<Item = (&RuleText, u64)> {
        self.0.iter().map(|rule| (&rule.text, rule.frames))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: &[u8] = b"\x02\x53\x59\0\0\x02\x02\x53\x59\0\0\x01\x08\0\
        \x45\0\0\x1c\0\0\x40\0\x40\x11\0\0\x0a\0\0\x01\x0a\0\0\x02\x30\x39\x1b\x5f\0\x08\0\0";

    #[test]
    fn the_first_rule_that_decides_does() {
        let mut filter = Filter::from_toml(
            r#"
            [[rule]]
            name = "all"
            action = "count"
            [[rule]]
            match = "udp"
            action = "mirror"
            to = "sniffer"
            [[rule]]
            from = "friend"
            action = "allow"
            [[rule]]
            match = "udp dst port 7007"
            action = "drop"
            "#,
        )
        .unwrap();
        let decision = filter.decide("cli1", UDP);
        assert_eq!(decision, Decision { dropped_by: Some(4), mirrors: vec!["sniffer"] });
        assert_eq!(filter.decide("friend", UDP).dropped_by, None);
        assert_eq!(filter.decide("cli1", &[0; 60]), Decision::default());
        let frames = filter.rules().map(|(_, frames)| frames).collect::<Vec<_>>();
        assert_eq!(frames, [3, 2, 1, 1]);
    }

    #[test]
    fn a_rule_that_is_none_is_refused_with_its_number() {
        let refused = |text: &str| Filter::from_toml(text).unwrap_err().to_string();
        let good = "[[rule]]\naction = \"count\"\n";
        for (rule, said) in [
            ("action = \"reject\"", "unknown variant `reject`, expected one of `allow`"),
            ("action = \"drop\"\nport = 7", "unknown field `port`"),
            ("action = \"drop\"\nmatch = \"udp prt\"", "rule 2: match: column 5: expected and"),
            ("action = \"mirror\"", "rule 2: expected to = ENDPOINT with action mirror"),
            ("action = \"drop\"\nto = \"a\"", "rule 2: expected to = ENDPOINT"),
            ("", "missing field `action`"),
        ] {
            let said_it = refused(&format!("{good}[[rule]]\n{rule}\n"));
            assert!(said_it.contains(said), "{said_it}");
        }
        assert_eq!(refused(&good.repeat(257)), "257 rules; expected at most 256");
        let json = r#"{"rules": [{"action": "drop", "match": "arp"}]}"#;
        let list: RuleList = serde_json::from_str(json).unwrap();
        assert_eq!(Filter::new(list).unwrap().rules().count(), 1);
    }
}
