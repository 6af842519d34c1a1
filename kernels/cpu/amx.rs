//! AMX: eight registers, each a tile of up to 16 rows of 64 bytes, and products of tiles of bytes and of bf16.
//!
//! A core keeps the shapes of its tiles and their contents from one instruction to the next. Nothing but this module touches
//! them: the compiler has no registers of that kind where AMX is not enabled, and it is enabled nowhere. So what a tile holds
//! lives on between the functions here, as long as a [`TileKernel`] runs.

use super::avx512;
pub use super::avx512::Avx512;
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// The most rows of a tile.
pub const TILE_ROWS: usize = 16;

/// Vectors beside tiles.
pub type V = Avx512<true>;

/// Whether this machine has AMX with products of bytes and of bf16, beside AVX-512 with BF16, and the kernel lets this process use
/// it. Linux wants to be asked, since a thread's state grows by 8 KiB: where a thread has a signal stack too small for that, it
/// refuses.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // Leaf 7, EDX: bit 22 is AMX-BF16, bit 24 AMX-TILE, bit 25 AMX-INT8.
        let all = 1 << 22 | 1 << 24 | 1 << 25;
        avx512::has_bf16() && __cpuid_count(7, 0).edx & all == all && permitted()
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

/// What `ldtilecfg` reads: the shapes of all tiles.
#[repr(C)]
pub struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Rows of each tile, up to 16, and the bytes of each of its rows, up to 64.
    pub const fn new(tiles: [(usize, usize); 8]) -> Shapes {
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut tile = 0;
        while tile < tiles.len() {
            assert!(tiles[tile].0 <= 16 && tiles[tile].1 <= 64);
            (shapes.rows[tile], shapes.row_bytes[tile]) = (tiles[tile].0 as u8, tiles[tile].1 as u16);
            tile += 1;
        }
        shapes
    }
}

/// A kernel that computes with tiles beside vectors. As for [`super::Kernel`], all that it calls must be `#[inline(always)]`.
pub trait TileKernel {
    /// Gives the tiles [`shape`]s, and computes.
    ///
    /// # Safety
    /// Needs [`is_available`].
    unsafe fn run(self);
}

/// Runs `kernel`. Panics where AMX is not available.
pub fn run<K: TileKernel>(kernel: K) {
    assert!(is_available(), "no AMX on this machine");
    // SAFETY: available.
    unsafe {
        enter(kernel);
        // Else every switch between threads would save and restore the tiles.
        asm!("tilerelease", options(nostack, preserves_flags, nomem));
    }
}

/// # Safety
/// As [`TileKernel::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,bmi2")]
unsafe fn enter<K: TileKernel>(kernel: K) {
    // SAFETY: the caller's.
    unsafe { kernel.run() }
}

/// The sums of the products of each lane's four bytes, signed or not, with the four signed bytes of `x`.
///
/// # Safety
/// Needs [`is_available`].
#[inline(always)]
pub unsafe fn dots(bytes: __m512i, signed: bool, x: i32) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let (zero, x) = (_mm512_setzero_si512(), _mm512_set1_epi32(x));
        if !signed {
            return _mm512_dpbusd_epi32(zero, bytes, x);
        }
        // 128 more than each byte is an unsigned one.
        let more = _mm512_set1_epi8(i8::MIN);
        let dots = _mm512_dpbusd_epi32(zero, _mm512_xor_si512(bytes, more), x);
        _mm512_sub_epi32(dots, _mm512_dpbusd_epi32(zero, more, x))
    }
}

/// Gives the tiles shapes; what they hold becomes zero.
///
/// # Safety
/// Needs [`is_available`].
#[inline(always)]
pub unsafe fn shape(shapes: &Shapes) {
    // SAFETY: the caller's; shapes are within palette 1's.
    unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, preserves_flags, readonly)) };
}

/// Loads tile T, whose rows are `stride` bytes apart.
///
/// # Safety
/// Needs to be called by a [`TileKernel`] that has given the tiles shapes, as all below; the tile's bytes must be there.
#[inline(always)]
pub unsafe fn load<const T: u8>(p: *const u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tileloadd tmm{t}, [{p} + {stride}]", t = const T, p = in(reg) p, stride = in(reg) stride,
            options(nostack, preserves_flags, readonly));
    }
}

/// Writes the rows of tile T, `stride` bytes apart.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn store<const T: u8>(p: *mut u8, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!("tilestored [{p} + {stride}], tmm{t}", t = const T, p = in(reg) p, stride = in(reg) stride,
            options(nostack, preserves_flags));
    }
}

/// Makes tile T zero.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub unsafe fn zero<const T: u8>() {
    // SAFETY: the caller's.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem)) };
}

/// An instruction that adds to the sums of tile C the products of rows of tile A with columns of tile B.
macro_rules! products {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`load`].
        #[inline(always)]
        pub unsafe fn $name<const C: u8, const A: u8, const B: u8>() {
            // SAFETY: the caller's.
            unsafe {
                asm!(concat!($instruction, " tmm{c}, tmm{a}, tmm{b}"), c = const C, a = const A, b = const B,
                    options(nostack, preserves_flags, nomem));
            }
        }
    };
}

products!(
    /// Signed bytes times signed bytes, summed in 32 bits.
    add_signed,
    "tdpbssd"
);
products!(
    /// Signed bytes times unsigned bytes, likewise.
    add_unsigned,
    "tdpbsud"
);
products!(
    /// Pairs of bf16 times pairs of bf16, summed in f32.
    add_bf16,
    "tdpbf16ps"
);
