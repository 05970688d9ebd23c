//! The calls of libhdf5 that this room needs, wrapped so that no handle leaks and
//! nothing foreign is taken for what it is not.
//!
//! The crate's own safe interface takes names and texts of a file as UTF-8 without a
//! look, and costs twice the time; so these are the raw calls. Enumerations that a
//! file decides about are read as numbers: a value that Rust does not know must not
//! become one.
//!
//! libhdf5 is not made for hostile files: on a damaged one it may crash, or read what
//! it should not. Everything here therefore runs in worker processes; a test that runs
//! it in its own process reads files of its own.

mod read;
mod write;

pub(super) use read::{Attribute, File, Found, Group, Kind, Shape};
pub(super) use write::{NewFile, NewGroup};

use std::ffi::{CStr, CString, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use hdf5_metno_sys::{h5, h5ac, h5c, h5e, h5i, h5p, h5pl, h5s, h5t};

/// What of a file's structure libhdf5 keeps in memory: fixed, because its own way of
/// letting it grow makes a walk three times slower and takes ten times the memory.
///
/// | cache | records/s | memory |
/// |---|---|---|
/// | grows from 2 to 32 MiB (the default) | 33,000 | 167 MB |
/// | 8 MiB | 50,000 | 39 MB |
/// | 64 KiB to 2 MiB | 90,000 | 11 MB |
///
/// (50,000 keys in 313 MB as the chain writes them, one core.)
const CACHE_BYTES: usize = 512 << 10;

/// Why libhdf5 did not do something, in its own words.
pub(super) type Problem = String;

/// A handle, closed when dropped.
struct Id(i64);

impl Id {
    fn new(id: i64, what: &str) -> Result<Self, Problem> {
        if id < 0 {
            return Err(problem(what));
        }
        Ok(Self(id))
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and was not closed yet.
        unsafe { h5i::H5Idec_ref(self.0) };
    }
}

fn check(status: i32, what: &str) -> Result<(), Problem> {
    if status < 0 {
        return Err(problem(what));
    }
    Ok(())
}

/// What was tried, and the innermost reason that libhdf5 gives. Empties its list of
/// errors.
fn problem(what: &str) -> Problem {
    extern "C" fn first(_: u32, error: *const h5e::H5E_error2_t, found: *mut c_void) -> i32 {
        // SAFETY: `found` is the String below; the description is a C string or null.
        unsafe {
            let found = &mut *found.cast::<String>();
            let text = (*error).desc;
            if !text.is_null() {
                *found = CStr::from_ptr(text).to_string_lossy().into_owned();
            }
        }
        1
    }
    let mut reason = String::new();
    // SAFETY: the callback gets a pointer to a String that outlives the call.
    unsafe {
        let to = ptr::from_mut(&mut reason).cast();
        let upward = h5e::H5E_direction_t::H5E_WALK_UPWARD;
        h5e::H5Ewalk2(h5e::H5E_DEFAULT, upward, Some(first), to);
        h5e::H5Eclear2(h5e::H5E_DEFAULT);
    }
    if reason.is_empty() {
        return what.to_owned();
    }
    format!("{what}: {reason}")
}

/// What the system said, where that is the reason. libhdf5 promises to those who read
/// its texts that the number stands in them so (`HSYS_GOTO_ERROR` in its sources).
pub(super) fn system_error(problem: &Problem) -> Option<io::Error> {
    let (_, number) = problem.split_once("errno = ")?;
    let (number, _) = number.split_once(',')?;
    number.parse().ok().map(io::Error::from_raw_os_error)
}

/// The library, held by this thread alone.
pub(super) struct Library {
    /// Text of variable length, as the chain writes it.
    text: Id,
    /// One value, no array.
    scalar: Id,
}

impl Library {
    /// Runs `work` with the library. Other rooms use it in the same process, through
    /// a lock of the crate that is held meanwhile.
    pub(super) fn with<T>(work: impl FnOnce(&Self) -> Result<T, Problem>) -> Result<T, Problem> {
        let _only = hdf5_metno_sys::LOCK.lock();
        work(&Self::open()?)
    }

    fn open() -> Result<Self, Problem> {
        // SAFETY: the caller holds the lock; no memory of ours is passed.
        unsafe {
            // Before the first call, as the crate itself does it: a thread may be in the
            // library while the process ends. Later it changes nothing.
            h5::H5dont_atexit();
            check(h5::H5open(), "libhdf5 does not start")?;
            // Errors are told by values, not on stderr.
            h5e::H5Eset_auto2(h5e::H5E_DEFAULT, None, ptr::null_mut());
            // A mask, which the crate declares as a pointer: no file makes the process
            // load code.
            h5pl::H5PLset_loading_state(ptr::null_mut());
            Ok(Self {
                text: text_type()?,
                scalar: Id::new(h5s::H5Screate(h5s::H5S_class_t::H5S_SCALAR), "no space")?,
            })
        }
    }
}

fn text_type() -> Result<Id, Problem> {
    // SAFETY: plain calls of the library, which is open.
    unsafe {
        let text = Id::new(h5t::H5Tcopy(*h5t::H5T_C_S1), "no text type")?;
        check(h5t::H5Tset_size(text.0, h5t::H5T_VARIABLE), "no text type")?;
        let charset = h5t::H5T_cset_t::H5T_CSET_UTF8;
        check(h5t::H5Tset_cset(text.0, charset), "no text type")?;
        Ok(text)
    }
}

/// How files are opened, for reading and for writing.
fn access() -> Result<Id, Problem> {
    // SAFETY: plain calls; `cache` is filled by the library before it is read.
    unsafe {
        let access = Id::new(h5p::H5Pcreate(*h5p::H5P_CLS_FILE_ACCESS), "no access list")?;
        check(h5p::H5Pset_fapl_sec2(access.0), "no driver")?;
        // A lock would stop others from opening a file that is only read.
        check(
            h5p::H5Pset_file_locking(access.0, 0, 1),
            "no way around locks",
        )?;
        let mut cache = h5ac::H5AC_cache_config_t {
            version: h5ac::H5AC__CURR_CACHE_CONFIG_VERSION,
            ..Default::default()
        };
        check(h5p::H5Pget_mdc_config(access.0, &raw mut cache), "no cache")?;
        cache.set_initial_size = 1;
        cache.initial_size = CACHE_BYTES;
        cache.min_size = CACHE_BYTES;
        cache.max_size = CACHE_BYTES;
        cache.incr_mode = h5c::H5C_cache_incr_mode::H5C_incr__off;
        cache.flash_incr_mode = h5c::H5C_cache_flash_incr_mode::H5C_flash_incr__off;
        cache.decr_mode = h5c::H5C_cache_decr_mode::H5C_decr__off;
        check(h5p::H5Pset_mdc_config(access.0, &raw mut cache), "no cache")?;
        Ok(access)
    }
}

fn c_path(path: &Path) -> Result<CString, Problem> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| "its path has a zero byte".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_heard_through_the_words_of_libhdf5() {
        let path = std::env::temp_dir().join("no such folder/file");
        let made = Library::with(|library| NewFile::create(library, &path).map(drop));
        let error = system_error(&made.unwrap_err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for other in ["it cannot be made: name already exists", "errno = x, y", ""] {
            assert!(system_error(&other.to_owned()).is_none(), "{other}");
        }
    }
}
