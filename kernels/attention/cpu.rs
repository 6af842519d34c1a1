//! Who computes which rows: tiles of query rows that share a KV head, over the blocks that any of them sees.
//!
//! Where a sequence has few rows, as when it decodes, and several pieces of positions, each piece of a KV head is an item of its
//! own: threads share a long context evenly, and each reads the cache in order. The pieces' results are merged in the order
//! of positions, as they are where one item visits them all: so who computes what changes no bit.

#[cfg(target_arch = "x86_64")]
use super::amx::{self, ByTiles};
use super::state::{Block, ByVectors, PIECE_BLOCKS, Piece, Products, State, merge, record_len};
use super::{AttentionParams, PIECE, Partials, Sequence, Sequences};
#[cfg(target_arch = "x86_64")]
use crate::cpu::amx::{TileKernel, V};
use crate::cpu::{Cpu, Isa, Kernel, LANES, Simd, SyncMutPtr};
use crate::kv_write::{KvBf16, KvElement, KvF16, KvF32, KvQ8};
use crate::{BLOCK_TOKENS, KvCache, KvDType, Tensor, TensorMut};
use std::marker::PhantomData;
use std::ops::Range;

/// Sequences with so few query rows of a KV head are shared out by pieces.
const FEW_ROWS: usize = 8;

/// Query rows of a tile: once or twice those that [`Kind::tile`] has a kernel for. (With AVX2 the sums of four rows are too few chains
/// of products to fill the time that a product takes: with six prompts take 12% less. Pairs of bf16, which AVX2 has to take apart,
/// leave no registers for six.)
fn tile_rows(isa: Isa, dtype: KvDType) -> usize {
    match isa {
        Isa::Portable | Isa::Avx2 | Isa::AvxVnni if dtype != KvDType::BF16 => 6,
        Isa::Amx if dtype == KvDType::BF16 => 16,
        _ => 8,
    }
}

const _: () = assert!(BLOCK_TOKENS == LANES, "a block's scores fill one vector");

#[allow(clippy::too_many_arguments, reason = "the operation's arguments")]
pub fn attention(
    cpu: &Cpu,
    q: Tensor,
    cache: &KvCache,
    layer: usize,
    sequences: Sequences,
    params: AttentionParams,
    partials: &mut Partials,
    out: &mut TensorMut,
) {
    let (out, out_stride) = (SyncMutPtr(out.ptr()), out.stride());
    let room = partials.0.len();
    let partials = SyncMutPtr(partials.0.as_mut_ptr());
    let tile_rows = tile_rows(cpu.isa(), cache.dtype());
    let tiles = Tiles { q, cache, layer, sequences, params, tile_rows, out, out_stride, partials, room, items: 0..0 };
    let (mut items, mut split) = (0, false);
    tiles.each(|shared| {
        items += shared.items;
        split |= shared.pieces.is_some();
    });
    match cache.dtype() {
        KvDType::F32 => tiles.items::<KvF32>(cpu, items),
        KvDType::F16 => tiles.items::<KvF16>(cpu, items),
        #[cfg(target_arch = "x86_64")]
        KvDType::BF16 if cpu.isa() == Isa::Amx => tiles.items_by_tiles(cpu, items),
        KvDType::BF16 => tiles.items::<KvBf16>(cpu, items),
        KvDType::Q8 => tiles.items::<KvQ8>(cpu, items),
    }
    if split {
        cpu.parallel(sequences.context_lens.len(), 1, |items| Merge(Tiles { items, ..tiles.clone() }));
    }
}

/// Some items of the batch: sequence after sequence, in each KV head after KV head.
#[derive(Clone)]
struct Tiles<'a> {
    q: Tensor<'a>,
    cache: &'a KvCache,
    layer: usize,
    sequences: Sequences<'a>,
    params: AttentionParams,
    /// See [`tile_rows`].
    tile_rows: usize,
    out: SyncMutPtr<f32>,
    out_stride: usize,
    /// For what pieces that are items yield: `room` floats.
    partials: SyncMutPtr<f32>,
    room: usize,
    items: Range<usize>,
}

/// How a sequence is shared out.
struct Shared<'a> {
    sequence: Sequence<'a>,
    items: usize,
    /// If the items are pieces: which, and where among the partial results theirs begin.
    pieces: Option<(Range<usize>, usize)>,
}

