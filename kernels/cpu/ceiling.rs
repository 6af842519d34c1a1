//! What this machine can do at best, measured: reading from memory and from the last-level cache, and arithmetic that
//! touches no memory. Kernels are judged by their share of the nearer of the two.
//!
//! The thread that measures is one of those that compute: it should be bound to its core, and so be a thread of its own (one
//! that is bound sees one core only, and pools that it makes later bind all their threads there).

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::simd::{Kernel, Simd};
use super::{Cpu, Isa, SyncMutPtr, SyncPtr};
use crate::Arena;
use crate::linear::OutOfMemory;
use std::hint::black_box;
use std::time::Instant;

/// Read from memory: more than a last-level cache holds.
const MEMORY_BYTES: usize = 512 << 20;
/// Read from the last-level cache by each thread: more than its own caches hold, and in sum less than the shared one has for
/// that many cores, on the machines that there are (2 MiB own, 4 MiB of the shared cache).
pub const CACHE_BYTES: usize = 3 << 20;
/// Places that a thread reads at once.
const STREAMS: usize = 8;
/// What one run of a loop takes at least.
const RUN_SECONDS: f64 = 0.01;
/// Runs of each loop.
const RUNS: usize = 7;

/// What a kernel's multiplications are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Bytes, summed in 32 bits (AMX, VNNI), or in 16 (AVX2).
    Int8,
    /// Pairs of bf16, summed in f32 (AMX, AVX-512 BF16).
    Bf16,
    /// f32, multiplied and added at once.
    F32,
}

impl Arithmetic {
    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::Int8 => "int8",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::F32 => "f32",
        }
    }
}

/// Bytes, and operations (a multiplication and an addition are two), a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Read from memory.
    pub memory: f64,
    /// Read from the last-level cache.
    pub cache: f64,
    /// [`Arithmetic::Int8`]; `None` where the instruction set has no instructions for it.
    pub int8: Option<f64>,
    /// [`Arithmetic::Bf16`]; as above.
    pub bf16: Option<f64>,
    /// [`Arithmetic::F32`].
    pub f32: f64,
}

/// What keeps a kernel from being faster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// "memory", "cache", or the arithmetic's name.
    pub name: &'static str,
    /// The least that the work takes.
    pub seconds: f64,
}

impl Ceilings {
    /// Measures `cpu`'s instruction set on its threads, the calling one among them: about a second.
    pub fn measure(cpu: &Cpu) -> Result<Ceilings, OutOfMemory> {
        Ok(Ceilings {
            memory: read_rate(cpu, MEMORY_BYTES)?,
            cache: read_rate(cpu, cpu.pool().threads() * CACHE_BYTES)?,
            int8: int8_rate(cpu),
            bf16: bf16_rate(cpu),
            f32: f32_rate(cpu),
        })
    }

    /// Operations a second; f32's where the instruction set has none for `arithmetic`.
    pub fn rate(&self, arithmetic: Arithmetic) -> f64 {
        match arithmetic {
            Arithmetic::Int8 => self.int8.unwrap_or(self.f32),
            Arithmetic::Bf16 => self.bf16.unwrap_or(self.f32),
            Arithmetic::F32 => self.f32,
        }
    }

    /// The nearer ceiling for work that reads `bytes` from memory.
    pub fn bound(&self, bytes: f64, operations: f64, arithmetic: Arithmetic) -> Bound {
        let memory = Bound { name: "memory", seconds: bytes / self.memory };
        let computing = Bound { name: arithmetic.name(), seconds: operations / self.rate(arithmetic) };
        if memory.seconds > computing.seconds { memory } else { computing }
    }

    /// As [`Ceilings::bound`], for work whose data stay in the last-level cache.
    pub fn bound_in_cache(&self, bytes: f64, operations: f64, arithmetic: Arithmetic) -> Bound {
        let bound = Ceilings { memory: self.cache, ..*self }.bound(bytes, operations, arithmetic);
        if bound.name == "memory" { Bound { name: "cache", ..bound } } else { bound }
    }
}

