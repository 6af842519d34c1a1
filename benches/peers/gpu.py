"""PyTorch beside aieng on the same GPU and shapes: run by run.sh of `cargo xtask gpu-check --pack`.

`gpu.py --json FILE` measures what there is: torch's SDPA, cuBLAS through torch.matmul, `_weight_int4pack_mm`, and a model of
Llama 3 8B's shape with random weights under torch.compile. With `--cpu` it does all of that on the CPU and tiny shapes, which
proves the script and not a speed. `gpu.py --table FOLDER` prints what run.sh left in a folder, aieng beside its peers,
without torch. A peer that cannot be measured is named with the reason, and the others go on.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

GROUP = 128
FLUSHED = 256 << 20


@dataclass(frozen=True)
class Sizes:
    """What is measured, and a model's name and sizes."""

    name: str
    shapes: tuple
    batches: tuple
    # Sequences, rows of each, context.
    attentions: tuple
    hidden: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    dim: int
    vocab: int
    context: int
    tokens: int
    # Kind of weights, sequences.
    models: tuple


REAL = Sizes(
    name="llama-3-8b",
    shapes=((4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096)),
    batches=(1, 2, 4, 8, 64, 512, 4096),
    attentions=((1, 4096, 4096), (1, 8192, 8192), (1, 1, 32768), (64, 1, 4096), (256, 1, 1024)),
    hidden=4096, width=14336, layers=32, heads=32, kv_heads=8, dim=128, vocab=128256, context=1024, tokens=64,
    models=(("int4", 1), ("bf16", 1), ("int4", 64)),
)  # fmt: skip
TINY = Sizes(
    name="tiny",
    shapes=((256, 512),),
    batches=(1, 9),
    attentions=((1, 80, 80), (2, 1, 48)),
    hidden=256, width=512, layers=2, heads=4, kv_heads=2, dim=64, vocab=1024, context=32, tokens=2,
    models=(("int4", 1), ("bf16", 3)),
)  # fmt: skip

# aieng's operation and which peer does the same.
PEER_OF = {
    "linear q4_0": "int4pack_mm",
    "linear q4_k": "int4pack_mm",
    "linear int4 group 128": "int4pack_mm",
    "linear bf16": "matmul",
    "attention, prompt": "sdpa, prompt",
    "attention, decode": "sdpa, decode",
    "model int4": "torch.compile int4",
    "model bf16": "torch.compile bf16",
}


