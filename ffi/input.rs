//! Structs, strings and arrays as they come from the caller: checked as far as C lets a callee check, then copied or lent.
//!
//! A struct's first field is its size as the caller knows it. Shorter than ours: the missing fields are zero. Longer: what
//! we do not know must be zero. So old and new callers and libraries mix, and nothing is silently left out.

use crate::abi::*;
use aieng_runtime::{Error, Result};
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// AIENG_STRLEN: the string ends at its NUL.
pub(crate) const STRLEN: usize = usize::MAX;

/// A struct_size above this is taken for memory that nobody has written.
const MAX_STRUCT_SIZE: usize = 4096;

/// A struct that begins with `uint32_t struct_size`.
///
/// # Safety
/// `repr(C)`, begins with a `u32`, and is valid for all bytes: integers, floats, raw pointers and optional function pointers
/// (whose every value but NULL is the caller's word that there is such a function).
pub(crate) unsafe trait Versioned: Copy {
    /// Its size when it was first released. Never changed.
    const FIRST_SIZE: usize;
}

/// Structs, and their sizes when they were first released.
macro_rules! versioned {
    ($($name:ident $size:literal)*) => {
        $(
            // SAFETY: `repr(C)`, `struct_size` first, and integers, floats, raw pointers and optional function pointers
            // only: see abi.rs.
            unsafe impl Versioned for $name {
                const FIRST_SIZE: usize = $size;
            }
        )*
    };
}

versioned! {
    aieng_build_info 56
    aieng_engine_config 152
    aieng_engine_info 112
    aieng_sampling 120
    aieng_message 40
    aieng_request 112
    aieng_event 80
    aieng_metrics 944
}

pub(crate) fn invalid(what: String) -> Error {
    Error::InvalidArgument(what)
}

/// A copy of the struct at `at`, fields that the caller does not know being zero.
///
/// # Safety
/// `at` is NULL, or points to as many readable bytes as the `u32` there says, and to that `u32`.
pub(crate) unsafe fn read<T: Versioned>(name: &str, at: *const T) -> Result<T> {
    // SAFETY: passed on.
    let size = unsafe { struct_size(name, at) }?;
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `size` bytes are readable at `at`, `size_of::<T>()` writable in `value`, and one is a local variable.
    unsafe { at.cast::<u8>().copy_to_nonoverlapping(value.as_mut_ptr().cast(), size.min(size_of::<T>())) };
    // SAFETY: all of it is initialised, by zeroes or by the copy, and any bytes are a valid `T`.
    Ok(unsafe { value.assume_init() })
}

/// Overwrites the struct at `at`, as much of it as the caller knows, but for its `struct_size`.
///
/// # Safety
/// [`struct_size`] has accepted `at`, whose bytes are writable.
pub(crate) unsafe fn write<T: Versioned>(at: *mut T, value: &T) {
    // SAFETY: `at` holds its size, and at least `FIRST_SIZE` bytes.
    let size = unsafe { at.cast::<u32>().read_unaligned() } as usize;
    let known = size.min(size_of::<T>());
    let skip = size_of::<u32>();
    // SAFETY: `known` bytes are readable in `value` and writable at `at`; a `&T` does not alias what is written.
    unsafe {
        let source = std::ptr::from_ref(value).cast::<u8>().add(skip);
        source.copy_to_nonoverlapping(at.cast::<u8>().add(skip), known - skip);
    }
}

/// Fills in the caller's struct, after checking it.
///
/// # Safety
/// As for [`read`], and the bytes are writable.
pub(crate) unsafe fn put<T: Versioned>(name: &str, at: *mut T, value: &T) -> Result<()> {
    // SAFETY: passed on.
    unsafe {
        struct_size(name, at)?;
        write(at, value);
    }
    Ok(())
}

/// The size of the struct at `at`, which is one that [`read`] accepts.
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn struct_size<T: Versioned>(name: &str, at: *const T) -> Result<usize> {
    if at.is_null() {
        return Err(invalid(format!("{name}: NULL")));
    }
    // SAFETY: not NULL, so at least the size is there.
    let size = unsafe { at.cast::<u32>().read_unaligned() } as usize;
    let known = size_of::<T>();
    if size < T::FIRST_SIZE || size > MAX_STRUCT_SIZE {
        return Err(invalid(format!("{name}.struct_size: {size}, where sizeof is {known} (was it set?)")));
    }
    for offset in known..size {
        // SAFETY: inside the `size` bytes that the caller vouches for.
        if unsafe { at.cast::<u8>().add(offset).read() } != 0 {
            return Err(invalid(format!(
                "{name}.struct_size: {size}, but this library knows {known} bytes of it (ABI {AIENG_ABI_VERSION}), and \
                 byte {offset} is not zero"
            )));
        }
    }
    Ok(size)
}

