//! What `doctor` tells.

use serde::Serialize;

/// How much a finding matters; in the order in which they are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something does not work, or will not.
    Problem,
    /// Something could be better, or could not be looked at.
    Hint,
    /// As it should be.
    Good,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What it is about, in a word or two.
    pub subject: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What was seen.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to type, or which setting to write; empty where all is well.
    #[serde(rename = "do")]
    pub remedy: String,
}

/// All that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Diagnosis {
    /// Problems first.
    pub findings: Vec<Finding>,
    /// How many of them are problems.
    pub problems: usize,
}

impl Diagnosis {
    /// Sorts findings by how much they matter; those that matter as much stay in order.
    pub(super) fn of(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.level);
        let is_problem = |finding: &&Finding| finding.level == Level::Problem;
        Self {
            problems: findings.iter().filter(is_problem).count(),
            findings,
        }
    }
}

/// A thing to look at, and why one does.
#[derive(Clone, Copy)]
pub(super) struct Check {
    pub(super) subject: &'static str,
    pub(super) why: &'static str,
}

impl Check {
    pub(super) fn good(self, what: impl Into<String>) -> Finding {
        self.finding(Level::Good, what.into(), String::new())
    }

    pub(super) fn hint(self, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Level::Hint, what.into(), remedy.into())
    }

    pub(super) fn problem(self, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Level::Problem, what.into(), remedy.into())
    }

    pub(super) fn finding(self, level: Level, what: String, remedy: String) -> Finding {
        Finding {
            subject: self.subject,
            level,
            what,
            why: self.why.to_owned(),
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_first_and_the_rest_stays_in_order() {
        let check = Check {
            subject: "s",
            why: "w",
        };
        let found = Diagnosis::of(vec![
            check.good("1"),
            check.hint("2", "x"),
            check.problem("3", "x"),
            check.hint("4", "x"),
        ]);
        let order: Vec<&str> = found.findings.iter().map(|f| f.what.as_str()).collect();
        assert_eq!((order.join(""), found.problems), ("3241".to_owned(), 1));
        let json = serde_json::json!(found);
        assert_eq!(json["findings"][0]["level"], "problem");
        assert_eq!(json["findings"][0]["do"], "x");
    }
}
