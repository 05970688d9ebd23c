//! Reading a file: groups, their links, their attributes.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr;

use hdf5_metno_sys::{h5, h5a, h5f, h5g, h5l, h5o, h5p, h5s, h5t};

use super::{Id, Library, Problem, access, c_path, check};

/// Where in its file an object begins.
#[derive(Clone, Copy)]
pub(in crate::xian) struct Token(h5o::H5O_token_t);

/// A link of a group.
#[derive(Clone, Copy)]
pub(in crate::xian) enum Found {
    /// To an object of this file.
    Object(Token),
    /// To whatever stands at some path.
    Soft,
    /// Into another file, or of a kind that only its maker knows.
    Foreign,
}

/// How a group keeps its links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::xian) enum Kind {
    /// In a tree sorted by name: the form of HDF5 before 1.8, which the chain writes.
    Sorted,
    /// A few, in the group itself.
    Few,
    /// In a heap, found by a hash of the name.
    Hashed,
}

/// What a group says of itself.
pub(in crate::xian) struct Shape {
    pub(in crate::xian) links: u64,
    pub(in crate::xian) kind: Kind,
}

/// What an object says of itself.
pub(in crate::xian) struct Facts {
    pub(in crate::xian) is_group: bool,
    /// Hard links to it.
    pub(in crate::xian) references: u32,
    pub(in crate::xian) attributes: u64,
}

/// A text in libhdf5's memory.
pub(in crate::xian) struct Text(*mut c_char);

impl Text {
    pub(in crate::xian) fn as_bytes(&self) -> &[u8] {
        if self.0.is_null() {
            return &[];
        }
        // SAFETY: libhdf5 ends what it gives with a zero byte.
        unsafe { CStr::from_ptr(self.0) }.to_bytes()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: it was allocated by libhdf5 and is freed once.
        unsafe { h5::H5free_memory(self.0.cast()) };
    }
}

/// What an attribute holds.
pub(in crate::xian) enum Attribute {
    Text(Text),
    Int(i64),
}

/// A file open for reading.
pub(in crate::xian) struct File<'l> {
    id: Id,
    library: &'l Library,
}

impl<'l> File<'l> {
    pub(in crate::xian) fn open(library: &'l Library, path: &Path) -> Result<Self, Problem> {
        let (path, access) = (c_path(path)?, access()?);
        // SAFETY: the path ends with a zero byte and outlives the call.
        let id = unsafe { h5f::H5Fopen(path.as_ptr(), h5f::H5F_ACC_RDONLY, access.0) };
        let id = Id::new(id, "it cannot be opened as HDF5")?;
        Ok(Self { id, library })
    }

    /// The group that all others hang on.
    pub(in crate::xian) fn root(&self) -> Result<Group<'_>, Problem> {
        // SAFETY: the name ends with a zero byte.
        let id = unsafe { h5o::H5Oopen(self.id.0, c"/".as_ptr(), h5p::H5P_DEFAULT) };
        Ok(Group {
            id: Id::new(id, "it has no root")?,
            library: self.library,
            _file: PhantomData,
        })
    }
}

/// A group, or another object that was opened as if it were one: see
/// [`Group::facts`].
pub(in crate::xian) struct Group<'f> {
    id: Id,
    library: &'f Library,
    _file: PhantomData<&'f File<'f>>,
}

