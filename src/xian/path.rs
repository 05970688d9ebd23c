//! Group paths as keys of records.
//!
//! A key is the names of the groups on the way from the root, joined by a zero byte,
//! which no name has: so the order of keys is the order of a walk that visits a group,
//! then its children by name. The root's key is empty.

use crate::state::MAX_KEY_BYTES;

/// Levels of groups. A key of the chain has at most 1,024 bytes (`MAX_KEY_SIZE`), so a
/// group made of it lies less than 1,024 levels deep. Each level that is open takes
/// about a kilobyte.
pub(super) const MAX_LEVELS: usize = 1024;

/// What stands between the names in a key.
pub(super) const SEPARATOR: u8 = 0;

/// Bytes of a path in a message.
const MAX_SHOWN_BYTES: usize = 300;

/// Whether a group can have this name: what it says if not.
pub(super) fn check_name(name: &[u8]) -> Result<&str, &'static str> {
    let name = std::str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    if name.is_empty() {
        return Err("its name is empty");
    }
    if name == "." {
        return Err("its name is '.', which means the group itself");
    }
    if name.contains('/') {
        return Err("its name has a slash");
    }
    Ok(name)
}

/// The names in a key.
pub(super) fn names(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let some = !key.is_empty();
    key.split(|byte| *byte == SEPARATOR).filter(move |_| some)
}

/// Checks a key that came from elsewhere; gives its names.
pub(super) fn check_key(key: &[u8]) -> Result<Vec<&str>, &'static str> {
    let names = names(key).map(check_name).collect::<Result<Vec<_>, _>>()?;
    if names.len() > MAX_LEVELS {
        return Err("it lies deeper than any key of the chain");
    }
    Ok(names)
}

/// The key under which a walk stands.
#[derive(Default)]
pub(super) struct Here {
    key: Vec<u8>,
    /// Lengths of the keys above.
    above: Vec<usize>,
}

impl Here {
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(super) fn level(&self) -> usize {
        self.above.len()
    }

    /// Goes down to a child; says why not.
    pub(super) fn enter(&mut self, name: &[u8]) -> Result<(), &'static str> {
        self.above.push(self.key.len());
        if self.level() > 1 {
            self.key.push(SEPARATOR);
        }
        self.key.extend_from_slice(name);
        check_name(name)?;
        if self.level() > MAX_LEVELS {
            return Err("it lies deeper than any key of the chain");
        }
        if self.key.len() > MAX_KEY_BYTES {
            return Err("its path is longer than any key of the chain");
        }
        Ok(())
    }

    /// Goes up again.
    pub(super) fn leave(&mut self) {
        self.key.truncate(self.above.pop().unwrap_or(0));
    }
}

/// A key as the path that `h5ls` shows, for messages.
pub(super) fn shown(key: &[u8]) -> String {
    let mut text: String = names(key)
        .map(|name| format!("/{}", name.escape_ascii()))
        .collect();
    if text.is_empty() {
        text.push('/');
    }
    if text.len() > MAX_SHOWN_BYTES {
        // Escaped text is ASCII: it can be cut anywhere.
        text.truncate(MAX_SHOWN_BYTES);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_of(names: &[&[u8]]) -> Vec<u8> {
        let mut here = Here::default();
        for name in names {
            here.enter(name).unwrap();
        }
        here.key().to_vec()
    }

    #[test]
    fn a_key_is_the_names_of_its_groups() {
        assert_eq!(keys_of(&[]), b"");
        assert_eq!(keys_of(&[b"balances"]), b"balances");
        assert_eq!(keys_of(&[b"balances", b"alice"]), b"balances\0alice");
        assert_eq!(check_key(b"").unwrap(), [""; 0]);
        assert_eq!(
            check_key(b"balances\0alice").unwrap(),
            ["balances", "alice"]
        );
        assert_eq!(check_key("ключ\0..".as_bytes()).unwrap(), ["ключ", ".."]);
    }

    #[test]
    fn a_walk_goes_down_and_up() {
        let mut here = Here::default();
        here.enter(b"a").unwrap();
        here.enter(b"b").unwrap();
        here.leave();
        here.enter(b"c").unwrap();
        assert_eq!((here.key(), here.level()), (&b"a\0c"[..], 2));
        here.leave();
        here.leave();
        assert_eq!((here.key(), here.level()), (&b""[..], 0));
    }

    #[test]
    fn names_that_no_group_has_are_refused() {
        for name in [&b""[..], b".", b"a/b", b"\xff"] {
            assert!(check_name(name).is_err(), "{name:?}");
            assert!(Here::default().enter(name).is_err());
            let key = [b"a\0", name].concat();
            assert!(check_key(&key).is_err(), "{key:?}");
        }
        assert!(check_key(b"\0").is_err());
        assert!(check_key(b"a\0").is_err());
    }

    #[test]
    fn depth_and_length_have_their_limits() {
        let mut here = Here::default();
        for _ in 0..MAX_LEVELS {
            here.enter(b"g").unwrap();
        }
        assert!(check_key(here.key()).is_ok());
        assert!(here.enter(b"g").is_err());
        assert!(check_key(here.key()).is_err());
        let mut here = Here::default();
        here.enter(&vec![b'k'; MAX_KEY_BYTES - 2]).unwrap();
        here.enter(b"g").unwrap();
        assert!(here.enter(b"").is_err());
    }

    #[test]
    fn a_path_is_shown_without_what_a_terminal_obeys() {
        assert_eq!(shown(b""), "/");
        assert_eq!(shown(b"a\0\x1b[2J"), "/a/\\x1b[2J");
        assert!(shown(&[b'k'; 1000]).len() < 310);
    }
}
