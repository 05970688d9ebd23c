//! The home: whether it is there, its settings, what lies in it.

use crate::node::doctor::facts::Facts;
use crate::node::doctor::figures;
use crate::node::doctor::finding::{Check, Finding};

const HOME: Check = Check {
    subject: "home",
    why: "identity, settings and snapshots lie there",
};
const SETTINGS: Check = Check {
    subject: "settings",
    why: "no other verb begins with settings that cannot be read",
};
const SHELF: Check = Check {
    subject: "shelf",
    why: "only what can be read can be given to a node or to others",
};
const QUOTA: Check = Check {
    subject: "quota",
    why: "without room in the quota a new snapshot is refused, or an older one goes",
};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let home = &facts.home;
    let path = home.folder.path.display();
    if !home.exists {
        return vec![HOME.hint(format!("there is none at {path} yet"), "snapswarm init")];
    }
    let mut found = vec![HOME.good(format!("{path}"))];
    if let Err(problem) = &home.settings {
        found.push(SETTINGS.problem(
            problem.clone(),
            format!(
                "mend {path}/config.toml; `snapswarm --home NEW init` writes one to compare with"
            ),
        ));
    }
    match &home.shelf {
        Err(problem) => found.push(SHELF.problem(
            format!("the snapshots cannot be listed: {problem}"),
            "run this as the user whose home it is, or name another with --home",
        )),
        Ok(shelf) if shelf.damaged > 0 => found.push(SHELF.problem(
            format!("{} damaged files", shelf.damaged),
            "`snapswarm list` names them; fetch or load these snapshots again",
        )),
        Ok(shelf) => found.push(SHELF.good(format!(
            "{} complete, {} on disk",
            shelf.snapshots,
            figures::bytes(shelf.used_bytes)
        ))),
    }
    found.extend(quota(facts));
    found
}

fn quota(facts: &Facts) -> Option<Finding> {
    let settings = facts.home.settings.as_ref().ok()?;
    let shelf = facts.home.shelf.as_ref().ok()?;
    let snapshot = facts.snapshot.as_ref()?;
    let size = figures::bytes(snapshot.bytes);
    let config = facts.home.folder.path.join("config.toml");
    if snapshot.bytes > settings.max_download_bytes {
        let limit = figures::bytes(settings.max_download_bytes);
        return Some(QUOTA.hint(
            format!("a snapshot of {size} is above store.max_download_bytes, {limit}"),
            format!(
                "write `max_download_bytes = {}` under [store] in {}",
                snapshot.bytes,
                config.display()
            ),
        ));
    }
    let quota = settings.quota_bytes?;
    let room = quota.saturating_sub(shelf.used_bytes);
    let told = format!(
        "{} of {} are used, and a snapshot has {size}",
        figures::bytes(shelf.used_bytes),
        figures::bytes(quota)
    );
    let remedy = format!(
        "write a larger `disk_quota` under [store] in {}, or `snapswarm delete CID`",
        config.display()
    );
    // A download that began holds its space already.
    Some(match room < snapshot.bytes {
        true if quota < snapshot.bytes => QUOTA.problem(told, remedy),
        true => QUOTA.hint(
            format!("{told}: another one takes the place of an older one"),
            remedy,
        ),
        false => QUOTA.good(told),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Told, facts, told};
    use super::*;

    #[test]
    fn a_home_that_is_not_there_is_a_hint() {
        let mut facts = facts();
        facts.home.exists = false;
        assert_eq!(told(&judge(&facts), "home"), Told::Hint("snapswarm init"));
    }

    #[test]
    fn settings_and_files_that_cannot_be_used_are_problems() {
        let mut facts = facts();
        assert!(told(&judge(&facts), "shelf").is_good());
        facts.home.shelf.as_mut().unwrap().damaged = 2;
        assert!(told(&judge(&facts), "shelf").is_problem("snapswarm list"));
        facts.home.shelf = Err("not allowed".to_owned());
        assert!(told(&judge(&facts), "shelf").is_problem("--home"));
        facts.home.settings = Err("line 1".to_owned());
        assert!(told(&judge(&facts), "settings").is_problem("config.toml"));
    }

    #[test]
    fn a_quota_is_held_against_the_snapshot() {
        let judged = |quota, used, max| {
            let mut facts = facts();
            facts.snapshot.as_mut().unwrap().bytes = 100;
            let settings = facts.home.settings.as_mut().unwrap();
            settings.quota_bytes = quota;
            settings.max_download_bytes = max;
            facts.home.shelf.as_mut().unwrap().used_bytes = used;
            judge(&facts)
        };
        assert_eq!(told(&judged(None, 0, 100), "quota"), Told::Nothing);
        assert!(told(&judged(Some(200), 100, 100), "quota").is_good());
        assert!(told(&judged(Some(200), 101, 100), "quota").is_hint("disk_quota"));
        assert!(told(&judged(Some(99), 0, 100), "quota").is_problem("disk_quota"));
        let above = judged(None, 0, 99);
        assert!(told(&above, "quota").is_hint("max_download_bytes = 100"));
    }
}
