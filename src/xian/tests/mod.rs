//! Files that are made and read in one process.

mod foreign;
mod roundtrip;

use std::convert::Infallible;
use std::path::Path;

use bytes::Bytes;

use super::path;
use super::walk::{Ended, Seen, SeenStamp, Taker, walk};
use super::write::write;
use crate::state::{Key, Place, Record, Scope, Stamp, StampText};

/// Takes records as they are.
#[derive(Default)]
struct Taken(Vec<Record>);

impl Taker for Taken {
    type Error = Infallible;

    fn take(&mut self, seen: Seen<'_>) -> Result<(), Infallible> {
        let stamp = match seen.stamp {
            SeenStamp::Absent => Stamp::Absent,
            SeenStamp::Text(text) => {
                let text = std::str::from_utf8(text).unwrap();
                Stamp::Text(StampText::new(text).unwrap())
            }
            SeenStamp::Int(number) => Stamp::Int(number),
        };
        let value = seen.value.map(Bytes::copy_from_slice);
        self.0.push(record(seen.key, value, stamp));
        Ok(())
    }

    fn alive(&mut self) {}
}

fn record(key: &[u8], value: Option<Bytes>, stamp: Stamp) -> Record {
    let place = Place {
        scope: Scope::new("contract_state/con_x").unwrap(),
        key: Key::new(Bytes::copy_from_slice(key)).unwrap(),
    };
    Record::new(place, value, stamp).unwrap()
}

/// All records of a file; else the group and what is wrong with it.
fn read(file: &Path) -> Result<Vec<Record>, (String, String)> {
    let mut taken = Taken::default();
    match walk(file, &mut taken) {
        Ok(()) => Ok(taken.0),
        Err(Ended::Content { key, problem }) => Err((path::shown(&key), problem)),
        Err(Ended::Fault(error)) => panic!("{error}"),
        Err(Ended::Taker(never)) => match never {},
    }
}

/// Makes a file; else the group and what is wrong with it.
fn make(file: &Path, records: &[Record]) -> Result<(), (String, String)> {
    let mut records = records.iter().cloned();
    match write(file, || Ok::<_, Infallible>(records.next())) {
        Ok(()) => Ok(()),
        Err(Ended::Content { key, problem }) => Err((path::shown(&key), problem)),
        Err(Ended::Fault(error)) => panic!("{error}"),
        Err(Ended::Taker(never)) => match never {},
    }
}
