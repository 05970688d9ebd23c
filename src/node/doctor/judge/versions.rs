//! Versions of CometBFT and of the application.

use crate::node::doctor::facts::Facts;
use crate::node::doctor::finding::{Check, Finding};

const COMET: Check = Check {
    subject: "CometBFT version",
    why: "nodes of one chain run one series of CometBFT, and the local peer is tried with some \
          series only",
};
const APP: Check = Check {
    subject: "application version",
    why: "CometBFT compares it after the last chunk, and when it differs it gives up and tries \
          nothing else",
};

/// Series of CometBFT with which feeding and harvesting are tried.
const TRIED: [(u32, u32); 4] = [(0, 38), (0, 39), (0, 40), (1, 0)];

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    comet(facts).into_iter().chain(app(facts)).collect()
}

/// `0.38` of `0.38.25`, `v0.38.25-x`.
fn series(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major, digits.parse().ok()?))
}

fn comet(facts: &Facts) -> Option<Finding> {
    let told: Vec<(&str, &str)> = facts
        .answers()
        .map(|(endpoint, answer)| (endpoint.url.as_str(), answer.status.version.as_str()))
        .collect();
    let (first_url, first) = *told.first()?;
    let differs = |(_, version): &&(&str, &str)| series(version) != series(first);
    if let Some((url, other)) = told.iter().find(differs) {
        return Some(COMET.hint(
            format!("{first_url} runs {first}, and {url} runs {other}"),
            "run the version that the chain's documents name for the snapshot's height",
        ));
    }
    let tried = series(first).is_some_and(|series| TRIED.contains(&series));
    Some(match tried {
        true => COMET.good(first.to_owned()),
        false => COMET.hint(
            format!("{first} is none of the series 0.38, 0.39, 0.40 and 1.0 that are tried"),
            "try it on a node that may be lost; `snapswarm join` falls back to CometBFT's own way",
        ),
    })
}

fn app(facts: &Facts) -> Option<Finding> {
    let snapshot = facts.snapshot.as_ref()?;
    let wanted = facts.answers().find_map(|(_, answer)| {
        let after = answer.after.as_ref()?.as_ref().ok()?;
        Some(after.app_version)
    });
    let app = facts.node_answer()?.app.as_ref()?;
    let app = match app {
        Ok(app) => app,
        Err(why) => {
            let remedy = "is the application running behind the node's proxy_app?";
            return Some(APP.hint(format!("it was not looked at: {why}"), remedy));
        }
    };
    let Some(wanted) = wanted else {
        return Some(APP.hint(
            format!(
                "the node's application says {}, and no endpoint tells what block {} has",
                app.app_version,
                snapshot.height.saturating_add(1)
            ),
            "snapswarm doctor --chain-rpc URL,URL, of nodes that have that block",
        ));
    };
    let remedy = format!(
        "run the application's release that the chain ran at height {}",
        snapshot.height
    );
    let told = format!(
        "the node's application says {}, and the chain at the snapshot's height {wanted}",
        app.app_version
    );
    Some(if app.app_version == wanted {
        APP.good(format!("{wanted}, as the chain at the snapshot's height"))
    } else if facts.node_has_blocks() || app.app_version == 0 {
        // It is elsewhere, or may learn its version with its state.
        APP.hint(told, remedy)
    } else {
        APP.problem(told, remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Told, answer, facts, own, told, with_blocks};
    use super::*;

    #[test]
    fn series_are_told_from_what_nodes_call_themselves() {
        assert_eq!(series("0.38.25"), Some((0, 38)));
        assert_eq!(series("v1.0.1"), Some((1, 0)));
        assert_eq!(series("0.38-rc1"), Some((0, 38)));
        assert_eq!(series("unknown"), None);
        assert_eq!(series(""), None);
    }

    #[test]
    fn another_series_and_one_that_is_not_tried_are_hints() {
        let mut facts = facts();
        answer(&mut facts, 1).status.version = "0.38.9".to_owned();
        assert!(told(&judge(&facts), "CometBFT version").is_good());
        answer(&mut facts, 1).status.version = "1.0.1".to_owned();
        assert!(told(&judge(&facts), "CometBFT version").is_hint("documents"));
        facts.chain.clear();
        own(&mut facts).status.version = "0.34.1".to_owned();
        assert!(told(&judge(&facts), "CometBFT version").is_hint("snapswarm join"));
    }

    #[test]
    fn the_applications_version_is_held_against_the_header_after_the_snapshot() {
        let version = |facts: &mut Facts, version| {
            let app = own(facts).app.as_mut().unwrap();
            app.as_mut().unwrap().app_version = version;
        };
        let mut facts = facts();
        version(&mut facts, 2);
        assert!(told(&judge(&facts), "application version").is_problem("at height 100"));
        version(&mut facts, 0);
        assert!(told(&judge(&facts), "application version").is_hint("release"));
        version(&mut facts, 2);
        let mut facts = with_blocks(facts);
        assert!(told(&judge(&facts), "application version").is_hint("release"));
        for at in 0..2 {
            answer(&mut facts, at).after = None;
        }
        assert!(told(&judge(&facts), "application version").is_hint("--chain-rpc"));
        own(&mut facts).app = Some(Err("it hangs".to_owned()));
        assert!(told(&judge(&facts), "application version").is_hint("proxy_app"));
        facts.snapshot = None;
        assert_eq!(told(&judge(&facts), "application version"), Told::Nothing);
    }
}
