//! A Xian application under a join: its adapter, its storage, whom to believe.
//!
//! The application's process is then an adapter that starts the application itself, once a
//! state was restored into its storage: CometBFT finds it where the node's `proxy_app`
//! leads, and the application listens elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Join;
use super::ladder::{Kind, Setback};
use super::node::NodePlan;
use super::swarm::Chosen;
use crate::comet::settings::Settings;
use crate::node::command::{Basis, Failure, FailureCode};
use crate::node::failure::blocking;
use crate::node::own_program;
use crate::node::patches::compare_patches;
use crate::node::progress::Reporter;
use crate::node::services::store_settings;
use crate::node::space::short_of_room;
use crate::node::trust::{believe, somebody_is_believed};
use crate::snapshot::{Manifest, ManifestId};
use crate::store::Store;
use crate::xian::{self, LatestBlock, XianTarget};

/// What the person said of a Xian application.
#[derive(Clone, Debug)]
pub struct XianApp {
    /// Its storage.
    pub storage: PathBuf,
    /// Where it listens.
    pub app: String,
    /// The chain's `state_patches.json`.
    pub state_patches: Option<PathBuf>,
}

/// Looked at before anything is begun.
pub(super) fn preflight(plan: &NodePlan, own: &Settings) -> Result<(), Failure> {
    let Some(xian) = &plan.xian else {
        return Ok(());
    };
    if xian.storage.exists() && !xian.storage.is_dir() {
        let message = format!("--xian {} is no folder", xian.storage.display());
        let hint = "name the storage of the application, as ~/.cometbft/xian; it may be missing";
        return Err(Failure::new(FailureCode::Usage, message).hint(hint));
    }
    let proxy = own.text("", "proxy_app");
    let place = |address: &str| address.trim_start_matches("tcp://").to_owned();
    if place(proxy) == place(&xian.app) {
        return Err(Failure::new(
            FailureCode::Usage,
            format!("--app {proxy} is the node's proxy_app, where the adapter has to listen"),
        )
        .hint(
            "let the application listen at another port and say so with --app, or set another \
             proxy_app in the node's config.toml",
        ));
    }
    Ok(())
}

/// The command line of an adapter that starts the application behind it. `believed`: the
/// snapshot that may be restored.
pub(super) fn adapter(
    home: &Path,
    xian: &XianApp,
    app_cmd: &str,
    (chain_id, proxy_app): (&str, &str),
    believed: Option<&str>,
) -> Result<String, Failure> {
    let program = own_program()?;
    let mut words = vec![
        program.display().to_string(),
        "--home".to_owned(),
        home.display().to_string(),
        "adapter".to_owned(),
        "--chain-id".to_owned(),
        chain_id.to_owned(),
        "--app".to_owned(),
        xian.app.clone(),
        "--listen".to_owned(),
        proxy_app.to_owned(),
        "--xian".to_owned(),
        xian.storage.display().to_string(),
        "--app-cmd".to_owned(),
        app_cmd.to_owned(),
        "--offers".to_owned(),
    ];
    // Below the rung of the swarm it is the application's own affair.
    words.push(
        if believed.is_some() {
            "swarm-only"
        } else {
            "any"
        }
        .to_owned(),
    );
    if let Some(file) = &xian.state_patches {
        words.extend(["--state-patches".to_owned(), file.display().to_string()]);
    }
    if let Some(cid) = believed {
        words.extend(["--cid".to_owned(), cid.to_owned()]);
    }
    let quoted = |word: String| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<String> = words.into_iter().map(quoted).collect();
    Ok(format!("exec {}", words.join(" ")))
}

/// The node has caught up: what its storage held before is not needed any more.
pub(super) async fn discard_old(plan: &NodePlan, reporter: &Reporter) {
    let Some(xian) = &plan.xian else {
        return;
    };
    let storage = xian.storage.clone();
    let discarded = blocking(move || Ok(xian::discard_old(&storage)?)).await;
    if let Err(failure) = discarded {
        reporter.note(format!(
            "what the storage held before its restore is still there: {}",
            failure.message
        ));
    }
}

