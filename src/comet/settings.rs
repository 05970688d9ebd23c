//! A node's `config.toml`, changed for a while and put back.
//!
//! While a node restores a snapshot it must run with other settings than its
//! operator's. Each key that is changed becomes a [`Change`]: what it was and what it
//! is meanwhile. Whoever changes the file writes these down *before*, so that a crash
//! at any moment can be undone. Putting back touches a key only while it still has
//! the value that was written here: what somebody edited meanwhile stays. Comments,
//! order and everything else of the file are left as they are.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item, Table, Value};

/// A key that gets another value for a while. Values are TOML, as in the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The table, empty for the top of the file.
    pub table: String,
    /// The key in it.
    pub key: String,
    /// What it is meanwhile.
    pub ours: String,
    /// What it was; nothing when it was not there.
    pub was: Option<String>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is no TOML.
    #[error("it is no TOML: {0}")]
    Syntax(String),
    /// A table's name belongs to a value, or a key's to a table.
    #[error("`{table}.{key}` is not where it should be")]
    Shape {
        /// The table.
        table: String,
        /// The key.
        key: String,
    },
}

/// The text of a `config.toml`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    document: DocumentMut,
    ends: Ends,
}

/// How a file's lines end, as far as the parser does not keep it.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// All of them as on Windows.
    are_crlf: bool,
    /// The last line has none.
    last_is_open: bool,
}

impl Settings {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let document = DocumentMut::from_str(text)
            .map_err(|error| SettingsError::Syntax(error.message().to_owned()))?;
        let lines = text.matches('\n').count();
        let ends = Ends {
            are_crlf: lines > 0 && text.matches("\r\n").count() == lines,
            last_is_open: !text.is_empty() && !text.ends_with('\n'),
        };
        Ok(Self { document, ends })
    }

    /// A text; empty when it is not there or something else.
    pub fn text(&self, table: &str, key: &str) -> &str {
        let value = self.value(table, key).and_then(Value::as_str);
        value.unwrap_or_default()
    }

    /// A switch; off when it is not there or something else.
    pub fn switch(&self, table: &str, key: &str) -> bool {
        let value = self.value(table, key).and_then(Value::as_bool);
        value.unwrap_or_default()
    }

    /// A number, where there is one.
    pub fn number(&self, table: &str, key: &str) -> Option<i64> {
        self.value(table, key).and_then(Value::as_integer)
    }

    fn value(&self, table: &str, key: &str) -> Option<&Value> {
        let item = match table {
            "" => self.document.get(key),
            table => self.document.get(table)?.get(key),
        };
        item?.as_value()
    }

    /// What has to be changed so that these keys have these values; a key that has
    /// its value already is left out.
    pub fn changes(&self, wanted: &[(&str, &str, Value)]) -> Vec<Change> {
        let change = |(table, key, value): &(&str, &str, Value)| {
            let was = self.value(table, key).map(literal);
            let ours = literal(value);
            (was.as_ref() != Some(&ours)).then(|| Change {
                table: (*table).to_owned(),
                key: (*key).to_owned(),
                ours,
                was,
            })
        };
        wanted.iter().filter_map(change).collect()
    }

    /// Gives the keys their values.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), SettingsError> {
        for change in changes {
            self.set(change, &change.ours)?;
        }
        Ok(())
    }

    /// Puts back what [`Self::apply`] changed; the keys that somebody else gave
    /// another value since are left to them, and named.
    pub fn undo(&mut self, changes: &[Change]) -> Result<Vec<String>, SettingsError> {
        let mut left = Vec::new();
        for change in changes {
            let now = self.value(&change.table, &change.key).map(literal);
            if now.as_ref() == change.was.as_ref() {
                continue;
            }
            if now.as_ref() != Some(&change.ours) {
                left.push(change.name());
                continue;
            }
            match &change.was {
                Some(was) => self.set(change, was)?,
                None => self.remove(change),
            }
        }
        Ok(left)
    }

    fn set(&mut self, change: &Change, literal: &str) -> Result<(), SettingsError> {
        let shape = || SettingsError::Shape {
            table: change.table.clone(),
            key: change.key.clone(),
        };
        let mut value = Value::from_str(literal).map_err(|_| shape())?;
        let table = match change.table.as_str() {
            "" => self.document.as_table_mut(),
            name => {
                let item = self
                    .document
                    .entry(name)
                    .or_insert(Item::Table(Table::new()));
                item.as_table_mut().ok_or_else(shape)?
            }
        };
        match table.get_mut(&change.key) {
            // A comment behind the value stays there.
            Some(Item::Value(old)) => {
                *value.decor_mut() = old.decor().clone();
                *old = value;
            }
            Some(Item::Table(_) | Item::ArrayOfTables(_)) => return Err(shape()),
            Some(Item::None) | None => {
                table.insert(&change.key, Item::Value(value));
            }
        }
        Ok(())
    }

    fn remove(&mut self, change: &Change) {
        if change.table.is_empty() {
            self.document.remove(&change.key);
        } else if let Some(table) = self
            .document
            .get_mut(&change.table)
            .and_then(Item::as_table_mut)
        {
            table.remove(&change.key);
            if table.is_empty() {
                self.document.remove(&change.table);
            }
        }
    }
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.document.to_string();
        let text = match self.ends.last_is_open {
            true => text.strip_suffix('\n').unwrap_or(&text),
            false => &text,
        };
        match self.ends.are_crlf {
            true => f.write_str(&text.replace("\r\n", "\n").replace('\n', "\r\n")),
            false => f.write_str(text),
        }
    }
}

