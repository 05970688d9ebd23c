//! The home: where it is, and making one when it is missing.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use clap::CommandFactory;

use super::{Cli, failure, screen::Screen, text};
use crate::{
    config::{CONFIG_NAME, Config, ConfigError},
    node::{
        self,
        command::{Failure, FailureCode},
    },
};

/// The variable that names the home.
pub const HOME_VARIABLE: &str = "SNAPSWARM_HOME";

/// The home's name in the user's own folder.
const DEFAULT_NAME: &str = ".snapswarm";

/// Where the home is: the flag, the variable, or `~/.snapswarm`; absolute.
pub fn find(flag: Option<&Path>) -> Result<PathBuf, Failure> {
    let named = flag
        .map(Path::to_owned)
        .or_else(|| {
            env::var_os(HOME_VARIABLE)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        })
        .or_else(|| env::home_dir().map(|home| home.join(DEFAULT_NAME)))
        .ok_or_else(|| {
            failure(
                FailureCode::Usage,
                "there is no folder for the home: the user has none",
                Some("name one with --home DIR"),
            )
        })?;
    let home = absolute(&named)?;
    if home.exists() && !home.is_dir() {
        return Err(failure(
            FailureCode::Usage,
            format!("the home {} is no folder", home.display()),
            Some("name a folder with --home DIR; one that is missing is made"),
        ));
    }
    Ok(home)
}

/// Advice with the home in the commands that it names, where the person named one.
pub fn with_home(text: &str, flag: Option<&Path>) -> String {
    let Some(home) = flag else {
        return text.to_owned();
    };
    let program = Cli::command();
    let is_verb = |word: &str| program.find_subcommand(word).is_some();
    let mut parts = text.split("snapswarm ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "snapswarm ";
        let end = part.find(|c: char| !c.is_ascii_lowercase());
        if is_verb(&part[..end.unwrap_or(part.len())]) {
            out += &format!("--home {} ", home.display());
        }
        out += part;
    }
    out
}

/// The same path for a process with another working folder.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        failure(
            FailureCode::Usage,
            format!("{} is no path: {error}", path.display()),
            None,
        )
    })
}

/// The home's settings; a home that is missing is made, with defaults. A verb
/// that `only_looks` takes the defaults where the folder cannot be written, or is
/// somebody else's.
pub fn open(home: &Path, only_looks: bool, screen: &Screen) -> Result<Config, Failure> {
    if !home.join(CONFIG_NAME).exists() {
        match node::init(home, None) {
            Ok(made) => screen.line(&format!(
                "Made a home with default settings: {}",
                text::safe(&made.config.display().to_string())
            )),
            Err(failure) if only_looks && home.is_dir() && failure.code == FailureCode::Storage => {
            }
            Err(failure) => return Err(failure),
        }
    }
    match Config::load(home) {
        Err(ConfigError::File { source, .. })
            if only_looks && source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Ok(Config::default())
        }
        loaded => Ok(loaded?),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn settings_of_somebody_else_are_no_obstacle_to_a_look() {
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o555)).unwrap();
        let open_as_nobody = |only_looks| {
            let home = home.path().to_owned();
            let thread = std::thread::spawn(move || {
                // Root may read everything; this thread now asks as somebody else.
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
                open(&home, only_looks, &Screen::new())
            });
            thread.join().unwrap()
        };
        // No settings and no right to write them; then some that are private.
        assert_eq!(open_as_nobody(true).unwrap(), Config::default());
        let failure = open_as_nobody(false).unwrap_err();
        assert_eq!(failure.code, FailureCode::Storage);
        let settings = home.path().join(CONFIG_NAME);
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(&settings, "[store]\nmax_snapshots = 7\n").unwrap();
        std::fs::set_permissions(&settings, PermissionsExt::from_mode(0o000)).unwrap();
        assert_eq!(open_as_nobody(true).unwrap(), Config::default());
        let failure = open_as_nobody(false).unwrap_err();
        assert_eq!(failure.code, FailureCode::Storage);
    }

    #[test]
    fn advice_names_the_home_in_commands_and_nowhere_else() {
        let home = Some(Path::new("/h"));
        for (said, wanted) in [
            (
                "`snapswarm start` starts one",
                "`snapswarm --home /h start` starts one",
            ),
            (
                "snapswarm feed CID, snapswarm list",
                "snapswarm --home /h feed CID, snapswarm --home /h list",
            ),
            ("snapswarm starts it", "snapswarm starts it"),
            ("snapswarm --home /h start", "snapswarm --home /h start"),
            (
                "the same version of snapswarm",
                "the same version of snapswarm",
            ),
        ] {
            assert_eq!(with_home(said, home), wanted);
            assert_eq!(with_home(said, None), said);
        }
    }
}