/// The elements of an array of structs, each as large as the first says.
///
/// # Safety
/// `at` is NULL, or points to `count` structs that [`read`] may be called on.
pub(crate) unsafe fn read_all<T: Versioned>(name: &str, at: *const T, count: usize) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: passed on; there is a first element.
    let stride = unsafe { struct_size(name, at) }?;
    if count > isize::MAX as usize / stride {
        return Err(invalid(format!("{name}: {count} elements are more than memory can hold")));
    }
    let mut all = Vec::new();
    reserve(name, &mut all, count)?;
    for i in 0..count {
        // SAFETY: inside the array, whose elements are `stride` apart.
        let (element, size) = unsafe {
            let element = at.byte_add(i * stride);
            (element, element.cast::<u32>().read_unaligned() as usize)
        };
        if size != stride {
            return Err(invalid(format!("{name}[{i}].struct_size: {size}, but the first element's is {stride}")));
        }
        // SAFETY: as above.
        all.push(unsafe { read(name, element) }?);
    }
    Ok(all)
}

/// Fills the caller's buffer as snprintf() does: `count` is how many values there are, and as many are written as it has
/// room for.
///
/// # Safety
/// `buffer` is NULL or has room for `capacity` values, `count` is NULL or has room for one.
pub(crate) unsafe fn fill<T: Copy>(
    name: &str,
    buffer: *mut T,
    capacity: usize,
    count: *mut usize,
    values: &[T],
) -> Result<()> {
    check_buffer(name, buffer, capacity, count)?;
    let written = &values[..capacity.min(values.len())];
    // SAFETY: `check_buffer` has seen that there is room, which is the caller's own memory.
    unsafe {
        count.write_unaligned(values.len());
        if !written.is_empty() {
            buffer.cast::<u8>().copy_from_nonoverlapping(written.as_ptr().cast(), size_of_val(written));
        }
    }
    Ok(())
}

/// As [`fill`], for text: cut between characters, and with a NUL behind it.
///
/// # Safety
/// As for [`fill`].
pub(crate) unsafe fn fill_text(buffer: *mut c_char, capacity: usize, length: *mut usize, text: &str) -> Result<()> {
    check_buffer("text", buffer, capacity, length)?;
    let room = text.floor_char_boundary(capacity.saturating_sub(1));
    // SAFETY: there is room for `room` bytes and a NUL, or for nothing.
    unsafe {
        length.write_unaligned(text.len());
        if capacity > 0 {
            buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), room);
            buffer.add(room).write(0);
        }
    }
    Ok(())
}

/// Refuses what nothing can be written to.
pub(crate) fn check_buffer<T>(name: &str, buffer: *mut T, capacity: usize, count: *mut usize) -> Result<()> {
    if count.is_null() {
        let what = if name == "text" { "text_length" } else { "count" };
        return Err(invalid(format!("{what}: NULL")));
    }
    if buffer.is_null() && capacity != 0 {
        return Err(invalid(format!("{name}: NULL, but capacity is {capacity}")));
    }
    Ok(())
}

/// Makes room for `count` more elements.
pub(crate) fn reserve<T>(name: &str, list: &mut Vec<T>, count: usize) -> Result<()> {
    list.try_reserve_exact(count).map_err(|_| Error::OutOfMemory(format!("{name}: no memory for {count} elements")))
}

/// The array of `count` plain values.
///
/// # Safety
/// `at` is NULL, or points to `count` values that nobody changes for `'a`; any bytes are a valid `T`.
pub(crate) unsafe fn slice<'a, T>(name: &str, at: *const T, count: usize) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if at.is_null() {
        return Err(invalid(format!("{name}: NULL, but its count is not 0")));
    }
    if !at.is_aligned() || count > isize::MAX as usize / size_of::<T>() {
        return Err(invalid(format!("{name}: {count} elements at {at:p} cannot be an array")));
    }
    // SAFETY: `count` values are there, aligned, and no more bytes than a slice may have.
    Ok(unsafe { std::slice::from_raw_parts(at, count) })
}

