//! The home: where it is, and making one when it is missing.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{failure, screen::Screen, text};
use crate::{
    config::{CONFIG_NAME, Config},
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
    absolute(&named)
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
/// that `only_looks` takes the defaults where there is a folder that cannot be
/// written.
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
    Ok(Config::load(home)?)
}
