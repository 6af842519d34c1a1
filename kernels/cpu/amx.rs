//! AMX: eight registers, each a tile of up to 16 rows of 64 bytes, and products of tiles of bytes.
//!
//! A core keeps the shapes of its tiles and their contents from one instruction to the next. Nothing but this module touches
//! them: the compiler has no registers of that kind where AMX is not enabled, and it is enabled nowhere. So what a tile holds
//! lives on between the functions here, as long as a [`TileKernel`] runs.

use super::avx512;
pub use super::avx512::Avx512;
use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile: sums of as many rows of activations, and of as many outputs.
pub const TILE_ROWS: usize = 16;

/// Vectors beside tiles.
pub type V = Avx512<false>;

/// Whether this machine has AMX with products of bytes, beside AVX-512 with BF16, and the kernel lets this process use it. Linux
/// wants to be asked, since a thread's state grows by 8 KiB: where a thread has a signal stack too small for that, it refuses.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // Leaf 7, EDX: bit 24 is AMX-TILE, bit 25 AMX-INT8.
        let tiles_of_bytes = std::arch::x86_64::__cpuid_count(7, 0).edx >> 24 & 3 == 3;
        avx512::has_bf16() && tiles_of_bytes && permitted()
    })
}

#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// A kernel that computes with tiles beside vectors. As for [`super::Kernel`], all that it calls must be `#[inline(always)]`.
pub trait TileKernel {
    /// Bytes of a row of the left tiles; a fourth of them are the rows of the right ones. At most 64.
    const DEPTH: usize;

    /// # Safety
    /// Needs [`is_available`], and tiles of these shapes: [`SUMS`], [`LEFT`], [`RIGHT`].
    unsafe fn run(self);
}

/// The tiles that hold 16 times 16 sums of 32 bits.
pub const SUMS: [u8; 3] = [0, 1, 2];
/// Those of 16 rows of [`TileKernel::DEPTH`] bytes.
pub const LEFT: [u8; 3] = [3, 4, 5];
/// Those of [`TileKernel::DEPTH`] / 4 rows of 16 words of four bytes.
pub const RIGHT: [u8; 2] = [6, 7];

/// Runs `kernel`. Panics where AMX is not available.
pub fn run<K: TileKernel>(kernel: K) {
    assert!(is_available(), "no AMX on this machine");
    let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    for tile in 0..8 {
        shapes.rows[tile] = if RIGHT.contains(&(tile as u8)) { K::DEPTH / 4 } else { TILE_ROWS } as u8;
        shapes.row_bytes[tile] = if LEFT.contains(&(tile as u8)) { K::DEPTH } else { 64 } as u16;
    }
    // SAFETY: available; the shapes are within palette 1's, and the kernel's.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, preserves_flags, readonly));
        enter(kernel);
        // Else every switch between threads would save and restore the tiles.
        asm!("tilerelease", options(nostack, preserves_flags, nomem));
    }
}

/// What `ldtilecfg` reads.
#[repr(C)]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// # Safety
/// As [`TileKernel::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")]
unsafe fn enter<K: TileKernel>(kernel: K) {
    // SAFETY: the caller's.
    unsafe { kernel.run() }
}

/// Loads tile T, whose rows are `stride` bytes apart.
///
/// # Safety
/// Needs to be called by a [`TileKernel`], as all below; the tile's bytes must be there.
#[inline(always)]
pub unsafe fn load<const T: u8>(p: *const u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tileloadd tmm{t}, [{p} + {stride}]", t = const T, p = in(reg) p, stride = in(reg) stride,
            options(nostack, preserves_flags, readonly));
    }
}

/// Writes the rows of tile T, 64 bytes each, side by side.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn store<const T: u8>(p: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tilestored [{p} + {stride}], tmm{t}", t = const T, p = in(reg) p, stride = in(reg) 64usize,
            options(nostack, preserves_flags));
    }
}

/// The sums of tile C become those of products of tile A, signed bytes, with tile B: signed bytes, or unsigned ones.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn product<const C: u8, const A: u8, const B: u8>(signed: bool) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tilezero tmm{c}", c = const C, options(nostack, preserves_flags, nomem));
        if signed {
            asm!("tdpbssd tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack, preserves_flags, nomem));
        } else {
            asm!("tdpbsud tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack, preserves_flags, nomem));
        }
    }
}