/// The UTF-8 string of `length` bytes, or up to its NUL for [`STRLEN`].
///
/// # Safety
/// `at` is NULL, or points to such a string that nobody changes for `'a`.
pub(crate) unsafe fn text<'a>(name: &str, at: *const c_char, length: usize) -> Result<&'a str> {
    let bytes = if length == STRLEN && !at.is_null() {
        // SAFETY: not NULL, and its length says that it ends in NUL.
        unsafe { CStr::from_ptr(at) }.to_bytes()
    } else {
        // SAFETY: passed on; any bytes are valid `u8`.
        unsafe { slice(name, at.cast::<u8>(), length) }?
    };
    std::str::from_utf8(bytes).map_err(|error| invalid(format!("{name}: not UTF-8 at byte {}", error.valid_up_to())))
}

/// A copy of a string.
pub(crate) fn owned(name: &str, text: &str) -> Result<String> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len())
        .map_err(|_| Error::OutOfMemory(format!("{name}: no memory for {} bytes", text.len())))?;
    copy.push_str(text);
    Ok(copy)
}

/// The value of a field, or its default where it is zero.
pub(crate) fn or<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

/// A struct of the ABI with nothing in it.
pub(crate) fn zero<T: Versioned>() -> T {
    // SAFETY: any bytes are a valid `T`, and NULL is no function.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Refuses flag bits that this library does not know.
pub(crate) fn known_flags(name: &str, flags: u32, known: u32) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(invalid(format!("{name}: unknown bits {unknown:#x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct whose first release ended after `a`.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Grown {
        struct_size: u32,
        a: u32,
        b: u64,
    }

    // SAFETY: `repr(C)`, `struct_size` first, integers only.
    unsafe impl Versioned for Grown {
        const FIRST_SIZE: usize = 8;
    }

    /// Reads the struct from these words, of which the first is its size.
    fn read_words(words: &[u32]) -> Result<Grown> {
        assert!(words[0] as usize <= size_of_val(words) || words[0] > 4096);
        // SAFETY: as many bytes as the first word says are there, or else it says more than is ever read.
        unsafe { read("grown", words.as_ptr().cast()) }
    }

    #[test]
    fn an_older_callers_struct_ends_in_zeroes() {
        assert_eq!(read_words(&[8, 1]).unwrap(), Grown { struct_size: 8, a: 1, b: 0 });
        assert_eq!(read_words(&[12, 1, 2]).unwrap(), Grown { struct_size: 12, a: 1, b: 2 });
        assert_eq!(read_words(&[16, 1, 2, 3]).unwrap(), Grown { struct_size: 16, a: 1, b: 2 | 3 << 32 });
    }

    #[test]
    fn a_newer_callers_struct_must_not_use_what_is_new() {
        assert_eq!(read_words(&[24, 1, 2, 3, 0, 0]).unwrap().b, 2 | 3 << 32);
        let refused = read_words(&[24, 1, 2, 3, 0, 1 << 24]).unwrap_err().to_string();
        assert!(refused.starts_with("grown.struct_size: 24, but this library knows 16 bytes"), "{refused}");
        assert!(refused.ends_with("byte 23 is not zero"), "{refused}");
    }

    #[test]
    fn a_size_that_cannot_be_is_refused() {
        for size in [0, 4, 7, 4097, u32::MAX] {
            let refused = read_words(&[size, 1]).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("grown.struct_size: {size}, where sizeof is 16")), "{refused}");
        }
    }

    #[test]
    fn writing_stays_inside_the_callers_struct() {
        let value = Grown { struct_size: 99, a: 7, b: u64::MAX };
        let mut words = [12u32, 0, 0, 5, 5];
        // SAFETY: twelve bytes are there.
        unsafe { write(words.as_mut_ptr().cast(), &value) };
        assert_eq!(words, [12, 7, u32::MAX, 5, 5]);
    }

    #[test]
    fn elements_have_the_size_that_the_first_has() {
        let words = [12u32, 1, 2, 12, 3, 4, 16, 5, 6, 7];
        // SAFETY: two, and three, structs are there.
        let (two, three) = unsafe {
            (read_all::<Grown>("g", words.as_ptr().cast(), 2), read_all::<Grown>("g", words.as_ptr().cast(), 3))
        };
        let two: Vec<u32> = two.unwrap().iter().map(|grown| grown.a).collect();
        assert_eq!(two, [1, 3]);
        assert_eq!(three.unwrap_err().to_string(), "g[2].struct_size: 16, but the first element's is 12");
    }
}
