//! Making a file as compact as the chain's own code still reads and writes: the
//! format of HDF5 1.8, neither older nor newer.
//!
//! An older one takes 6 KB for each key, a newer one carries a mark that locks readers
//! out after a crash.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr;

use hdf5_metno_sys::{h5a, h5f, h5g, h5o, h5p, h5t};

use super::{Id, Library, Problem, access, c_path, check};

/// A file that is being made.
pub(in crate::xian) struct NewFile<'l> {
    id: Id,
    library: &'l Library,
    /// How a group is made that will have children: it notes the order of their
    /// making, so that they can be read again from the first to the last byte.
    parent: Id,
    /// How one is made that will have none.
    leaf: Id,
    /// Names that are not ASCII are marked as UTF-8.
    utf8: Id,
}

impl<'l> NewFile<'l> {
    /// Begins a file at `path`, where none may be.
    pub(in crate::xian) fn create(library: &'l Library, path: &Path) -> Result<Self, Problem> {
        let (path, access) = (c_path(path)?, access()?);
        // SAFETY: plain calls; the path ends with a zero byte and outlives them.
        unsafe {
            let v18 = h5f::H5F_libver_t::H5F_LIBVER_V18;
            check(h5p::H5Pset_libver_bounds(access.0, v18, v18), "no format")?;
            let strong = h5f::H5F_close_degree_t::H5F_CLOSE_STRONG;
            check(h5p::H5Pset_fclose_degree(access.0, strong), "no end")?;
            let create = Id::new(h5p::H5Pcreate(*h5p::H5P_CLS_FILE_CREATE), "no list")?;
            check(h5p::H5Pset_obj_track_times(create.0, 0), "no list")?;
            note_order(&create)?;
            let leaf = Id::new(h5p::H5Pcreate(*h5p::H5P_CLS_GROUP_CREATE), "no list")?;
            check(h5p::H5Pset_obj_track_times(leaf.0, 0), "no list")?;
            let parent = Id::new(h5p::H5Pcopy(leaf.0), "no list")?;
            note_order(&parent)?;
            let utf8 = Id::new(h5p::H5Pcreate(*h5p::H5P_CLS_LINK_CREATE), "no list")?;
            let charset = h5t::H5T_cset_t::H5T_CSET_UTF8;
            check(h5p::H5Pset_char_encoding(utf8.0, charset), "no list")?;
            let id = h5f::H5Fcreate(path.as_ptr(), h5f::H5F_ACC_EXCL, create.0, access.0);
            Ok(Self {
                id: Id::new(id, "it cannot be created")?,
                library,
                parent,
                leaf,
                utf8,
            })
        }
    }

    pub(in crate::xian) fn root(&self) -> Result<NewGroup<'_>, Problem> {
        // SAFETY: the name ends with a zero byte.
        let id = unsafe { h5o::H5Oopen(self.id.0, c"/".as_ptr(), h5p::H5P_DEFAULT) };
        Ok(NewGroup {
            id: Id::new(id, "it has no root")?,
            file: self,
        })
    }

    /// Writes what is left. The bytes are the system's then, not yet the disk's.
    pub(in crate::xian) fn close(self) -> Result<(), Problem> {
        // SAFETY: a plain call; no group of the file is open, for they borrow it.
        let status = unsafe { h5f::H5Fflush(self.id.0, h5f::H5F_scope_t::H5F_SCOPE_GLOBAL) };
        check(status, "it cannot be written")?;
        let id = self.id.0;
        std::mem::forget(self.id);
        // SAFETY: the handle is closed here and nowhere else.
        check(unsafe { h5f::H5Fclose(id) }, "it cannot be closed")
    }
}

fn note_order(list: &Id) -> Result<(), Problem> {
    let order = h5p::H5P_CRT_ORDER_TRACKED | h5p::H5P_CRT_ORDER_INDEXED;
    // SAFETY: a plain call.
    let status = unsafe { h5p::H5Pset_link_creation_order(list.0, order) };
    check(status, "no order")
}

/// A group of it.
pub(in crate::xian) struct NewGroup<'f> {
    id: Id,
    file: &'f NewFile<'f>,
}

impl<'f> NewGroup<'f> {
    /// Makes a group in it.
    pub(in crate::xian) fn group(
        &self,
        name: &str,
        has_children: bool,
    ) -> Result<NewGroup<'f>, Problem> {
        let c_name = text(name.as_bytes())?;
        let lists = &self.file;
        let link = match name.is_ascii() {
            true => h5p::H5P_DEFAULT,
            false => lists.utf8.0,
        };
        let create = if has_children {
            &lists.parent
        } else {
            &lists.leaf
        };
        let name = c_name.as_ptr();
        // SAFETY: the name ends with a zero byte and outlives the call.
        let id = unsafe { h5g::H5Gcreate2(self.id.0, name, link, create.0, h5p::H5P_DEFAULT) };
        Ok(NewGroup {
            id: Id::new(id, "it cannot be made")?,
            file: self.file,
        })
    }

    /// Gives it an attribute of text.
    pub(in crate::xian) fn set_text(&self, name: &CStr, value: &[u8]) -> Result<(), Problem> {
        let value = text(value)?;
        let from: *const c_char = value.as_ptr();
        let kind = self.file.library.text.0;
        self.set(name, kind, kind, (&raw const from).cast())
    }

    /// Gives it an attribute that is a number.
    pub(in crate::xian) fn set_int(&self, name: &CStr, value: i64) -> Result<(), Problem> {
        let kind = (*h5t::H5T_STD_I64LE, *h5t::H5T_NATIVE_INT64);
        self.set(name, kind.0, kind.1, ptr::from_ref(&value).cast())
    }

    fn set(
        &self,
        name: &CStr,
        in_file: i64,
        in_memory: i64,
        from: *const std::ffi::c_void,
    ) -> Result<(), Problem> {
        let (list, space) = (h5p::H5P_DEFAULT, self.file.library.scalar.0);
        // SAFETY: the name ends with a zero byte; `from` points to one value of the type
        // `in_memory`, and all outlive the calls.
        unsafe {
            let id = h5a::H5Acreate2(self.id.0, name.as_ptr(), in_file, space, list, list);
            let attribute = Id::new(id, "an attribute cannot be made")?;
            let status = h5a::H5Awrite(attribute.0, in_memory, from);
            check(status, "an attribute cannot be written")
        }
    }
}

fn text(bytes: &[u8]) -> Result<CString, Problem> {
    CString::new(bytes).map_err(|_| "a zero byte stands in it; HDF5's texts end there".to_owned())
}