/// Times a second that `once(worker, n)` does its `n` rounds, all threads together, in each of [`RUNS`] runs; ascending.
fn rates(cpu: &Cpu, once: &(dyn Fn(usize, usize) + Sync)) -> [f64; RUNS] {
    let time = |rounds: usize| {
        let start = Instant::now();
        cpu.pool().run(&|worker| once(worker, rounds));
        start.elapsed().as_secs_f64()
    };
    let mut rounds = 1;
    // The shorter of two: one that was interrupted would end the search too soon.
    while time(rounds).min(time(rounds)) < RUN_SECONDS {
        rounds *= 2;
    }
    let mut rates = [(); RUNS].map(|()| (rounds * cpu.pool().threads()) as f64 / time(rounds));
    rates.sort_by(f64::total_cmp);
    rates
}

/// Arithmetic is a thread's own: the best run is the one that nothing disturbed.
fn best_rate(cpu: &Cpu, once: &(dyn Fn(usize, usize) + Sync)) -> f64 {
    rates(cpu, once)[RUNS - 1]
}

/// Bytes a second, each thread reading its own part of `bytes` over and over. The median: neighbours share memory and caches,
/// and what they leave is all that a kernel can have.
fn read_rate(cpu: &Cpu, bytes: usize) -> Result<f64, OutOfMemory> {
    // Where weights lie: in huge pages.
    let mut buffer = Arena::new(bytes).and_then(|arena| arena.buffer(bytes)).ok_or(OutOfMemory { bytes })?;
    let part = bytes / cpu.pool().threads() / Read::STEP * Read::STEP;
    let data = SyncMutPtr(buffer.as_mut_slice().as_mut_ptr());
    // Pages that nobody has written are all one page of zeros; the thread that reads them should have them near.
    cpu.pool().run(&|worker| {
        // SAFETY: parts are disjoint, and inside the buffer.
        let part = unsafe { std::slice::from_raw_parts_mut(data.get().add(worker * part), part) };
        part.iter_mut().step_by(64).for_each(|byte| *byte = 1);
    });
    let (isa, data) = (cpu.isa(), SyncPtr(buffer.as_slice().as_ptr()));
    let rates = rates(cpu, &|worker, rounds| {
        for _ in 0..rounds {
            isa.run(Read { data, offset: worker * part, len: part });
        }
    });
    Ok(part as f64 * rates[RUNS / 2])
}

/// Reads [`STREAMS`] places at once: up to a sixth faster than one, as each has its own prefetcher. Asking ahead by hand made it
/// slower.
struct Read {
    data: SyncPtr<u8>,
    offset: usize,
    /// A multiple of [`Read::STEP`].
    len: usize,
}

impl Read {
    const STEP: usize = STREAMS * 4 * 64;
}

impl Kernel for Read {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let stream = self.len / STREAMS;
        // SAFETY: Isa::run vouches for the instruction set, and `len` bytes behind `offset` are there.
        unsafe {
            let data = self.data.get().add(self.offset);
            let mut seen = [S::splat_word(0); 4];
            for at in (0..stream).step_by(4 * 64) {
                for first in 0..STREAMS {
                    for i in 0..4 {
                        seen[i] = S::or(seen[i], S::load_words(data.add(first * stream + at + 64 * i)));
                    }
                }
            }
            let seen = S::or(S::or(seen[0], seen[1]), S::or(seen[2], seen[3]));
            black_box(S::sum(S::to_f32(seen)));
        }
    }
}

/// As many sums as each instruction set needs to hide an addition's latency, and has registers for.
fn f32_rate(cpu: &Cpu) -> f64 {
    let isa = cpu.isa();
    let rate = |operations: usize, once: &(dyn Fn(usize, usize) + Sync)| operations as f64 * best_rate(cpu, once);
    match isa {
        Isa::Portable => rate(2 * 2 * 16, &|_, rounds| isa.run(Fma::<2> { rounds })),
        Isa::Avx2 | Isa::AvxVnni => rate(2 * 6 * 16, &|_, rounds| isa.run(Fma::<6> { rounds })),
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => rate(2 * 12 * 16, &|_, rounds| isa.run(Fma::<12> { rounds })),
    }
}

