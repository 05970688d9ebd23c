//! Room on disk, where it will be needed.

use std::path::Path;

use crate::node::doctor::facts::{Facts, Folder};
use crate::node::doctor::figures;
use crate::node::doctor::finding::{Check, Finding, Level};

const HOME: Check = Check {
    subject: "disk of the home",
    why: "a snapshot is kept here as a whole",
};
const DATA: Check = Check {
    subject: "disk of the node",
    why: "the application writes the state here while it is restored; it may take more than the \
          snapshot has, because that is compressed",
};
const TEMPORARY: Check = Check {
    subject: "temporary folder",
    why: "CometBFT keeps all chunks there while it restores, whatever `temp_dir` says",
};
const MEMORY: Check = Check {
    subject: "temporary folder",
    why: "what lies there takes memory: the node or its application may be killed for it",
};

/// A folder and what comes into it.
struct Place<'a> {
    check: Check,
    folder: &'a Folder,
    needed_bytes: u64,
    /// How much it matters when it is too small.
    level: Level,
    remedy: String,
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    // Without a snapshot the room is told, and held against nothing.
    let snapshot = facts.snapshot.as_ref();
    let missing_bytes = snapshot.map_or(0, |snapshot| snapshot.missing_bytes);
    let bytes = snapshot.map_or(0, |snapshot| snapshot.bytes);
    let home = &facts.home.folder;
    let mut places = vec![Place {
        check: HOME,
        folder: home,
        needed_bytes: missing_bytes,
        level: Level::Problem,
        remedy: "free some space, `snapswarm delete CID` what is not needed, or use a home on a \
                 larger disk with --home"
            .to_owned(),
    }];
    // A node with blocks restores nothing.
    if !facts.node_has_blocks() {
        if let Some(node) = &facts.node_home {
            places.push(Place {
                check: DATA,
                folder: &node.data,
                needed_bytes: bytes,
                level: Level::Problem,
                remedy: format!(
                    "free some space on the disk of {}",
                    node.data.path.display()
                ),
            });
        }
        places.push(Place {
            check: TEMPORARY,
            folder: &facts.temporary,
            needed_bytes: bytes,
            level: match facts.is_about_a_node() {
                true => Level::Problem,
                false => Level::Hint,
            },
            remedy: elsewhere(
                facts
                    .node_home
                    .as_ref()
                    .map(|node| node.data.path.as_path()),
            ),
        });
    }
    places.iter().flat_map(|place| at(place, &places)).collect()
}

fn at(place: &Place<'_>, all: &[Place<'_>]) -> Vec<Finding> {
    let path = place.folder.path.display();
    let Some(space) = place.folder.space else {
        let told = format!("the disk of {path} cannot be asked for its room");
        return vec![place.check.hint(told, format!("df -h {path}"))];
    };
    let on_it = |other: &&Place<'_>| {
        let disk = other.folder.space.map(|space| space.device);
        disk == Some(space.device)
    };
    let together: u64 = all
        .iter()
        .filter(on_it)
        .map(|place| place.needed_bytes)
        .sum();
    let free = figures::bytes(space.free_bytes);
    let needed = figures::bytes(place.needed_bytes);
    let mut found = Vec::new();
    if place.needed_bytes > space.free_bytes {
        let told = format!("{path} has {free} free, and about {needed} are needed");
        found.push(place.check.finding(place.level, told, place.remedy.clone()));
    } else if place.needed_bytes > 0 && together > space.free_bytes {
        let told = format!(
            "{path} has {free} free, and with what else comes onto the same disk about {} are \
             needed",
            figures::bytes(together)
        );
        found.push(place.check.finding(place.level, told, place.remedy.clone()));
    } else {
        found.push(place.check.good(match place.needed_bytes {
            0 => format!("{path} has {free} free"),
            _ => format!("{path} has {free} free for {needed}"),
        }));
    }
    // Where no node is restored, nothing comes into the folder.
    if place.check.subject == TEMPORARY.subject && place.level == Level::Problem && space.in_memory
    {
        let told = match place.needed_bytes {
            0 => format!("{path} is in memory"),
            _ => format!("{path} is in memory, and gets {needed}"),
        };
        found.push(MEMORY.hint(told, place.remedy.clone()));
    }
    found
}

/// The doctor's own temporary folder may be another than the node's.
fn elsewhere(data: Option<&Path>) -> String {
    let folder = data.map_or_else(
        || "/FOLDER/WITH/SPACE".to_owned(),
        |data| data.join("tmp").display().to_string(),
    );
    format!(
        "mkdir -p {folder}, and start CometBFT with TMPDIR={folder} (under systemd: \
         Environment=TMPDIR={folder}); `snapswarm join` does so by itself"
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::{GIGA, Told, facts, told, with_blocks};
    use super::*;

    #[test]
    fn each_folder_is_held_against_the_snapshot() {
        let mut facts = facts();
        facts
            .node_home
            .as_mut()
            .unwrap()
            .data
            .space
            .as_mut()
            .unwrap()
            .free_bytes = GIGA - 1;
        assert!(told(&judge(&facts), "disk of the node").is_problem("/node/data"));
        assert!(
            told(&judge(&facts), "disk of the home").is_good(),
            "it is here already"
        );
        facts.home.folder.space.as_mut().unwrap().free_bytes = 9;
        facts.snapshot.as_mut().unwrap().missing_bytes = 10;
        assert!(told(&judge(&facts), "disk of the home").is_problem("--home"));
        facts.snapshot.as_mut().unwrap().missing_bytes = 9;
        assert!(told(&judge(&facts), "disk of the home").is_good());
    }

    #[test]
    fn folders_on_one_disk_share_its_room() {
        let mut facts = facts();
        let data = facts.node_home.as_mut().unwrap();
        let space = data.data.space.as_mut().unwrap();
        space.free_bytes = 2 * GIGA - 1;
        facts.temporary.space = Some(*space);
        let found = judge(&facts);
        assert!(told(&found, "disk of the node").is_problem("free some space"));
        assert!(told(&found, "temporary folder").is_problem("TMPDIR=/node/data/tmp"));
    }

    #[test]
    fn a_temporary_folder_matters_to_who_restores_a_node() {
        let mut facts = facts();
        facts.temporary.space.as_mut().unwrap().free_bytes = 1;
        assert!(told(&judge(&facts), "temporary folder").is_problem("TMPDIR"));
        facts.node_home = None;
        facts.node = None;
        assert!(told(&judge(&facts), "temporary folder").is_hint("TMPDIR"));
        let restored = with_blocks(super::super::sample::facts());
        assert_eq!(told(&judge(&restored), "temporary folder"), Told::Nothing);
        assert_eq!(told(&judge(&restored), "disk of the node"), Told::Nothing);
    }

    #[test]
    fn a_temporary_folder_in_memory_is_a_hint() {
        let mut facts = facts();
        facts.temporary.space.as_mut().unwrap().in_memory = true;
        assert!(told(&judge(&facts), "temporary folder").is_hint("systemd"));
        facts.snapshot = None;
        assert!(told(&judge(&facts), "temporary folder").is_hint("systemd"));
        assert!(told(&judge(&facts), "disk of the node").is_good());
        facts.node_home = None;
        facts.node = None;
        let found = judge(&facts);
        assert!(
            told(&found, "temporary folder").is_good(),
            "nothing is restored"
        );
    }

    #[test]
    fn a_disk_that_does_not_tell_its_room_is_a_hint() {
        let mut facts = facts();
        facts.temporary.space = None;
        assert!(told(&judge(&facts), "temporary folder").is_hint("df -h /tmp"));
    }
}
