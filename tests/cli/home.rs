//! Verbs on a home without a daemon: settings, paths, versions.

use crate::support::*;

#[tokio::test]
async fn a_misspelt_setting_is_refused_with_file_and_key() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join("config.toml"),
        "[upload]\nbytes_per_sec = 1\n",
    )
    .unwrap();
    let output = run(home.path(), &["list", "--json"]).await;
    assert_eq!(output.status.code(), Some(2));
    let message = json(&output)["error"]["message"].to_string();
    assert!(
        message.contains("config.toml") && message.contains("upload.bytes_per_sec"),
        "{message}"
    );
}

#[tokio::test]
async fn a_home_of_another_network_or_with_broken_settings_is_not_made_again() {
    let home = tempfile::tempdir().unwrap();
    let made = run(home.path(), &["init", "--network", "one", "--json"]).await;
    assert_eq!(made.status.code(), Some(0), "{}", stdout(&made));
    for same in [&["init", "--network", "one"][..], &["init"]] {
        assert_eq!(run(home.path(), same).await.status.code(), Some(0));
    }
    let other = run(home.path(), &["init", "--network", "two", "--json"]).await;
    assert_eq!(other.status.code(), Some(2));
    let said = json(&other)["error"].clone();
    let message = said["message"].as_str().unwrap();
    assert!(message.contains("one") && message.contains("two"), "{said}");
    assert!(said["hint"].as_str().unwrap().contains("--home"), "{said}");

    let settings = home.path().join("config.toml");
    std::fs::write(&settings, "[network\nname = \"\u{1b}[2J\"\n").unwrap();
    for verb in [&["init", "--json"][..], &["list", "--json"]] {
        let broken = run(home.path(), verb).await;
        assert_eq!(broken.status.code(), Some(2), "{verb:?}");
        let said = json(&broken)["error"].clone();
        let message = said["message"].as_str().unwrap();
        assert!(message.contains("config.toml"), "{message}");
        assert!(message.contains("line 1"), "{message}");
        assert!(
            !message.contains("\\u") && !message.contains('\u{1b}'),
            "{message}"
        );
        let hint = said["hint"].as_str().unwrap();
        assert!(!hint.contains("delete") && !hint.contains("away"), "{hint}");
    }
}

/// A path that a person gave is wrong use where it is not there or of the wrong
/// kind; a file with wrong bytes fails its verification.
#[tokio::test]
async fn a_wrong_path_has_the_same_exit_code_in_every_verb() {
    let home = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (missing, file, folder) = (at("missing"), at("file"), at("folder"));
    let (good, car, wrong) = (at("good"), at("good.car"), at("wrong.car"));
    std::fs::write(&file, b"chunk").unwrap();
    std::fs::write(&wrong, b"no car").unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::create_dir(&good).unwrap();
    std::fs::write(at("good/0"), b"chunk").unwrap();
    let of = ["--chain-id", "c", "--height", "7"];
    let loaded = [&["load", &good, "--kind", "files", "--json"][..], &of].concat();
    let loaded = json(&run(home.path(), &loaded).await);
    let cid = loaded["manifest"].as_str().unwrap().to_owned();
    let dumped = run(home.path(), &["dump", &cid, &car]).await;
    assert_eq!(dumped.status.code(), Some(0), "{}", stderr(&dumped));

    let below = |path: &str| format!("{path}/out.car");
    let cases: &[(&[&str], i32)] = &[
        (&["load", &missing, "--kind", "files"], 2),
        (&["load", &file, "--kind", "files"], 2),
        (&["load", &folder, "--kind", "files"], 2),
        (&["load", &missing, "--kind", "file"], 2),
        (&["load", &folder, "--kind", "file"], 2),
        (&["load", &missing, "--kind", "car"], 2),
        (&["load", &folder, "--kind", "car"], 2),
        (&["load", &below(&file), "--kind", "car"], 2),
        (&["load", &wrong, "--kind", "car"], 4),
        (&["load", &car, "--kind", "car", "--chain-id", "d"], 2),
        (&["load", &car, "--kind", "car", "--height", "8"], 2),
        (&["verify", &below(&missing)], 2),
        (&["verify", &folder], 2),
        (&["verify", &wrong], 4),
        (&["verify", CID], 3),
        (&["dump", &cid, &below(&missing)], 2),
        (&["dump", &cid, &below(&file)], 2),
        (&["dump", &cid, &car], 2),
        (&["dump", &cid, &folder], 2),
        (&["dump", CID, &below(&folder)], 3),
        (&["fetch", &cid, "--out", &file], 2),
        (&["fetch", &cid, "--out", &good], 2),
    ];
    for (arguments, expected) in cases {
        let takes_fields = arguments.contains(&"files") || arguments.contains(&"file");
        let fields = if takes_fields { &of[..] } else { &[] };
        let output = run(home.path(), &[arguments, fields, &["--json"]].concat()).await;
        let said = json(&output);
        assert_eq!(
            output.status.code(),
            Some(*expected),
            "{arguments:?}: {said}"
        );
        assert!(said["error"]["hint"].is_string(), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn the_version_is_a_document_where_one_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["--json", "--version"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(json(&output)["version"], env!("CARGO_PKG_VERSION"));
    let plain = stdout(&run(home.path(), &["--version"]).await);
    assert_eq!(plain, format!("snapswarm {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_log_filter_that_is_none_is_refused_with_a_sentence() {
    let home = tempfile::tempdir().unwrap();
    let child = program(home.path())
        .env("SNAPSWARM_LOG", "snapswarm=loudly")
        .args(["list", "--json"])
        .spawn()
        .unwrap();
    let output = end_of(child).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        json(&output)["error"]["message"]
            .as_str()
            .unwrap()
            .contains("SNAPSWARM_LOG")
    );
}