impl Change {
    /// `table.key`
    pub fn name(&self) -> String {
        match self.table.as_str() {
            "" => self.key.clone(),
            table => format!("{table}.{}", self.key),
        }
    }
}

/// A value as it is written, without what stands around it.
fn literal(value: &Value) -> String {
    value.clone().decorated("", "").to_string()
}

/// A duration as Go writes it: `168h0m0s`, `1.5h`, `300ms`, `0`. Nothing where it is
/// none, or a negative one.
pub fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, next) = after.split_at(unit.unwrap_or(after.len()));
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        if next.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\nproxy_app = \"kvstore\"\n\n[p2p]\n# why\npex = true # yes\n\
                        seeds = \"a@h:1\"\n\n[rpc]\nladdr = 'tcp://0.0.0.0:26657'\n";

    fn changed() -> (Settings, Vec<Change>) {
        let mut settings = Settings::parse(FILE).unwrap();
        let changes = settings.changes(&[
            ("p2p", "pex", false.into()),
            ("p2p", "seeds", "".into()),
            ("rpc", "laddr", "tcp://127.0.0.1:26657".into()),
            ("rpc", "unsafe", true.into()),
            ("statesync", "enable", true.into()),
            ("", "proxy_app", "kvstore".into()),
        ]);
        settings.apply(&changes).unwrap();
        (settings, changes)
    }

    #[test]
    fn what_was_changed_comes_back_to_the_letter() {
        let (mut settings, changes) = changed();
        let text = settings.to_string();
        assert!(text.contains("pex = false # yes") && text.contains("[statesync]"));
        assert_eq!(changes.len(), 5, "what fits already is no change");
        assert_eq!(settings.undo(&changes).unwrap(), [""; 0]);
        assert_eq!(settings.to_string(), FILE);
        assert_eq!(
            settings.undo(&changes).unwrap(),
            [""; 0],
            "twice is as once"
        );
        assert_eq!(settings.to_string(), FILE);
    }

    #[test]
    fn the_ends_of_lines_come_back_as_well() {
        let crlf = FILE.replace('\n', "\r\n");
        for file in [&crlf, FILE.trim_end(), crlf.trim_end()] {
            let mut settings = Settings::parse(file).unwrap();
            let changes = settings.changes(&[
                ("p2p", "pex", false.into()),
                ("rpc", "laddr", "tcp://127.0.0.1:26657".into()),
                ("statesync", "enable", true.into()),
            ]);
            settings.apply(&changes).unwrap();
            let mut changed = Settings::parse(&settings.to_string()).unwrap();
            changed.undo(&changes).unwrap();
            assert_eq!(changed.to_string(), file);
        }
    }

    #[test]
    fn what_somebody_edits_meanwhile_stays_and_is_named() {
        let (settings, changes) = changed();
        let edited = settings
            .to_string()
            .replace("unsafe = true", "unsafe = false\nmine = 1")
            .replace("# why", "# because");
        let mut edited = Settings::parse(&edited).unwrap();
        assert_eq!(edited.undo(&changes).unwrap(), ["rpc.unsafe"]);
        let expected = FILE.replace("# why", "# because") + "unsafe = false\nmine = 1\n";
        assert_eq!(edited.to_string(), expected);
    }

    #[test]
    fn changes_survive_a_half_written_way_back() {
        let (settings, changes) = changed();
        let mut half = settings.clone();
        half.undo(&changes[..2]).unwrap();
        half.undo(&changes).unwrap();
        assert_eq!(half.to_string(), FILE);
    }

    #[test]
    fn a_table_in_place_of_a_value_is_told() {
        let mut settings = Settings::parse("[p2p.pex]\na = 1\n").unwrap();
        let changes = settings.changes(&[("p2p", "pex", false.into())]);
        let error = settings.apply(&changes).unwrap_err().to_string();
        assert!(error.contains("p2p.pex"), "{error}");
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, expected_ms) in [
            ("168h0m0s", Some(604_800_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5h", Some(5_400_000)),
            ("300ms", Some(300)),
            ("5s", Some(5_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("0h0m0s", Some(0)),
            ("+2m", Some(120_000)),
            ("2500us", Some(2)),
            ("", None),
            ("-1s", None),
            ("15", None),
            ("s", None),
            ("7d", None),
            ("1h 2m", None),
            ("1..5h", None),
        ] {
            let found = go_duration(text).map(|time| time.as_millis());
            assert_eq!(found, expected_ms, "{text:?}");
        }
    }
}
