//! How the errors of the rooms become a sentence, a hint and an exit code.

use std::path::Path;

use super::command::{Failure, FailureCode};
use crate::abci::AbciError;
use crate::api::control::ControlError;
use crate::api::http::HttpError;
use crate::comet::node_home::NodeHomeError;
use crate::comet::peer::PeerError;
use crate::comet::process::StartError;
use crate::comet::rpc::RpcError;
use crate::config::ConfigError;
use crate::net::{IdentityError, NetError};
use crate::snapshot::{IdError, SourceError, TargetError};
use crate::state::StateError;
use crate::store::{ErrorKind, StoreError};
use crate::xian::XianError;

impl Failure {
    /// A failure without a hint.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            about_chain: false,
            daemon_gone: false,
        }
    }

    /// The same failure, about the chain itself.
    #[must_use]
    pub fn about_chain(self) -> Self {
        Self {
            about_chain: true,
            ..self
        }
    }

    /// The same failure with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure where its sentence ends with what to do, behind this sign:
    /// that becomes the hint.
    fn advice_after(self, sign: &str) -> Self {
        match self.message.rsplit_once(sign) {
            Some((what, advice)) => Self::new(self.code, what).hint(advice),
            None => self,
        }
    }

    /// The person stopped it; `again` says what a second run does.
    pub fn interrupted(again: impl Into<String>) -> Self {
        Self::new(FailureCode::Interrupted, "interrupted").hint(again)
    }

    /// A file could not be read or written.
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let failure = Self::new(FailureCode::Storage, format!("{what}: {error}"));
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                failure.hint("free some space, or use a home on a larger disk with --home")
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                failure.hint("make it readable and writable for this user, or use another --home")
            }
            _ => failure,
        }
    }

    /// A path that the person gave cannot be used: one that is not there, or is
    /// of the wrong kind, is wrong use.
    pub fn given_path(path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput => {
                Self::new(FailureCode::Usage, format!("{}: {error}", path.display()))
                    .hint("check the path: it names nothing, or not what this verb takes")
            }
            _ => Self::io(path.display(), error),
        }
    }

    /// The daemon answered another question than it was asked.
    pub fn other_answer() -> Self {
        Self::new(FailureCode::Failed, "the daemon answered another question")
            .hint("use the same version of snapswarm on both sides: restart the daemon")
    }

    /// A task of ours ended by panicking: a defect, told as such.
    pub fn defect(error: &tokio::task::JoinError) -> Self {
        Self::new(
            FailureCode::Failed,
            format!("an internal task failed: {error}"),
        )
        .hint("this is a defect of snapswarm; please report it with the log")
    }
}

/// Runs blocking work of a verb on the blocking pool.
pub(super) async fn blocking<T, F>(work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Failure> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::defect(&error)),
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error.kind() {
            ErrorKind::Storage => FailureCode::Storage,
            ErrorKind::Verification => FailureCode::Verification,
            ErrorKind::NotFound => FailureCode::NotFound,
            ErrorKind::Usage => FailureCode::Usage,
            ErrorKind::Policy => FailureCode::Policy,
            ErrorKind::Interrupted => FailureCode::Interrupted,
            ErrorKind::Busy => FailureCode::Failed,
        };
        let told = Self::new(code, error.to_string());
        match error.hint() {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        Self::new(FailureCode::Usage, error.to_string())
            .hint("`snapswarm list` shows the names of the snapshots of this home")
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let code = match &error {
            StateError::Opaque | StateError::UnknownScope(_) => FailureCode::Usage,
            StateError::Limit { .. }
            | StateError::Scope(_)
            | StateError::Order(_)
            | StateError::Zstd(_)
            | StateError::Payload(_)
            | StateError::Version(_)
            | StateError::Notes(_)
            | StateError::OtherState { .. }
            | StateError::MoreThanNamed { .. }
            | StateError::OtherBase(_)
            | StateError::Removal(_) => FailureCode::Verification,
        };
        Self::new(code, error.to_string())
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        let code = match &error {
            RpcError::Url { .. } => FailureCode::Usage,
            RpcError::Unreachable { .. }
            | RpcError::Busy { .. }
            | RpcError::Answer { .. }
            | RpcError::Refused { .. }
            | RpcError::Unsafe { .. }
            | RpcError::TooNew { .. }
            | RpcError::Pruned { .. } => FailureCode::Failed,
        };
        let told = Self::new(code, error.to_string());
        match (&error, error.hint()) {
            (_, Some(hint)) => told.hint(hint),
            (RpcError::Url { .. }, None) => told.advice_after("; "),
            (_, None) => told.advice_after(": "),
        }
    }
}

impl From<NodeHomeError> for Failure {
    fn from(error: NodeHomeError) -> Self {
        let message = chain(&error);
        match &error {
            NodeHomeError::File { source, .. }
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Self::new(FailureCode::Usage, message).hint(
                    "--node-home names the folder with config/ and data/ of the new node: \
                     `cometbft init --home DIR` makes one, and the chain's genesis.json goes into it",
                )
            }
            NodeHomeError::File { path, source } => Self::io(path.display(), source),
            NodeHomeError::Settings { .. } | NodeHomeError::Json { .. } => {
                Self::new(FailureCode::Usage, message)
                    .hint("compare it with the one that `cometbft init` writes")
            }
            NodeHomeError::NotToEmpty { .. } => Self::new(FailureCode::Usage, message)
                .hint("--app-data names the folder of the application's data alone"),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(FailureCode::Failed, format!("{error}: {}", error.source))
    }
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        let code = match &error {
            PeerError::Stopped => FailureCode::Interrupted,
            PeerError::Chunk { .. } => FailureCode::Storage,
            _ => FailureCode::Failed,
        };
        Self::new(code, chain(&error))
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::new(FailureCode::Failed, chain(&error))
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Refused(_) => Self::new(FailureCode::Verification, error.to_string()),
            TargetError::Failed(error) => match error.downcast::<XianError>() {
                Ok(error) => Self::from(*error),
                Err(error) => Self::new(FailureCode::Failed, chain(&*error)),
            },
        }
    }
}

