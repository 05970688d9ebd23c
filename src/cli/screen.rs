//! What a person sees on stderr while a verb works: a bar on a terminal, plain
//! lines elsewhere. Logs take the same way, so that they do not tear the bar.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use super::text;
use crate::node::command::Progress;

/// Where there is no terminal, bytes are told so often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar without bytes shows that it lives.
const TICK: Duration = Duration::from_millis(120);

/// What was said is not said again for so long.
const SAID_FOR: Duration = Duration::from_secs(60);

/// Lines that are remembered as said: more than repeat each other in turn.
const MAX_SAID: usize = 16;

/// Stderr, shared by progress and logs.
#[derive(Clone)]
pub struct Screen {
    bar: Option<ProgressBar>,
}

impl Screen {
    /// A bar where stderr is a terminal.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            // Shown when there is something to show.
            let bar = ProgressBar::hidden();
            bar.set_style(waiting());
            bar
        });
        Self { bar }
    }

    /// Writes a line above the bar. A stderr that is gone loses it.
    pub fn line(&self, line: &str) {
        let write = || {
            let _ = writeln!(io::stderr(), "{line}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Begins to show the progress of a verb.
    pub fn progress(&self) -> ProgressView {
        ProgressView {
            screen: self.clone(),
            phase: String::new(),
            next: None,
            told: Instant::now(),
            ticking: false,
            said: VecDeque::new(),
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// One verb's progress.
pub struct ProgressView {
    screen: Screen,
    phase: String,
    next: Option<String>,
    told: Instant,
    ticking: bool,
    /// Notes of this phase and a short while, and when.
    said: VecDeque<(String, Instant)>,
}

impl ProgressView {
    /// Shows news.
    pub fn show(&mut self, news: &Progress) {
        match news {
            Progress::Phase { text, next } => {
                let phase = text::safe(text);
                // What is said of a new phase is new.
                if phase != self.phase {
                    self.said.clear();
                }
                self.phase = phase;
                self.next = next.as_deref().map(text::safe);
                self.told = Instant::now();
                self.begin_phase();
            }
            Progress::Bytes { done, total, .. } => {
                if let Some(bar) = &self.screen.bar {
                    // The bar is drawn at any moment, also between these.
                    bar.set_prefix(bytes_line(news, None));
                    bar.set_length(*total);
                    bar.set_position(*done);
                    bar.set_style(measured());
                } else if self.told.elapsed() >= LINE_EVERY || done == total {
                    self.told = Instant::now();
                    let line = bytes_line(news, self.next.as_deref());
                    self.screen.line(&format!("{}: {line}", self.phase));
                }
            }
            Progress::Note { text } => {
                if self.is_new(text, Instant::now()) {
                    self.screen.line(&text::safe(text));
                }
            }
        }
    }

    /// Whether a note was not said a moment ago: what is asked again and again fails in
    /// the same words.
    fn is_new(&mut self, note: &str, now: Instant) -> bool {
        self.said.retain(|(_, since)| now - *since < SAID_FOR);
        let is_new = self.said.iter().all(|(said, _)| said != note);
        if is_new {
            self.said.truncate(MAX_SAID - 1);
            self.said.push_front((note.to_owned(), now));
        }
        is_new
    }

    fn begin_phase(&mut self) {
        match &self.screen.bar {
            None => self.screen.line(&self.phase),
            Some(bar) => {
                bar.set_style(waiting());
                bar.set_message(match &self.next {
                    Some(next) => format!("{}, then: {next}", self.phase),
                    None => self.phase.clone(),
                });
                if !self.ticking {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    bar.enable_steady_tick(TICK);
                    self.ticking = true;
                }
            }
        }
    }
}

impl Drop for ProgressView {
    fn drop(&mut self) {
        if let Some(bar) = &self.screen.bar {
            bar.finish_and_clear();
        }
    }
}

fn waiting() -> ProgressStyle {
    style("{spinner} {elapsed} {wide_msg}")
}

/// Two lines, so that both fit 80 columns.
fn measured() -> ProgressStyle {
    style("{spinner} {wide_msg}\n  [{bar:16}] {prefix}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// `1.0 GiB of 4.0 GiB (25 %), 12.0 MiB/s, 4 peers, 0:42 left, then: sealing`
fn bytes_line(news: &Progress, next: Option<&str>) -> String {
    let Progress::Bytes {
        done,
        total,
        rate,
        peers,
        eta_s,
    } = news
    else {
        return String::new();
    };
    let percent = u128::from(*done) * 100 / u128::from(*total).max(1);
    let mut line = format!(
        "{} of {} ({percent} %)",
        text::bytes(*done),
        text::bytes(*total),
    );
    // What ends at once has no rate that could be told.
    if *rate > 0 || done < total {
        line += &format!(", {}", text::rate(*rate));
    }
    if *peers > 0 {
        line += &format!(", {}", text::count(u64::from(*peers), "peer", "peers"));
    }
    if let Some(eta) = eta_s.filter(|_| done < total) {
        line += &format!(", {}:{:02} left", eta / 60, eta % 60);
    }
    if let Some(next) = next {
        line += &format!(", then: {next}");
    }
    line
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine {
            screen: self.clone(),
            bytes: Vec::new(),
        }
    }
}

/// One log line on its way; written when it is whole.
pub struct LogLine {
    screen: Screen,
    bytes: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        // A log that cannot be written must not stop what it tells about.
        self.screen.line(&log_line(&self.bytes));
    }
}

/// A log line without its end, harmless on a terminal: logs carry what peers
/// say. The escapes are JSON's, which both forms of log may hold.
fn log_line(bytes: &[u8]) -> String {
    text::safe_json(String::from_utf8_lossy(bytes).trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(done: u64, eta_s: Option<u64>, peers: u32) -> Progress {
        Progress::Bytes {
            done,
            total: 4 << 30,
            rate: 12 << 20,
            peers,
            eta_s,
        }
    }

    #[test]
    fn a_line_tells_bytes_rate_peers_time_left_and_what_comes_next() {
        assert_eq!(
            bytes_line(&news(1 << 30, Some(262), 4), Some("sealing the archive")),
            "1.0 GiB of 4.0 GiB (25 %), 12.0 MiB/s, 4 peers, 4:22 left, then: sealing the archive"
        );
    }

    #[test]
    fn a_log_line_with_a_peers_words_stays_one_harmless_line() {
        assert_eq!(
            log_line("peer says \u{1b}[2Jhi\nINFO fake\u{9b}\n".as_bytes()),
            "peer says \\u001b[2Jhi\\u000aINFO fake\\u009b"
        );
    }

    #[test]
    fn an_end_without_a_rate_does_not_tell_a_rate_of_nothing() {
        let mut end = news(4 << 30, None, 0);
        if let Progress::Bytes { rate, .. } = &mut end {
            *rate = 0;
        }
        assert_eq!(bytes_line(&end, None), "4.0 GiB of 4.0 GiB (100 %)");
        let Progress::Bytes { done, .. } = &mut end else {
            panic!("bytes became something else");
        };
        *done = 1 << 30;
        assert!(bytes_line(&end, None).contains("0 B/s"), "it stands still");
    }

    #[test]
    fn what_fails_again_in_the_same_words_is_said_once_in_a_while() {
        let mut view = Screen { bar: None }.progress();
        let began = Instant::now();
        let mut said =
            |note: &str, after: u64| view.is_new(note, began + Duration::from_secs(after));
        assert!(said("a is dead", 0) && said("b is dead", 0));
        assert!(!said("a is dead", 2) && !said("b is dead", 59));
        assert!(said("a is dead", 61));
        for other in 0..MAX_SAID {
            assert!(
                said(&other.to_string(), 62),
                "what is remembered is bounded"
            );
        }
        assert!(said("a is dead", 62));
    }

    #[test]
    fn what_happens_again_in_a_new_phase_is_said_again() {
        let mut view = Screen { bar: None }.progress();
        let phase = |text: &str| Progress::Phase {
            text: text.to_owned(),
            next: None,
        };
        let note = Progress::Note {
            text: "it has ended".to_owned(),
        };
        for (begins, known) in [("start", 0), ("start", 1), ("again", 0), ("start", 0)] {
            view.show(&phase(begins));
            assert_eq!(view.said.len(), known, "{begins}");
            view.show(&note);
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        assert_eq!(
            bytes_line(&news(4 << 30, Some(0), 0), None),
            "4.0 GiB of 4.0 GiB (100 %), 12.0 MiB/s"
        );
    }
}
