//! The CPU backend: an instruction set chosen at run time, and a pool of threads.
//!
//! A kernel is a struct of parameters with a body generic over [`Simd`]; [`Isa::run`] compiles the body once for each
//! instruction set, or once for several that it needs no difference of, and calls the right one.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod ceiling;
mod pool;
mod portable;
mod simd;

pub use pool::{Pool, PoolError};
pub(crate) use pool::{SyncMutPtr, SyncPtr};
pub(crate) use portable::Portable;
pub(crate) use simd::{Codes, Kernel, LANES, Simd, exp, exp2, exp2_for_bf16, opaque, sigmoid};

/// Instruction sets that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// The same and AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same and AVX-512 BF16.
    Avx512Bf16,
    /// The same and AMX, with products of bytes and of bf16.
    Amx,
}

impl Isa {
    /// All of them, slowest first.
    pub const ALL: [Isa; 6] = [Isa::Portable, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The name that commands and reports use: "portable", "avx2", "avx-vnni", "avx512", "avx512-bf16", "amx".
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Amx => "amx",
        }
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => avx2::has_vnni(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => avx512::has_bf16(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest one that this machine can run.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Runs `kernel` with this instruction set. Panics if the machine lacks it ([`Cpu::new`] has checked).
    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        assert!(self.is_available(), "no {} on this machine", self.name());
        match self {
            Isa::Portable => kernel.run::<Portable>(),
            // SAFETY: the instruction set was found on this machine.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::enter(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if K::INT8 => unsafe { avx2::enter_vnni(kernel) },
            // SAFETY: as above; AVX-VNNI is beside all that AVX2 is here.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { avx2::enter(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::enter(kernel) },
            // SAFETY: as above; BF16 is beside all that AVX-512 is here.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx if !K::BF16 => unsafe { avx512::enter(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::enter_bf16(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("not available"),
        }
    }
}

/// The CPU as a device.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    pool: Pool,
}

impl Cpu {
    /// A CPU device, or `None` if the machine lacks `isa`.
    pub fn new(isa: Isa, pool: Pool) -> Option<Cpu> {
        isa.is_available().then_some(Cpu { isa, pool })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Runs `make(range)` for ranges that cover `0..items`, on all threads; ranges hold `grain` items or the rest.
    pub(crate) fn parallel<K: Kernel>(
        &self,
        items: usize,
        grain: usize,
        make: impl Fn(std::ops::Range<usize>) -> K + Sync,
    ) {
        self.pool.parallel_for(items, grain, &|range| self.isa.run(make(range)));
    }
}