struct Fma<const SUMS: usize> {
    rounds: usize,
}

impl<const SUMS: usize> Kernel for Fma<SUMS> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: Isa::run vouches for the instruction set.
        unsafe {
            let (x, y) = (S::splat(black_box(1.0)), S::splat(black_box(0.5)));
            let mut sums = [S::splat(black_box(1.0)); SUMS];
            for _ in 0..self.rounds {
                for i in 0..SUMS {
                    sums[i] = S::fma(sums[i], x, y);
                }
            }
            for sum in sums {
                black_box(S::sum(sum));
            }
        }
    }
}

fn int8_rate(cpu: &Cpu) -> Option<f64> {
    match cpu.isa() {
        Isa::Portable => None,
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the device was made for an instruction set that this machine has.
        Isa::Avx2 => Some(x86::OPERATIONS_MADDUBS * best_rate(cpu, &|_, rounds| unsafe { x86::maddubs(rounds) })),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => {
            // SAFETY: as above.
            Some(
                x86::OPERATIONS_DPBUSD_OF_HALVES
                    * best_rate(cpu, &|_, rounds| unsafe { x86::dpbusd_of_halves(rounds) }),
            )
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => {
            // SAFETY: as above.
            Some(x86::OPERATIONS_DPBUSD * best_rate(cpu, &|_, rounds| unsafe { x86::dpbusd(rounds) }))
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => Some(Products::rate(cpu, false)),
        #[cfg(not(target_arch = "x86_64"))]
        _ => None,
    }
}

fn bf16_rate(cpu: &Cpu) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if cpu.isa() == Isa::Amx {
        return Some(Products::rate(cpu, true));
    }
    #[cfg(target_arch = "x86_64")]
    if cpu.isa() == Isa::Avx512Bf16 {
        // SAFETY: the device was made for an instruction set that this machine has.
        return Some(x86::OPERATIONS_DPBF16 * best_rate(cpu, &|_, rounds| unsafe { x86::dpbf16(rounds) }));
    }
    None
}

/// Products of whole tiles: 16 times 16 sums, 64 bytes deep.
#[cfg(target_arch = "x86_64")]
struct Products {
    bf16: bool,
    rounds: usize,
}

#[cfg(target_arch = "x86_64")]
impl Products {
    /// Products of tiles in a round.
    const ADDED: usize = 16;
    const WHOLE: amx::Shapes = amx::Shapes::new([(16, 64); 8]);

    fn rate(cpu: &Cpu, bf16: bool) -> f64 {
        let operations = 2 * Self::ADDED * 16 * 16 * if bf16 { 32 } else { 64 };
        operations as f64 * best_rate(cpu, &|_, rounds| amx::run(Products { bf16, rounds }))
    }
}

#[cfg(target_arch = "x86_64")]
impl amx::TileKernel for Products {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: amx::run vouches for the instruction set.
        unsafe { amx::shape(&Self::WHOLE) };
        for _ in 0..self.rounds {
            // SAFETY: amx::run vouches for the instruction set; tiles that nothing was loaded to are zero.
            unsafe {
                for _ in 0..Self::ADDED / 4 {
                    if self.bf16 {
                        amx::add_bf16::<0, 4, 6>();
                        amx::add_bf16::<1, 4, 7>();
                        amx::add_bf16::<2, 5, 6>();
                        amx::add_bf16::<3, 5, 7>();
                    } else {
                        amx::add_signed::<0, 4, 6>();
                        amx::add_signed::<1, 4, 7>();
                        amx::add_signed::<2, 5, 6>();
                        amx::add_signed::<3, 5, 7>();
                    }
                }
            }
        }
    }
}