/// Tiles of a cache with elements E. One kernel for all formats would be one function, which takes minutes to compile.
struct Typed<'a, E>(Tiles<'a>, PhantomData<fn() -> E>);

impl<E: KvElement> Kernel for Typed<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: Isa::run vouches for the instruction set, who made this for the element type.
        unsafe { self.0.walk::<S, E, _>(&mut ByVectors) }
    }
}

/// Tiles of a cache in bf16, by AMX.
#[cfg(target_arch = "x86_64")]
struct Tiled<'a>(Tiles<'a>);

#[cfg(target_arch = "x86_64")]
impl TileKernel for Tiled<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: amx::run vouches for the instruction set, who made this for the element type.
        unsafe { self.0.walk::<V, KvBf16, _>(&mut ByTiles::default()) }
    }
}

/// [`Products`] for states of as many rows as it has kernels for.
trait Kind<S: Simd, E: KvElement> {
    /// Computes rows from `first` on, of which `left` are left; returns how many it has computed.
    ///
    /// # Safety
    /// As [`Tiles::rows`].
    unsafe fn tile(&mut self, tiles: &Tiles, of: &Of, first: usize, left: usize) -> usize;
}

impl<S: Simd, E: KvElement> Kind<S, E> for ByVectors {
    #[inline(always)]
    unsafe fn tile(&mut self, tiles: &Tiles, of: &Of, first: usize, left: usize) -> usize {
        // SAFETY: the caller's.
        unsafe {
            // From five on, rows that are not there cost less than further passes over the cache, or further kernels.
            match left {
                1 => tiles.tile::<S, E, _, 1>(self, of, first, left),
                // A kernel for two would be another minute of compiling.
                2 | 3 => tiles.tile::<S, E, _, 3>(self, of, first, left),
                4 => tiles.tile::<S, E, _, 4>(self, of, first, left),
                _ if S::ROWS >= 8 => tiles.tile::<S, E, _, 8>(self, of, first, left),
                _ if E::PAIRING > 1 => tiles.tile::<S, E, _, 4>(self, of, first, left),
                _ => tiles.tile::<S, E, _, 6>(self, of, first, left),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Kind<V, KvBf16> for ByTiles {
    #[inline(always)]
    unsafe fn tile(&mut self, tiles: &Tiles, of: &Of, first: usize, left: usize) -> usize {
        // SAFETY: the caller's.
        unsafe {
            match left {
                1..=4 => tiles.tile::<V, KvBf16, _, 4>(self, of, first, left),
                5..=8 => tiles.tile::<V, KvBf16, _, 8>(self, of, first, left),
                _ => tiles.tile::<V, KvBf16, _, { amx::ROWS }>(self, of, first, left),
            }
        }
    }
}

/// Merges the pieces of sequences `items`.
struct Merge<'a>(Tiles<'a>);

impl Kernel for Merge<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let (tiles, mut used) = (self.0, 0);
        for s in 0..tiles.items.end {
            let shared = tiles.share(s, &mut used);
            if let Some((pieces, offset)) = shared.pieces.filter(|_| s >= tiles.items.start) {
                // SAFETY: Isa::run vouches for the instruction set; the items wrote a partial result for each of the pieces.
                unsafe { tiles.merge::<S>(&shared.sequence, pieces.len(), offset) }
            }
        }
    }
}

impl<'a> Tiles<'a> {
    fn group(&self) -> usize {
        self.params.heads / self.cache.shape(self.layer).heads
    }

    /// Floats of a piece's results for all rows of a sequence.
    fn piece_len(&self, sequence: &Sequence) -> usize {
        sequence.q_len * self.params.heads * record_len(self.cache.shape(self.layer).head_dim)
    }

    /// How sequence `s` is shared out; `used` floats of partial results belong to sequences before it.
    fn share(&self, s: usize, used: &mut usize) -> Shared<'a> {
        let sequence = Sequence::new(&self.sequences, s);
        let rows = sequence.q_len * self.group();
        let (start, end) = (sequence.visible(0, self.params.window).start, sequence.context);
        let pieces = start / PIECE..end.div_ceil(PIECE);
        let len = pieces.len() * self.piece_len(&sequence);
        let kv_heads = self.cache.shape(self.layer).heads;
        if rows <= FEW_ROWS && pieces.len() > 1 && *used + len <= self.room {
            let offset = *used;
            *used += len;
            return Shared { sequence, items: kv_heads * pieces.len(), pieces: Some((pieces, offset)) };
        }
        Shared { sequence, items: kv_heads * rows.div_ceil(self.tile_rows), pieces: None }
    }