impl Join {
    /// Nothing is downloaded that nobody would believe, or that has no place.
    pub(super) fn may_restore_state(&self) -> Result<(), Failure> {
        let Some(xian) = &self.options.xian else {
            return Ok(());
        };
        somebody_is_believed(&self.config.trust, self.options.manifest.is_some())?;
        // What a restore of ours left is undone, or gone on with, by the adapter.
        let is_ours = self.node.journal.window || xian::is_as_restored(&xian.storage)?;
        match LatestBlock::read(&xian.storage) {
            Ok(block) if block.height > 0 && !is_ours => {
                Err(in_the_way(&xian.storage, block.height))
            }
            _ => Ok(()),
        }
    }

    /// No snapshot is vouched for any more.
    pub(super) fn believe_nobody(&mut self) {
        self.node.believed = None;
        self.basis = None;
    }

    /// Whether this node can restore what was chosen, and whom to believe for it. Before
    /// the node is started.
    pub(super) async fn judge_content(&mut self, chosen: &Chosen) -> Result<(), Setback> {
        let looked = self.look_at(chosen).await.map_err(Setback::rung)?;
        let (manifest, basis) = looked;
        let needed_bytes = XianTarget::needed_bytes(&manifest);
        self.believe_nobody();
        if manifest.state().is_none() {
            return match self.options.xian {
                None => Ok(()),
                Some(_) => Err(unproven(chosen)),
            };
        }
        let is_named = self.options.manifest.as_ref() == Some(&chosen.manifest);
        let Some(xian) = &self.options.xian else {
            let failure = Failure::new(
                FailureCode::Failed,
                format!(
                    "{} holds the records of a state, which no application restores by itself",
                    chosen.manifest
                ),
            );
            let hint = "for a Xian node give --xian STORAGE and --app ADDR; for another one take \
                        another snapshot";
            return Err(match is_named {
                true => Setback::rung(failure.hint(hint)),
                false => Setback::snapshot(failure.hint(hint)),
            });
        };
        let basis = basis.map_err(|failure| {
            if is_named {
                return Setback::everything(failure);
            }
            self.unbelieved.get_or_insert_with(|| failure.clone());
            Setback::snapshot(failure)
        })?;
        let file = xian.state_patches.clone();
        let compared = blocking(move || compare_patches(&manifest, file.as_deref())).await;
        // Every snapshot of the chain has its patches.
        let patches = compared.map_err(|failure| Setback {
            kind: Kind::Everything,
            failure,
        })?;
        // What an earlier run left there makes room, or is gone on with.
        if !xian::has_left_something(&xian.storage)
            && let Some(short) = short_of_room([&xian.storage], needed_bytes)
        {
            let failure = short.failure(chosen.height);
            let hint = "free some space; what was downloaded stays, and the same command goes on";
            return Err(Setback::everything(failure.hint(hint)));
        }
        let basis = match basis {
            Basis::Named if self.options.from_file => "you gave its file".to_owned(),
            basis => basis.to_string(),
        };
        let believed = format!("the state of height {} is believed: {basis}", chosen.height);
        self.reporter.note(believed);
        self.reporter.note(patches.to_string());
        self.basis = Some(basis);
        self.node.believed = Some(chosen.manifest.clone());
        Ok(())
    }

    /// Why the node does not take a snapshot, where the adapter that was started knows.
    pub(super) fn as_the_adapter_says(&self, setback: Setback, chosen: &Chosen) -> Setback {
        let why = self.node.why_not_restored(chosen.height);
        let (Kind::Snapshot, Some(why), Some(xian)) = (setback.kind, why, &self.options.xian)
        else {
            return setback;
        };
        let (storage, log) = (xian.storage.display(), self.node.app_log());
        Setback::snapshot(
            Failure::new(
                FailureCode::Failed,
                format!("the node does not take the snapshot: {why}"),
            )
            .hint(format!(
                "it was restored into {storage} (--xian); the log of the adapter is {}",
                log.display()
            )),
        )
    }