/// Loops of one instruction over sums that do not wait for each other.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    const SUMS: usize = 12;
    /// Of a round of each loop.
    pub const OPERATIONS_DPBUSD: f64 = (2 * 64 * SUMS) as f64;
    pub const OPERATIONS_DPBUSD_OF_HALVES: f64 = (2 * 32 * SUMS) as f64;
    pub const OPERATIONS_DPBF16: f64 = (2 * 32 * SUMS) as f64;
    pub const OPERATIONS_MADDUBS: f64 = (2 * 32 * SUMS) as f64;

    /// A loop of an instruction that multiplies its factors and adds to a sum.
    macro_rules! products {
        ($name:ident, $needs:literal, $features:literal, $sum:expr, $factor:expr, $product:ident) => {
            #[doc = concat!("# Safety\nNeeds ", $needs, ".")]
            #[target_feature(enable = $features)]
            pub unsafe fn $name(rounds: usize) {
                let (x, y) = ($factor, $factor);
                let mut sums = [$sum; SUMS];
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $product(*sum, x, y);
                    }
                }
                black_box(sums);
            }
        };
    }
    products!(
        dpbusd,
        "AVX-512 F and VNNI",
        "avx512f,avx512vnni",
        _mm512_setzero_si512(),
        _mm512_set1_epi8(black_box(3)),
        _mm512_dpbusd_epi32
    );
    products!(
        dpbusd_of_halves,
        "AVX-VNNI",
        "avx2,avxvnni",
        _mm256_setzero_si256(),
        _mm256_set1_epi8(black_box(3)),
        _mm256_dpbusd_avx_epi32
    );
    products!(
        dpbf16,
        "AVX-512 F and BF16",
        "avx512f,avx512bf16",
        _mm512_setzero_ps(),
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(1.0)), _mm512_set1_ps(black_box(1.0))),
        _mm512_dpbf16_ps
    );

    /// Products of pairs, and the addition that sums them in 16 bits: what a kernel needs at least. The product takes the sum
    /// as its factor, so that it cannot be computed once for all rounds.
    ///
    /// # Safety
    /// Needs AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn maddubs(rounds: usize) {
        let (x, y) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi16(black_box(5)));
        let mut sums = [_mm256_setzero_si256(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_add_epi16(_mm256_maddubs_epi16(*sum, x), y);
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Pool;

    #[test]
    fn the_nearer_ceiling_binds() {
        let ceilings = Ceilings { memory: 10.0, cache: 40.0, int8: Some(800.0), bf16: None, f32: 200.0 };
        let bound = |bytes, operations, arithmetic| ceilings.bound(bytes, operations, arithmetic);
        assert_eq!(bound(20.0, 800.0, Arithmetic::Int8), Bound { name: "memory", seconds: 2.0 });
        assert_eq!(bound(20.0, 8000.0, Arithmetic::Int8), Bound { name: "int8", seconds: 10.0 });
        assert_eq!(bound(0.0, 100.0, Arithmetic::Bf16), Bound { name: "bf16", seconds: 0.5 });
        assert_eq!(ceilings.bound_in_cache(20.0, 80.0, Arithmetic::F32), Bound { name: "cache", seconds: 0.5 });
    }

    #[test]
    fn ceilings_have_the_magnitude_of_hardware() {
        for isa in Isa::ALL {
            let Some(cpu) = Cpu::new(isa, Pool::new(1, false).unwrap()) else {
                eprintln!("SKIPPED: {}: this machine lacks it", isa.name());
                continue;
            };
            let ceilings = Ceilings::measure(&cpu).unwrap();
            // From a hundredth to a hundred times what machines of this time do: no loop was optimised away, or is a call.
            assert!((1e8..1e12).contains(&ceilings.memory), "{ceilings:?}");
            assert!((1e8..1e13).contains(&ceilings.f32), "{ceilings:?}");
            assert_eq!(ceilings.int8.is_some(), isa != Isa::Portable);
            if let Some(int8) = ceilings.int8 {
                assert!((1e9..1e14).contains(&int8), "{ceilings:?}");
            }
        }
    }
}