    fn each(&self, mut f: impl FnMut(Shared)) {
        let mut used = 0;
        (0..self.sequences.context_lens.len()).for_each(|s| f(self.share(s, &mut used)));
    }

    /// To find its items a thread goes through all sequences, so it takes more of them at once the more there are.
    fn grain(&self) -> usize {
        self.sequences.context_lens.len().div_ceil(8)
    }

    /// Computes all items, of a cache with elements E.
    fn items<E: KvElement>(&self, cpu: &Cpu, items: usize) {
        cpu.parallel(items, self.grain(), |items| Typed::<E>(Tiles { items, ..self.clone() }, PhantomData));
    }

    /// The same, of a cache in bf16, by AMX.
    #[cfg(target_arch = "x86_64")]
    fn items_by_tiles(&self, cpu: &Cpu, items: usize) {
        cpu.pool()
            .parallel_for(items, self.grain(), &|items| crate::cpu::amx::run(Tiled(Tiles { items, ..self.clone() })));
    }

    /// Computes the items.
    ///
    /// # Safety
    /// As [`Tiles::rows`].
    #[inline(always)]
    unsafe fn walk<S: Simd, E: KvElement, K: Kind<S, E>>(&self, kind: &mut K) {
        let (mut first, mut used) = (0, 0);
        for s in 0..self.sequences.context_lens.len() {
            let shared = self.share(s, &mut used);
            let last = first + shared.items;
            for item in self.items.start.max(first)..self.items.end.min(last) {
                // SAFETY: the caller's.
                unsafe { self.rows::<S, E, K>(kind, &shared, item - first) };
            }
            first = last;
        }
    }

    /// # Safety
    /// Needs the instruction set; E is the cache's element type.
    #[inline(always)]
    unsafe fn rows<S: Simd, E: KvElement, K: Kind<S, E>>(&self, kind: &mut K, shared: &Shared, item: usize) {
        let rows = shared.sequence.q_len * self.group();
        let (kv_head, rows, piece) = match &shared.pieces {
            Some((pieces, offset)) => {
                let (kv_head, piece) = (item / pieces.len(), item % pieces.len());
                (kv_head, 0..rows, Some((pieces.start + piece, offset + piece * self.piece_len(&shared.sequence))))
            }
            None => {
                let tiles = rows.div_ceil(self.tile_rows);
                let start = item % tiles * self.tile_rows;
                (item / tiles, start..rows.min(start + self.tile_rows), None)
            }
        };
        let of = Of { sequence: &shared.sequence, kv_head, piece };
        let mut start = rows.start;
        while start < rows.end {
            // SAFETY: the caller's.
            start += unsafe { kind.tile(self, &of, start, rows.end - start) };
        }
    }

