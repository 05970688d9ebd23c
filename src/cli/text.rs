//! Text for people: sizes, times, tables, and strings of strangers made safe
//! for a terminal.

use std::fmt::Write;

/// Makes text of unknown origin harmless on a terminal: characters that move
/// the cursor, change colours, break lines or reverse the direction of writing
/// are written as escapes.
pub fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hostile(character) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

/// The same for a JSON document, which stays the same document: such characters
/// stand inside strings only, where `\uXXXX` means them. (`serde_json` escapes
/// those below 0x20 itself.)
pub fn safe_json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for character in document.chars() {
        if is_hostile(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    out
}

fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// `1.5 GiB`
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be written as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `12.0 MiB/s`
pub fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", bytes(bytes_per_s))
}

/// `4.2 s`, `3:07 min`, `2:03:07 h`
pub fn seconds(time: f64) -> String {
    if time < 60.0 {
        return format!("{time:.1} s");
    }
    let time = time.round() as u64;
    let (hours, minutes, seconds) = (time / 3600, time / 60 % 60, time % 60);
    if hours == 0 {
        format!("{minutes}:{seconds:02} min")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02} h")
    }
}

/// The mean rate over a time; nothing when the time is too short to tell.
pub fn mean_rate(count: u64, time: f64) -> Option<String> {
    (time >= 0.001).then(|| rate((count as f64 / time) as u64))
}

/// `1 chunk`, `2 chunks`
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A table with aligned columns. Cells are made safe.
pub struct Table {
    rows: Vec<Vec<String>>,
    to_the_right: Vec<bool>,
}

impl Table {
    /// Headings; one that begins with `>` aligns its column to the right.
    pub fn new(headings: &[&str]) -> Self {
        Self {
            to_the_right: headings.iter().map(|name| name.starts_with('>')).collect(),
            rows: vec![
                headings
                    .iter()
                    .map(|name| name.trim_start_matches('>').to_owned())
                    .collect(),
            ],
        }
    }

    /// Adds a row with a cell for each heading.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|cell| safe(cell)).collect());
    }

    /// The lines, each with an end.
    pub fn render(&self) -> String {
        let mut widths = vec![0; self.to_the_right.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.to_the_right) {
                if *right {
                    let _ = write!(line, "{cell:>width$}  ");
                } else {
                    let _ = write!(line, "{cell:<width$}  ");
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Names and values, one a line, values in a column. Values are made safe.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "{name:<width$}  {}", safe(value));
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_strangers_cannot_steer_a_terminal() {
        let evil = "a\u{1b}[2Jb\r\nc\u{9b}31m\u{202e}d\u{7f}\u{200b}";
        let shown = safe(evil);
        assert_eq!(
            shown,
            "a\\u{1b}[2Jb\\u{d}\\u{a}c\\u{9b}31m\\u{202e}d\\u{7f}\\u{200b}"
        );
        assert_eq!(safe("größe 高さ 🦀"), "größe 高さ 🦀");
    }

    #[test]
    fn json_stays_the_same_document_and_is_harmless_too() {
        let value = serde_json::json!({ "chain": "a\u{1b}\u{9b}\u{202e}\u{e0041}é" });
        let shown = safe_json(&value.to_string());
        assert!(!shown.chars().any(is_hostile), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn sizes_and_times_read_well() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        for (time, expected) in [
            (0.04, "0.0 s"),
            (59.0, "59.0 s"),
            (187.0, "3:07 min"),
            (7387.4, "2:03:07 h"),
        ] {
            assert_eq!(seconds(time), expected);
        }
        assert_eq!(mean_rate(1 << 20, 0.5).unwrap(), "2.0 MiB/s");
        assert_eq!(mean_rate(1, 0.0), None);
    }

    #[test]
    fn tables_are_aligned_and_their_cells_cannot_break_a_line() {
        let mut table = Table::new(&["CHAIN", ">HEIGHT"]);
        table.row(["one\ntwo".to_owned(), "7".to_owned()]);
        table.row(["x".to_owned(), "12345678".to_owned()]);
        assert_eq!(
            table.render(),
            "CHAIN          HEIGHT\none\\u{a}two         7\nx            12345678\n"
        );
    }
}