    /// Where the adapter that was started answers nothing, it waits for its application.
    pub(super) fn unless_silent(&self, setback: Setback) -> Setback {
        match &self.options.xian {
            Some(xian)
                if setback.kind == Kind::Snapshot && setback.failure.code == FailureCode::Usage =>
            {
                Setback::rung(
                    Failure::new(
                        FailureCode::Failed,
                        format!("the application at --app {} does not answer", xian.app),
                    )
                    .hint(format!(
                        "it may have ended, or listen elsewhere: {} says more",
                        self.node.app_log().display()
                    )),
                )
            }
            _ => setback,
        }
    }

    /// The manifest, and why its state is believed where nothing proves it.
    async fn look_at(
        &self,
        chosen: &Chosen,
    ) -> Result<(Arc<Manifest>, Result<Basis, Failure>), Failure> {
        let (home, settings) = (self.asker.home.clone(), store_settings(&self.config));
        let trust = self.config.trust.clone();
        let id: ManifestId = chosen.manifest.parse()?;
        let is_named = self.options.manifest.as_ref() == Some(&chosen.manifest);
        blocking(move || {
            let store = Store::open_for_reading(&home, settings)?;
            let manifest = store.manifest(&id).ok_or_else(|| {
                Failure::new(FailureCode::NotFound, format!("{id} is gone from the home"))
            })?;
            let basis = believe(&trust, &store, &manifest, is_named);
            Ok((manifest, basis))
        })
        .await
    }
}

/// The application's storage holds a state, and the node no block.
pub(super) fn in_the_way(storage: &Path, height: u64) -> Failure {
    let storage = storage.display();
    let message = format!(
        "{storage} holds the state of height {height}, and the node no block: a restore would \
         lose it"
    );
    Failure::new(FailureCode::Policy, message).hint(format!(
        "if nobody needs it, move it aside first: mv {storage} {storage}.old"
    ))
}

/// What an application of Xian makes of an opaque snapshot nobody checks.
fn unproven(chosen: &Chosen) -> Setback {
    Setback::snapshot(
        Failure::new(
            FailureCode::Failed,
            format!(
                "{} holds chunks of an application's own, and nothing proves what a Xian \
                 application makes of them",
                chosen.manifest
            ),
        )
        .hint("take a snapshot of the records of its state: `snapswarm show CID` tells of them"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapter_is_told_all_that_the_shell_must_not_read_otherwise() {
        let xian = XianApp {
            storage: "/a storage".into(),
            app: "tcp://127.0.0.1:1".to_owned(),
            state_patches: Some("/patches".into()),
        };
        let command = "python app.py --name 'it is'";
        let node = ("my-chain", "unix:///p");
        let line = adapter(Path::new("/h"), &xian, command, node, Some("bafk")).unwrap();
        let asked = std::process::Command::new("/bin/sh")
            .args(["-c", &line.replacen("exec ", "printf '%s\\n' ", 1)])
            .output()
            .unwrap();
        let said = String::from_utf8(asked.stdout).unwrap();
        let words: Vec<&str> = said.lines().skip(1).collect();
        let expected = [
            "--home",
            "/h",
            "adapter",
            "--chain-id",
            "my-chain",
            "--app",
            "tcp://127.0.0.1:1",
            "--listen",
            "unix:///p",
            "--xian",
            "/a storage",
            "--app-cmd",
            command,
            "--offers",
            "swarm-only",
            "--state-patches",
            "/patches",
            "--cid",
            "bafk",
        ];
        assert_eq!(words, expected);
        let lower = adapter(Path::new("/h"), &xian, command, node, None).unwrap();
        assert!(lower.contains("'--offers' 'any'") && !lower.contains("--cid"));
    }
}