    /// Query rows `first..first + min(left, R)`; returns how many. Where fewer than R are left the last one is repeated.
    ///
    /// # Safety
    /// As [`Tiles::rows`].
    #[inline(always)]
    unsafe fn tile<S: Simd, E: KvElement, P: Products<S, E, R>, const R: usize>(
        &self,
        products: &mut P,
        of: &Of,
        first: usize,
        left: usize,
    ) -> usize {
        let (shape, group, sequence) = (self.cache.shape(self.layer), self.group(), of.sequence);
        let (dim, count) = (shape.head_dim, left.min(R));
        let token_and_head = |row: usize| (row / group, of.kv_head * group + row % group);
        let row_of = |r: usize| token_and_head(first + r.min(count - 1));
        let query = |(token, head): (usize, usize)| &self.q.row(sequence.q_start + token)[head * dim..][..dim];
        let mut state = State::<S, E, R>::new(dim, self.params.softcap);
        // SAFETY: the instruction set is the caller's; blocks were checked against the cache, rows against q and out, and
        // `share` has found room for the results of the sequence's pieces.
        unsafe {
            products.begin();
            for r in 0..R {
                let visible = sequence.visible(row_of(r).0, self.params.window);
                state.set_row(r, query(row_of(r)), self.params.scale, visible);
            }
            // Queries come from memory: a tile asks for the next one's.
            let rows = sequence.q_len * group;
            for row in first + R..rows.min(first + 2 * R) {
                let q = query(token_and_head(row));
                for d in (0..dim).step_by(LANES) {
                    S::prefetch(q[d..].as_ptr().cast());
                }
            }
            let blocks = state.blocks();
            let all = blocks.start / PIECE_BLOCKS..blocks.end.div_ceil(PIECE_BLOCKS);
            let pieces = match of.piece {
                Some((piece, _)) => all.start.max(piece)..all.end.min(piece + 1),
                None => all,
            };
            for piece in pieces {
                state.piece(products, piece * PIECE, &self.piece(of, blocks.clone(), piece));
            }
            for r in 0..count {
                let (token, head) = row_of(r);
                match of.piece {
                    Some((_, offset)) => {
                        let at = offset + (token * self.params.heads + head) * record_len(dim);
                        state.store(r, self.partials.get().add(at));
                    }
                    None => {
                        let out = self.out.get().add((sequence.q_start + token) * self.out_stride + head * dim);
                        state.finish(r, out);
                    }
                }
            }
        }
        count
    }

    /// Of the blocks that a tile sees, those of a piece.
    ///
    /// # Safety
    /// As [`Tiles::rows`]; the tile sees some of the piece.
    #[inline(always)]
    unsafe fn piece<B>(&self, of: &Of, blocks: Range<usize>, piece: usize) -> Piece<B> {
        let (layer, layout) = (self.cache.layer(self.layer).as_ptr(), self.cache.layout(self.layer));
        let block_at = |b: usize, kv_head: usize| {
            let block = of.sequence.blocks[b] as usize;
            // SAFETY: block tables were checked against the cache.
            unsafe {
                Block {
                    keys: layer.add(layout.keys_at(block, kv_head)).cast(),
                    values: layer.add(layout.values_at(block, kv_head)).cast(),
                }
            }
        };
        let start = piece * PIECE_BLOCKS;
        let (first, end) = (blocks.start.max(start), blocks.end.min(start + PIECE_BLOCKS));
        // Then comes the next piece, and after the last one the next head, unless further tiles of this one do. At the end the same
        // again. (With the next sequence's first head there, 16 and 64 sequences took 6 to 20% longer.)
        let next_head = (self.cache.shape(self.layer).heads - 1).min(of.kv_head + 1);
        let head_ends = of.piece.is_some() || of.sequence.q_len * self.group() <= self.tile_rows;
        let (next_head, next_start) = match head_ends && start + PIECE_BLOCKS >= blocks.end {
            true => (next_head, blocks.start),
            false => (of.kv_head, start + PIECE_BLOCKS),
        };
        Piece {
            first: first - start,
            last: end - start,
            blocks: std::array::from_fn(|i| block_at((start + i).clamp(first, end - 1), of.kv_head)),
            next: std::array::from_fn(|i| block_at((next_start + i).min(blocks.end - 1), next_head)),
        }
    }

    /// Merges what `pieces` pieces have left at `offset`, and writes the sequence's rows.
    ///
    /// # Safety
    /// Needs the instruction set; a result of each row and piece lies at `offset`.
    #[inline(always)]
    unsafe fn merge<S: Simd>(&self, sequence: &Sequence, pieces: usize, offset: usize) {
        let (dim, heads) = (self.cache.shape(self.layer).head_dim, self.params.heads);
        for row in 0..sequence.q_len * heads {
            // SAFETY: the caller's; rows were checked against out.
            unsafe {
                let first = self.partials.get().add(offset + row * record_len(dim));
                for piece in 1..pieces {
                    merge::<S>(first, first.add(piece * self.piece_len(sequence)), dim);
                }
                let out = self.out.get().add((sequence.q_start + row / heads) * self.out_stride + row % heads * dim);
                super::state::finish::<S>(first, dim, out);
            }
        }
    }
}

/// What a tile's rows belong to.
struct Of<'a> {
    sequence: &'a Sequence<'a>,
    kv_head: usize,
    /// If only one piece is meant: which, and where its results go.
    piece: Option<(usize, usize)>,
}
