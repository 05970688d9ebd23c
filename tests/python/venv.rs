//! A Python of our own for tests that compare with other implementations.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The `python` of a virtual environment in the target folder that has the
/// packages of `requirements.txt`. Made once; made again when they change.
pub fn python() -> PathBuf {
    let requirements = include_str!("requirements.txt");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    // Tests run side by side.
    let lock = File::create(folder.join("lock")).expect("the target folder is writable");
    lock.lock().expect("a file can be locked");
    let venv = folder.join("venv");
    let python = venv.join("bin/python");
    let done = folder.join("requirements.txt");
    if std::fs::read_to_string(&done).is_ok_and(|made| made == requirements) {
        return python;
    }
    let wanted = folder.join("wanted.txt");
    std::fs::write(&wanted, requirements).expect("the target folder is writable");
    run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
        "python3 with its venv module (Debian: apt-get install python3-venv)",
    );
    run(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .arg("--requirement")
            .arg(&wanted),
        "pip that reaches a package index",
    );
    std::fs::rename(&wanted, &done).expect("the target folder is writable");
    python
}

fn run(command: &mut Command, needed: &str) {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("this test needs {needed}: {shown}: {error}"));
    assert!(
        output.status.success(),
        "this test needs {needed}: {shown}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
