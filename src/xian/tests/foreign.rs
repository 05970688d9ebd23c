//! Files that the chain's code did not make.

use std::path::PathBuf;
use std::str::FromStr;

use hdf5_metno::file::{FileBuilder, LibraryVersion};
use hdf5_metno::types::{FixedAscii, VarLenAscii, VarLenUnicode};
use hdf5_metno::{File, Group, H5Type};

use super::*;

/// A file of the old format, as the chain's code makes it, with what `fill` puts in.
fn file_with(fill: impl FnOnce(&File) -> hdf5_metno::Result<()>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("con_x");
    let file = FileBuilder::new()
        .with_fapl(|access| access.libver_bounds(LibraryVersion::Earliest, LibraryVersion::V110))
        .create(&path)
        .unwrap();
    fill(&file).unwrap();
    file.close().unwrap();
    (folder, path)
}

fn set<T: H5Type>(group: &Group, name: &str, value: &T) -> hdf5_metno::Result<()> {
    group.new_attr::<T>().create(name)?.write_scalar(value)
}

fn unicode(text: &str) -> VarLenUnicode {
    VarLenUnicode::from_str(text).unwrap()
}

/// What is wrong, and with which group.
fn wrong(fill: impl FnOnce(&File) -> hdf5_metno::Result<()>) -> (String, String) {
    let (_folder, path) = file_with(fill);
    read(&path).unwrap_err()
}

#[test]
fn a_file_of_the_old_format_is_read_in_order() {
    let (_folder, path) = file_with(|file| {
        for name in ["b", "a/c", "a/b", "a!"] {
            let group = file.create_group(name)?;
            set(&group, "value", &unicode(name))?;
            set(&group, "block", &7_i64)?;
        }
        file.create_group("empty/below")?;
        set(&file.group("a")?, "block", &unicode("9"))
    });
    let found = read(&path).unwrap();
    let keys: Vec<&[u8]> = found.iter().map(|record| record.key().as_bytes()).collect();
    assert_eq!(keys, [&b"a"[..], b"a\0b", b"a\0c", b"a!", b"b"]);
    assert_eq!(found[0].value(), None);
    assert_eq!(found[0].stamp(), &Stamp::Text(StampText::new("9").unwrap()));
    assert_eq!(found[1].value().unwrap(), "a/b");
    assert_eq!(found[1].stamp(), &Stamp::Int(7));
}

#[test]
fn a_large_group_of_the_old_format_comes_in_portions() {
    let above = ["above"; 12].join("/");
    let (_folder, path) = file_with(|file| {
        let group = file.create_group(&above)?;
        for number in 0..8000 {
            let child = group.create_group(&format!("{number:05}-{}", "x".repeat(50)))?;
            set(&child, "block", &1_i64)?;
        }
        Ok(())
    });
    let found = read(&path).unwrap();
    assert_eq!(found.len(), 8000);
    assert!(found.is_sorted_by(|one, other| one.key() < other.key()));
}

#[test]
fn ascii_text_is_text() {
    let (_folder, path) = file_with(|file| {
        let group = file.create_group("a")?;
        set(&group, "value", &VarLenAscii::from_ascii("1").unwrap())?;
        set(&file.create_group("b")?, "value", &unicode("2"))
    });
    let found = read(&path).unwrap();
    assert_eq!(found[0].value().unwrap(), "1");
    assert_eq!(found[1].value().unwrap(), "2");
}

#[test]
fn links_other_than_the_chains_are_refused_with_their_group() {
    let (group, problem) = wrong(|file| {
        file.create_group("a")?;
        file.link_soft("/a", "soft")
    });
    assert_eq!((&group[..], problem.contains("soft link")), ("/soft", true));
    let (group, problem) = wrong(|file| file.link_external("other", "/", "far"));
    assert_eq!(
        (&group[..], problem.contains("another file")),
        ("/far", true)
    );
}

#[test]
fn links_in_circles_and_to_one_group_twice_are_refused() {
    let (group, problem) = wrong(|file| {
        file.create_group("a/b")?;
        file.link_hard("/a", "/a/b/a")
    });
    assert_eq!(
        (&group[..], problem.contains("2 links")),
        ("/a", true),
        "{problem}"
    );
    let (group, problem) = wrong(|file| file.link_hard("/", "/root"));
    assert_eq!(
        (&group[..], problem.contains("2 links")),
        ("/", true),
        "{problem}"
    );
    let (_, problem) = wrong(|file| {
        file.create_group("a")?;
        file.link_hard("/a", "/b")
    });
    assert!(problem.contains("2 links"), "{problem}");
}

