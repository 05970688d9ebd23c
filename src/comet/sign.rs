//! What CometBFT's log says of a state sync.
//!
//! CometBFT tells the end of a failed state sync nowhere but in its log: its process
//! and its RPC stay up. The sentences are those of `statesync/syncer.go` and
//! `node/setup.go` (0.38, 0.40, 1.0); an application that wraps CometBFT writes them
//! in its own form, so that only the sentence is looked for. A node whose log is
//! silent is understood as well, only later: by its RPC and by the clock.

/// Of a line so much is told to a person.
pub const MAX_WHY_CHARS: usize = 300;

/// Something that a log says of a state sync.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sign {
    /// It is over for good; only a restart begins another one.
    Failed(String),
    /// A snapshot was restored and its application hash is right.
    Restored,
    /// A snapshot is offered to the application.
    Offered,
    /// A chunk was handed to the application, whatever its answer.
    Applied {
        /// How many the snapshot has; 0 where the log does not tell.
        of: u32,
    },
    /// This snapshot will not be tried again.
    Rejected(String),
}

/// What a sentence makes of its line.
type Make = fn(String) -> Sign;

const SENTENCES: [(&str, Make); 12] = [
    ("State sync failed", Sign::Failed),
    ("Failed to bootstrap node with new state", Sign::Failed),
    ("Failed to store last seen commit", Sign::Failed),
    ("Failed to switch to block sync", Sign::Failed),
    ("Snapshot restored", |_| Sign::Restored),
    ("Offering snapshot to ABCI app", |_| Sign::Offered),
    ("Applied snapshot chunk to ABCI app", |line| Sign::Applied {
        of: total(&line),
    }),
    ("Snapshot rejected", Sign::Rejected),
    ("Snapshot format rejected", Sign::Rejected),
    ("Snapshot senders rejected", Sign::Rejected),
    ("Timed out waiting for snapshot chunks", Sign::Rejected),
    ("Timed out validating snapshot", Sign::Rejected),
];

impl Sign {
    /// What a line of a log says, if it is about a state sync.
    pub fn of(line: &str) -> Option<Self> {
        let (_, make) = SENTENCES
            .iter()
            .find(|(sentence, _)| line.contains(sentence))?;
        let why = plain(line.trim());
        Some(make(why.chars().take(MAX_WHY_CHARS).collect()))
    }
}

/// What a log says, as a person reads it: without colours and other orders to a
/// terminal, which applications write into files, too.
pub fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // An order ends with a letter, or one of a few signs.
        let end = part.find(|c: char| ('@'..='~').contains(&c));
        plain.push_str(end.map_or("", |end| &part[end + 1..]));
    }
    plain.retain(|c| !c.is_control() || c == '\n');
    plain
}

/// The number behind `total`, in every form of log.
fn total(line: &str) -> u32 {
    let Some((_, behind)) = line.split_once("total") else {
        return 0;
    };
    // Quotes, a sign.
    let number = behind.trim_start_matches(|c: char| "\"=: ".contains(c));
    let end = number.find(|c: char| !c.is_ascii_digit());
    number[..end.unwrap_or(number.len())].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_told_with_how_many_there_are() {
        for line in [
            "I[x] Applied snapshot chunk to ABCI app   module=statesync chunk=3 total=17",
            "{\"chunk\":3,\"total\":17,\"message\":\"Applied snapshot chunk to ABCI app\"}",
            "\u{1b}[32mINF\u{1b}[0m Applied snapshot chunk to ABCI app chunk=3 \u{1b}[36mtotal=\u{1b}[0m17",
        ] {
            assert_eq!(Sign::of(line), Some(Sign::Applied { of: 17 }));
        }
        let short = "Applied snapshot chunk to ABCI app";
        assert_eq!(Sign::of(short), Some(Sign::Applied { of: 0 }));
    }

    #[test]
    fn colours_are_left_out_and_all_else_stays() {
        for (text, read) in [
            (
                "\u{1b}[90m3:04PM\u{1b}[0m \u{1b}[1;31mERR\u{1b}[0m a [0m b",
                "3:04PM ERR a [0m b",
            ),
            ("one\ntwo\r", "one\ntwo"),
            ("cut off \u{1b}[3", "cut off "),
            ("\u{1b}[", ""),
            ("", ""),
        ] {
            assert_eq!(plain(text), read);
        }
    }

    #[test]
    fn signs_are_found_in_every_form_of_log() {
        for line in [
            "E[2026-01-01|00:00:00.000] State sync failed                            module=statesync err=\"x\"",
            "{\"level\":\"error\",\"module\":\"statesync\",\"err\":\"x\",\"message\":\"State sync failed\"}",
            "\u{1b}[90m3:04PM\u{1b}[0m \u{1b}[31mERR\u{1b}[0m State sync failed err=x module=server",
        ] {
            let Some(Sign::Failed(why)) = Sign::of(line) else {
                panic!("not seen: {line}");
            };
            assert!(!why.contains('\u{1b}') && !why.contains("0m"), "{why}");
        }
        assert_eq!(Sign::of("I[1] Executed block height=5"), None);
    }
}
