//! The instructions of ptx.cuh, one by one, against formulas of this file: run on the emulator, whose twins they hold, and on
//! a real device, which holds the formulas.
//!
//! A case's kernel maps words to words. Layouts of fragments are the PTX ISA's (sections on ldmatrix, mma and wgmma).

mod copies;
#[cfg(feature = "emulate")]
mod faults;
mod matrices;
mod numbers;
mod warps;

use crate::testing::gpus;
use crate::{Arg, Gpu, GpuBuffer, Launch};
use aieng_kernels::testing::Rng;

/// One kernel, with what it must make of its input.
struct Case {
    kernel: &'static str,
    grid: u32,
    block: u32,
    shared: u32,
    input: Vec<u32>,
    expected: Vec<u32>,
    /// Whether a word that was got will do for the one expected.
    accepts: fn(u32, u32) -> bool,
    /// Whether it needs sm_90.
    hopper: bool,
}

impl Case {
    /// One warp, and exact bits.
    fn new(kernel: &'static str, input: Vec<u32>, expected: Vec<u32>) -> Case {
        let accepts = |got, expected| got == expected;
        Case { kernel, grid: 1, block: 32, shared: 0, input, expected, accepts, hopper: false }
    }

    fn check(&self, gpu: &Gpu) {
        let input = gpu.from_bytes(&bytes(&self.input)).unwrap();
        let output = gpu.from_bytes(&vec![0; 4 * self.expected.len()]).unwrap();
        self.launch(gpu, &input, &output);
        let mut got = vec![0; output.len()];
        output.download(0, &mut got).unwrap();
        let got: Vec<u32> = got.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        for (i, (g, e)) in got.iter().zip(&self.expected).enumerate() {
            assert!((self.accepts)(*g, *e), "{} on {}: word {i} is {g:#x}, not {e:#x}", self.kernel, gpu.name());
        }
    }

    fn launch(&self, gpu: &Gpu, input: &GpuBuffer, output: &GpuBuffer) {
        let config = Launch { grid: [self.grid, 1, 1], block: self.block, shared: self.shared };
        let args = [Arg::Ptr(input.ptr()), Arg::Ptr(output.ptr())];
        gpu.launch(self.kernel, config, &args).unwrap();
        gpu.synchronize().unwrap();
    }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn words(rng: &mut Rng, n: usize) -> Vec<u32> {
    (0..n).map(|_| rng.next() as u32).collect()
}

/// Whether the device has what sm_90 added.
fn is_hopper(gpu: &Gpu) -> bool {
    gpu.name() == "emulated" || ["H100", "H200", "H20", "GH200"].iter().any(|name| gpu.name().contains(name))
}

#[test]
fn every_primitive_does_what_its_formula_says() {
    let mut rng = Rng::new(11);
    let mut cases = warps::cases(&mut rng);
    cases.extend(numbers::cases(&mut rng));
    cases.extend(copies::cases(&mut rng));
    cases.extend(matrices::cases(&mut rng));
    assert!(cases.len() >= 40, "{} cases", cases.len());
    for gpu in gpus() {
        for case in &cases {
            if case.hopper && !is_hopper(&gpu) {
                eprintln!("SKIPPED: {}: {} lacks it", case.kernel, gpu.name());
                continue;
            }
            case.check(&gpu);
        }
    }
}