#[test]
fn groups_deeper_than_any_key_are_refused() {
    let (group, problem) = wrong(|file| {
        let mut group = file.create_group("g")?;
        for _ in 0..1100 {
            group = group.create_group("g")?;
        }
        Ok(())
    });
    assert!(group.starts_with("/g/g"), "{group}");
    assert!(problem.contains("deeper"), "{problem}");
}

#[test]
fn other_objects_are_refused() {
    let (group, problem) = wrong(|file| file.new_dataset::<u8>().shape(3).create("data").map(drop));
    assert_eq!((&group[..], problem.contains("no group")), ("/data", true));
    let (group, problem) = wrong(|file| {
        let kind = hdf5_metno::Datatype::from_type::<i64>()?;
        let (name, list) = (c"kind".as_ptr(), hdf5_metno_sys::h5p::H5P_DEFAULT);
        let _only = hdf5_metno_sys::LOCK.lock();
        // SAFETY: both handles are open; the name ends with a zero byte; no other thread is
        // in the library.
        let status = unsafe {
            hdf5_metno_sys::h5t::H5Tcommit2(file.id(), name, kind.id(), list, list, list)
        };
        assert!(status >= 0);
        Ok(())
    });
    assert_eq!((&group[..], problem.contains("no group")), ("/kind", true));
}

#[test]
fn attributes_of_other_types_are_refused() {
    fn about<T: H5Type>(name: &str, value: &T) -> String {
        let (group, problem) = wrong(|file| set(&file.create_group("a")?, name, value));
        assert_eq!(group, "/a");
        assert!(problem.contains(&format!("attribute {name}")), "{problem}");
        problem
    }
    about("value", &FixedAscii::<8>::from_ascii("text").unwrap());
    about("value", &1.5_f64);
    about("block", &1_i32);
    about("block", &1_u64);
    about("block", &true);
    about("block", &[1_i64; 1]);
    let (_, problem) = wrong(|file| set(&file.create_group("a")?, "value", &1_i64));
    assert!(problem.contains("a number"), "{problem}");
    let (_, problem) = wrong(|file| {
        let group = file.create_group("a")?;
        let attribute = group.new_attr::<i64>().shape(3).create("block")?;
        attribute.write(&[1_i64, 2, 3])
    });
    assert!(problem.contains("single value"), "{problem}");
    let (_, problem) = wrong(|file| set(&file.create_group("a")?, "else", &1_i64));
    assert!(problem.contains("beside value and block"), "{problem}");
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    for name in ["value", "block"] {
        let (_folder, path) =
            file_with(|file| set(&file.create_group("a")?, name, &unicode("needle-needle")));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(13).position(|part| part == b"needle-needle");
        bytes[at.unwrap()] = 0xff;
        std::fs::write(&path, bytes).unwrap();
        let (group, problem) = read(&path).unwrap_err();
        assert_eq!(group, "/a");
        assert!(
            problem.contains(&format!("{name} is not UTF-8")),
            "{problem}"
        );
    }
}

#[test]
fn a_name_that_is_not_utf_8_is_refused() {
    let (_folder, path) = file_with(|file| file.create_group("needle-needle").map(drop));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(13).position(|part| part == b"needle-needle");
    bytes[at.unwrap()] = 0xff;
    std::fs::write(&path, bytes).unwrap();
    let (group, problem) = read(&path).unwrap_err();
    assert_eq!(group, "/\\xffeedle-needle");
    assert!(problem.contains("not UTF-8"), "{problem}");
}

#[test]
fn what_is_no_hdf5_and_a_file_that_was_cut_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("con_x");
    for bytes in [&b""[..], b"SQLite format 3\0"] {
        std::fs::write(&path, bytes).unwrap();
        let (group, problem) = read(&path).unwrap_err();
        assert_eq!(
            (&group[..], problem.contains("HDF5")),
            ("/", true),
            "{problem}"
        );
    }
}

#[test]
fn what_the_system_does_not_open_is_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let ended = walk(&folder.path().join("missing"), &mut Taken::default());
    let Err(Ended::Fault(error)) = ended else {
        panic!("a missing file was walked, or called damaged");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