impl<'f> Group<'f> {
    /// Opens what a link leads to.
    pub(in crate::xian) fn child(&self, token: Token) -> Result<Group<'f>, Problem> {
        // SAFETY: a plain call; libhdf5 checks the token against the file.
        let id = unsafe { h5o::H5Oopen_by_token(self.id.0, token.0) };
        Ok(Group {
            id: Id::new(id, "it cannot be opened")?,
            library: self.library,
            _file: PhantomData,
        })
    }

    pub(in crate::xian) fn facts(&self) -> Result<Facts, Problem> {
        let mut info = MaybeUninit::<h5o::H5O_info2_t>::zeroed();
        let wanted = h5o::H5O_INFO_BASIC | h5o::H5O_INFO_NUM_ATTRS;
        // SAFETY: the library fills what it is given; the kind of object, which Rust
        // may not know, is read as a number.
        unsafe {
            let status = h5o::H5Oget_info3(self.id.0, info.as_mut_ptr(), wanted);
            check(status, "it says nothing of itself")?;
            let info = info.as_ptr();
            let kind = (&raw const (*info).type_).cast::<i32>().read();
            Ok(Facts {
                is_group: kind == h5o::H5O_type_t::H5O_TYPE_GROUP as i32,
                references: (*info).rc,
                attributes: (*info).num_attrs,
            })
        }
    }

    pub(in crate::xian) fn shape(&self) -> Result<Shape, Problem> {
        let mut info = MaybeUninit::<h5g::H5G_info_t>::zeroed();
        // SAFETY: as above.
        unsafe {
            let status = h5g::H5Gget_info(self.id.0, info.as_mut_ptr());
            check(status, "its links cannot be counted")?;
            let info = info.as_ptr();
            let kind = (&raw const (*info).storage_type).cast::<i32>().read();
            let kind = match kind {
                0 => Kind::Sorted,
                1 => Kind::Few,
                2 => Kind::Hashed,
                other => return Err(format!("it keeps its links in a way {other} of its own")),
            };
            Ok(Shape {
                links: (*info).nlinks,
                kind,
            })
        }
    }

    /// Shows each link with its name, from number `start`, until `look` breaks. By
    /// name where the group keeps them so, in no order else.
    pub(in crate::xian) fn each_link(
        &self,
        kind: Kind,
        start: u64,
        mut look: &mut dyn FnMut(&[u8], Found) -> ControlFlow<()>,
    ) -> Result<(), Problem> {
        let by_name = h5::H5_index_t::H5_INDEX_NAME;
        let orders: &[_] = match kind {
            Kind::Sorted | Kind::Few => &[(by_name, h5::H5_iter_order_t::H5_ITER_INC)],
            // In the order of making the heap is read from its beginning to its end; by
            // hashes each link costs a block of 64 KiB with its checksum. Not every
            // group notes the order, and it is refused before the first link.
            Kind::Hashed => &[
                (
                    h5::H5_index_t::H5_INDEX_CRT_ORDER,
                    h5::H5_iter_order_t::H5_ITER_NATIVE,
                ),
                (by_name, h5::H5_iter_order_t::H5_ITER_NATIVE),
            ],
        };
        let mut told = Ok(());
        for (index, order) in orders {
            let mut at = start;
            let to = ptr::from_mut(&mut look).cast();
            // SAFETY: the callback gets a pointer to `look`, which outlives the call.
            let status =
                unsafe { h5l::H5Literate2(self.id.0, *index, *order, &raw mut at, Some(show), to) };
            told = check(status, "its links cannot be read");
            if told.is_ok() || at != start {
                break;
            }
        }
        told
    }

    /// What an attribute holds; nothing when the group does not have it.
    pub(in crate::xian) fn attribute(&self, name: &CStr) -> Result<Option<Attribute>, Problem> {
        // SAFETY: the name ends with a zero byte.
        let there = unsafe { h5a::H5Aexists(self.id.0, name.as_ptr()) };
        check(there, "its attributes cannot be read")?;
        if there == 0 {
            return Ok(None);
        }
        // SAFETY: what is read into is of the type that was just compared with the
        // attribute's own, and takes the one value that the space holds.
        unsafe {
            let id = h5a::H5Aopen(self.id.0, name.as_ptr(), h5p::H5P_DEFAULT);
            let attribute = Id::new(id, "it cannot be opened")?;
            let space = Id::new(h5a::H5Aget_space(attribute.0), "it has no shape")?;
            let kind = Id::new(h5a::H5Aget_type(attribute.0), "it has no type")?;
            if !yes(h5s::H5Sextent_equal(space.0, self.library.scalar.0))? {
                return Err("it is no single value".to_owned());
            }
            let is = |known| yes(h5t::H5Tequal(kind.0, known));
            if is(*h5t::H5T_STD_I64LE)? {
                let mut number = 0_i64;
                let to = ptr::from_mut(&mut number).cast();
                let status = h5a::H5Aread(attribute.0, *h5t::H5T_NATIVE_INT64, to);
                check(status, "it cannot be read")?;
                return Ok(Some(Attribute::Int(number)));
            }
            if !is(self.library.text.0)? {
                return Err("it is neither text of variable length nor a 64-bit integer".to_owned());
            }
            // As its own type: text that is marked as ASCII compares as equal to UTF-8, and
            // is not converted to it.
            let mut text = Text(ptr::null_mut());
            let status = h5a::H5Aread(attribute.0, kind.0, (&raw mut text.0).cast());
            check(status, "it cannot be read")?;
            Ok(Some(Attribute::Text(text)))
        }
    }
}

/// An answer of libhdf5: yes, no, or an error.
fn yes(answer: i32) -> Result<bool, Problem> {
    check(answer, "it cannot be compared")?;
    Ok(answer > 0)
}

/// Hands a link to the closure behind `look`, and says whether to go on.
extern "C" fn show(
    _: i64,
    name: *const c_char,
    info: *const h5l::H5L_info2_t,
    look: *mut c_void,
) -> i32 {
    // SAFETY: the name ends with a zero byte. The kind of a link stands in the file and
    // may be one that Rust does not know: it is read as a number. `look` is what
    // `each_link` passed.
    unsafe {
        let kind = (&raw const (*info).type_).cast::<i32>().read();
        let found = match kind {
            0 => Found::Object(Token(
                (&raw const (*info).u).cast::<h5o::H5O_token_t>().read(),
            )),
            1 => Found::Soft,
            _ => Found::Foreign,
        };
        let look = &mut *look.cast::<&mut dyn FnMut(&[u8], Found) -> ControlFlow<()>>();
        match look(CStr::from_ptr(name).to_bytes(), found) {
            ControlFlow::Continue(()) => 0,
            ControlFlow::Break(()) => 1,
        }
    }
}