impl From<XianError> for Failure {
    fn from(error: XianError) -> Self {
        let told = |code| Self::new(code, chain(&error));
        match &error {
            XianError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::given_path(path, source)
            }
            XianError::Io { op, path, source } => {
                let failure = Self::io(format!("cannot {op} {}", path.display()), source);
                match source.kind() {
                    // Of a storage, which is no home.
                    std::io::ErrorKind::PermissionDenied => {
                        failure.hint(format!("this user may not {op} it: change its rights"))
                    }
                    _ => failure,
                }
            }
            XianError::NoStorage { .. } => told(FailureCode::Usage).advice_after(". "),
            XianError::Stray { .. } => told(FailureCode::Usage).advice_after("; "),
            XianError::Damaged { .. }
            | XianError::Content { .. }
            | XianError::Worker { .. }
            | XianError::Records { .. }
            | XianError::State(_) => told(FailureCode::Verification),
            XianError::Changed { .. } => told(FailureCode::Failed).hint(
                "stop the node first; `snapswarm adapter --xian` takes snapshots of one that runs",
            ),
            XianError::Writer { .. } => told(FailureCode::Failed)
                .hint("the system's log may say who ended it; the same command begins again"),
            XianError::HeldTooLong { .. } | XianError::OtherHeight { .. } => {
                told(FailureCode::Failed)
            }
            XianError::NoSpace { .. } => told(FailureCode::Storage)
                .hint("free some space, or use a home on a larger disk with --home"),
            XianError::Stopped => Self::interrupted("the same command begins again"),
        }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        let told = |code, error: &NetError| Self::new(code, chain(error));
        match error {
            NetError::Identity(error) => error.into(),
            NetError::BadAddress { .. } | NetError::BadSetting { .. } => {
                told(FailureCode::Usage, &error)
            }
            NetError::PortTaken { .. }
            | NetError::AddressNotHere { .. }
            | NetError::PortForbidden { .. } => {
                told(FailureCode::Failed, &error).advice_after("; ")
            }
            _ => told(FailureCode::Failed, &error),
        }
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        let told = Self::new(FailureCode::Storage, chain(&error));
        match &error {
            IdentityError::File { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    told.hint("run snapswarm as the user whose home it is, or use another --home")
                }
                _ => told,
            },
            IdentityError::Permissions { .. } | IdentityError::Damaged { .. } => {
                told.advice_after(": ")
            }
        }
    }
}

/// A failure of the adapter, or of the application behind it.
pub(super) fn of_abci(error: &AbciError) -> Failure {
    let told = |code| Failure::new(code, chain(error));
    match error {
        AbciError::Address(_) => told(FailureCode::Usage).advice_after("; "),
        AbciError::Listen { .. } => told(FailureCode::Failed).hint(
            "another program may listen there: give another --listen, and stop the other one",
        ),
        AbciError::App { .. } => {
            told(FailureCode::Failed).hint("is the application running, and --app its ABCI socket?")
        }
        AbciError::Answer { .. } => told(FailureCode::Failed),
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::new(FailureCode::Failed, chain(&error)).hint(error.hint())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::new(FailureCode::Failed, chain(&error)).hint(error.hint())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match &error {
            ConfigError::File { source, path } if is_of_the_system(source) => {
                Self::io(format!("cannot use {}", path.display()), source)
            }
            ConfigError::File { .. }
            | ConfigError::Syntax(_)
            | ConfigError::Value { .. }
            | ConfigError::In { .. } => Self::new(FailureCode::Usage, chain(&error)).hint(
                "mend the file; `snapswarm --home NEW init` writes one with every key and its \
                 default into a new folder, to compare with",
            ),
        }
    }
}

/// Whether the system refused, and not what stands in the file.
fn is_of_the_system(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, IsADirectory, Other};
    !matches!(error.kind(), InvalidData | IsADirectory | Other)
}

/// An error and its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_no_text_are_wrong_use_and_a_disk_that_fails_is_a_fault() {
        let of = |kind: std::io::ErrorKind| {
            let (path, source) = ("config.toml".into(), kind.into());
            Failure::from(ConfigError::File { path, source })
        };
        let no_text = of(std::io::ErrorKind::InvalidData);
        assert_eq!(no_text.code, FailureCode::Usage);
        assert!(no_text.hint.unwrap().starts_with("mend the file"));
        let private = of(std::io::ErrorKind::PermissionDenied);
        assert_eq!(private.code, FailureCode::Storage);
    }

    #[tokio::test]
    async fn an_rpc_that_is_not_there_is_told_with_one_cause_and_what_to_do() {
        let rpc = crate::comet::rpc::Rpc::new("http://127.0.0.1:1").unwrap();
        let failure = Failure::from(rpc.status().await.unwrap_err());
        assert!(failure.message.contains("refused"), "{failure:?}");
        assert_eq!(failure.message.matches("127.0.0.1:1").count(), 1);
        assert!(failure.hint.unwrap().contains("laddr"));
    }
}