class Place:
    """Torch and a device: its clock, its random numbers, and what differs between a GPU and the CPU."""

    def __init__(self, torch, device, sizes):
        self.torch, self.device, self.sizes = torch, device, sizes
        self.is_gpu = device == "cuda"

    def randn(self, *shape):
        return self.torch.randn(*shape, device=self.device, dtype=self.torch.bfloat16)

    def elapsed(self, run):
        """Seconds that `run()` takes."""
        if not self.is_gpu:
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        self.torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def seconds(self, run, repetitions=7):
        """The median of several runs over a number of launches, in one graph: as benches/cuda.rs does it."""
        run(0)
        once = self.elapsed(lambda: run(0))
        launches = max(1, min(256, int(0.02 / max(once, 1e-6)))) if self.is_gpu else 2
        each = lambda: [run(i) for i in range(launches)]
        if self.is_gpu:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                each()
            each = graph.replay
        times = [self.elapsed(each) / launches for _ in range(repetitions + 1)]
        return sorted(times[1:])[repetitions // 2]

    def copies(self, bytes_of_one, make):
        """Operands that the L2 does not hold together."""
        return [make() for _ in range(max(1, min(64, -(-FLUSHED // bytes_of_one))) if self.is_gpu else 2)]

    def int4_weight(self, outputs, cols):
        """Random codes, packed as the operator wants them, with scales and zeros for each group."""
        torch, aten = self.torch, self.torch.ops.aten
        groups = self.randn(cols // GROUP, outputs, 2) * 0.01
        if self.is_gpu:
            codes = torch.randint(0, 256, (outputs, cols // 2), device=self.device, dtype=torch.uint8)
            return aten._convert_weight_to_int4pack(codes, 8), groups
        codes = torch.randint(0, 16, (outputs, cols), dtype=torch.int32)
        return aten._convert_weight_to_int4pack_for_cpu(codes, 8), groups

    def int4_product(self, x, packed, groups):
        aten = self.torch.ops.aten
        product = aten._weight_int4pack_mm if self.is_gpu else aten._weight_int4pack_mm_for_cpu
        return product(x, packed, GROUP, groups)


def matmuls(at):
    for outputs, cols in at.sizes.shapes:
        weights = at.copies(2 * outputs * cols, lambda: at.randn(outputs, cols))
        for rows in at.sizes.batches:
            x = at.randn(rows, cols)
            yield "matmul", f"{outputs}x{cols}", rows, at.seconds(lambda i: x @ weights[i % len(weights)].t())


def int4_matmuls(at):
    for outputs, cols in at.sizes.shapes:
        weights = at.copies(outputs * cols // 2, lambda: at.int4_weight(outputs, cols))
        for rows in at.sizes.batches:
            x = at.randn(rows, cols)
            run = lambda i: at.int4_product(x, *weights[i % len(weights)])
            yield "int4pack_mm", f"{outputs}x{cols}", rows, at.seconds(run)


def attentions(at):
    """Without pages: keys and values of a sequence lie end to end, which is the easier task."""
    sdpa = at.torch.nn.functional.scaled_dot_product_attention
    heads, kv_heads, dim = at.sizes.heads, at.sizes.kv_heads, at.sizes.dim
    for sequences, rows, context in at.sizes.attentions:
        q = at.randn(sequences, heads, rows, dim)
        k, v = (at.randn(sequences, kv_heads, context, dim) for _ in range(2))
        run = lambda i: sdpa(q, k, v, is_causal=rows > 1, enable_gqa=True)
        name = "sdpa, prompt" if rows > 1 else "sdpa, decode"
        yield name, f"{heads}/{kv_heads} x {dim}, {context}", sequences * rows, at.seconds(run)


def model(at, kind, sequences):
    """One decoding step of a model, not yet compiled."""
    torch, sizes = at.torch, at.sizes
    hidden, heads, kv_heads, dim = sizes.hidden, sizes.heads, sizes.kv_heads, sizes.dim
    functional = torch.nn.functional

    class Linear(torch.nn.Module):
        def __init__(self, cols, outputs):
            super().__init__()
            if kind == "int4":
                packed, groups = at.int4_weight(outputs, cols)
                self.register_buffer("packed", packed)
                self.register_buffer("groups", groups)
            else:
                self.weight = torch.nn.Parameter(at.randn(outputs, cols) * 0.02, requires_grad=False)

        def forward(self, x):
            if kind == "int4":
                return at.int4_product(x, self.packed, self.groups)
            return functional.linear(x, self.weight)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = Linear(hidden, (heads + 2 * kv_heads) * dim)
            self.out = Linear(heads * dim, hidden)
            self.gate_up = Linear(hidden, 2 * sizes.width)
            self.down = Linear(sizes.width, hidden)
            for cache in ("k", "v"):
                self.register_buffer(cache, at.randn(sequences, kv_heads, sizes.context, dim))

        def forward(self, x, position, cos, sin):
            normed = functional.rms_norm(x, (hidden,))
            q, k, v = self.qkv(normed).split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)

            def turned(some):
                a, b = some.reshape(sequences, -1, 1, dim).chunk(2, dim=-1)
                return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

            self.k.index_copy_(2, position, turned(k))
            self.v.index_copy_(2, position, v.reshape(sequences, kv_heads, 1, dim))
            attended = functional.scaled_dot_product_attention(turned(q), self.k, self.v, enable_gqa=True)
            x = x + self.out(attended.reshape(sequences, heads * dim))
            gate, up = self.gate_up(functional.rms_norm(x, (hidden,))).chunk(2, dim=-1)
            return x + self.down(functional.silu(gate) * up)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("embedding", at.randn(sizes.vocab, hidden))
            self.layers = torch.nn.ModuleList([Layer() for _ in range(sizes.layers)])
            self.head = Linear(hidden, sizes.vocab)

        def forward(self, ids, position, cos, sin):
            x = self.embedding[ids]
            for layer in self.layers:
                x = layer(x, position, cos, sin)
            return self.head(functional.rms_norm(x, (hidden,))).argmax(dim=-1)

    return Model()


def models(at):
    torch, sizes = at.torch, at.sizes
    for kind, sequences in sizes.models:
        with torch.inference_mode():
            step = torch.compile(model(at, kind, sequences), mode="reduce-overhead", fullgraph=True)
            position = torch.tensor([sizes.context - 1], device=at.device)
            cos, sin = (torch.ones(sizes.dim // 2, device=at.device, dtype=torch.bfloat16) for _ in range(2))

            def generate():
                ids = torch.zeros(sequences, device=at.device, dtype=torch.long)
                for _ in range(sizes.tokens):
                    ids = step(ids, position, cos, sin).clone()

            times = [at.elapsed(generate) / sizes.tokens for _ in range(4)]
            # The first turn compiles.
            yield f"torch.compile {kind}", f"{sizes.name}, {sizes.context}", sequences, sorted(times[1:])[1]
        del step
        if at.is_gpu:
            torch.cuda.empty_cache()


def measure(cpu=False):
    """Rows, and why there are not more."""
    try:
        import torch
    except ImportError as error:
        return {"rows": [], "skipped": {"torch": str(error)}}
    if not cpu and not torch.cuda.is_available():
        return {"rows": [], "skipped": {"torch": "it sees no CUDA device"}}
    at = Place(torch, "cpu", TINY) if cpu else Place(torch, "cuda", REAL)
    rows, skipped = [], {}
    for part in (matmuls, int4_matmuls, attentions, models):
        try:
            for operation, shape, count, seconds in part(at):
                rows.append({"operation": operation, "shape": shape, "rows": str(count), "ms": 1e3 * seconds})
        except Exception as error:  # whatever one peer throws, the others are to be measured
            skipped[part.__name__] = f"{type(error).__name__}: {error}"[:300]
        if at.is_gpu:
            torch.cuda.empty_cache()
    device = "cpu" if cpu else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__, "rows": rows, "skipped": skipped}


def whole_models(name, tests):
    """Rows of `aieng bench --json` with random weights, as those of the operations: milliseconds of a step."""
    for test in (test for test in tests if test["n_gen"] and not test["n_prompt"]):
        shape, quant = test["model_type"].split()[0], name.removeprefix("model-").removesuffix(".json")
        ms = 1e3 * test["n_sequences"] / test["avg_ts"]
        shape = f"{shape}, {test['n_depth']}"
        yield {"operation": f"model {quant}", "shape": shape, "rows": str(test["n_sequences"]), "ms": ms}


def table(aieng, peers):
    """Lines of Markdown: aieng's rows with the peer's time and how many times faster aieng is; then whole models' speeds."""
    times = {(row["operation"], row["shape"], row["rows"]): row["ms"] for row in peers["rows"]}
    lines = ["| operation | shape | rows | ms | of the ceiling | peer | its ms | ratio |", "|" + " --- |" * 8]
    for row in aieng["rows"]:
        peer = PEER_OF.get(row["operation"].lower())
        theirs = times.get((peer, row["shape"], row["rows"]))
        beside = ("-", "-", "-") if theirs is None else (peer, f"{theirs:.4f}", f"{theirs / row['ms']:.2f}")
        share = f"{row['percent']:.1f}% {row['bound']}" if "bound" in row else "-"
        cells = [row["operation"], row["shape"], row["rows"], f"{row['ms']:.4f}", share, *beside]
        lines.append("| " + " | ".join(cells) + " |")
    for who, row in [("aieng", row) for row in aieng["rows"]] + [("peer", row) for row in peers["rows"]]:
        if row["operation"].startswith(("model ", "torch.compile")):
            speed = 1e3 * int(row["rows"]) / row["ms"]
            lines.append(f"{who}: {row['operation']}, {row['shape']}, {row['rows']} sequences: {speed:.0f} tok/s")
    lines += [f"SKIPPED: {name}: {why}" for name, why in peers["skipped"].items()]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--json", metavar="FILE", help="measure, and write what came of it")
    mode.add_argument("--table", metavar="FOLDER", help="print bench.json, model-*.json and peers.json of a folder")
    parser.add_argument("--cpu", action="store_true", help="prove the script without a GPU, on tiny shapes")
    args = parser.parse_args()
    if args.json:
        report = measure(args.cpu)
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
        for name, why in report["skipped"].items():
            print(f"SKIPPED: {name}: {why}")
        return
    folder = Path(args.table)
    read = lambda path: json.loads(path.read_text())
    aieng = read(folder / "bench.json")
    for path in sorted(folder.glob("model-*.json")):
        aieng["rows"] += whole_models(path.name, read(path))
    sys.stdout.write("\n".join(table(aieng, read(folder / "peers.json"))) + "\n")


if __name__ == "__main__":
    main()
