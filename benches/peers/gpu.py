"""PyTorch beside aieng on the same GPU and shapes: run by run.sh of `cargo xtask gpu-check --pack`.

`gpu.py --json FILE` measures what there is: torch's SDPA, cuBLAS through torch.matmul, `_weight_int4pack_mm`, and a model of
Llama 3 8B's shape with random weights under torch.compile. `gpu.py --table FOLDER` prints what run.sh left in a folder, aieng
beside its peers, without torch. A peer that cannot be measured is named with the reason, and the others go on.
"""

import argparse
import json
import sys
from pathlib import Path

HIDDEN, WIDTH, LAYERS, HEADS, KV_HEADS, DIM, VOCAB = 4096, 14336, 32, 32, 8, 128, 128256
SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096))
BATCHES = (1, 2, 4, 8, 64, 512, 4096)
GROUP = 128
FLUSHED = 256 << 20
# aieng's operation and which peer does the same.
PEER_OF = {
    "linear q4_0": "int4pack_mm",
    "linear q4_k": "int4pack_mm",
    "linear bf16": "matmul",
    "attention, prompt": "sdpa, prompt",
    "attention, decode": "sdpa, decode",
}


def seconds(torch, run, repetitions=7):
    """The median of several runs over a number of launches, in one graph: as benches/cuda.rs does it."""
    run(0)
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run(0)
    end.record()
    torch.cuda.synchronize()
    launches = max(1, min(256, int(20.0 / max(begin.elapsed_time(end), 1e-3))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            run(i)
    times = []
    for _ in range(repetitions + 1):
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / launches)
    return sorted(times[1:])[repetitions // 2]


def copies(bytes_of_one, make):
    """Operands that the L2 does not hold together."""
    return [make() for _ in range(max(1, min(64, -(-FLUSHED // bytes_of_one))))]


def matmuls(torch):
    for outputs, cols in SHAPES:
        weights = copies(2 * outputs * cols, lambda: torch.randn(outputs, cols, device="cuda", dtype=torch.bfloat16))
        for rows in BATCHES:
            x = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
            yield "matmul", f"{outputs}x{cols}", rows, seconds(torch, lambda i: x @ weights[i % len(weights)].t())


def int4_weight(torch, outputs, cols):
    """Random codes, packed as the operator wants them, with scales and zeros for each group."""
    codes = torch.randint(0, 256, (outputs, cols // 2), device="cuda", dtype=torch.uint8)
    packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
    groups = torch.randn(cols // GROUP, outputs, 2, device="cuda", dtype=torch.bfloat16) * 0.01
    return packed, groups


def int4_matmuls(torch):
    for outputs, cols in SHAPES:
        weights = copies(outputs * cols // 2, lambda: int4_weight(torch, outputs, cols))
        for rows in BATCHES:
            x = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)

            def run(i):
                packed, groups = weights[i % len(weights)]
                torch.ops.aten._weight_int4pack_mm(x, packed, GROUP, groups)

            yield "int4pack_mm", f"{outputs}x{cols}", rows, seconds(torch, run)


def attentions(torch):
    """Without pages: keys and values of a sequence lie end to end, which is the easier task."""
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def random(sequences, heads, tokens):
        return torch.randn(sequences, heads, tokens, DIM, device="cuda", dtype=torch.bfloat16)

    cases = [("sdpa, prompt", 1, n, n) for n in (4096, 8192)]
    cases += [("sdpa, decode", s, 1, n) for s, n in ((1, 32768), (64, 4096), (256, 1024))]
    for name, sequences, rows, context in cases:
        q = random(sequences, HEADS, rows)
        k, v = (random(sequences, KV_HEADS, context) for _ in range(2))
        run = lambda i: sdpa(q, k, v, is_causal=rows > 1, enable_gqa=True)
        yield name, f"{HEADS}/{KV_HEADS} x {DIM}, {context}", sequences * rows, seconds(torch, run)


def model(torch, kind):
    """One decoding step of a model of the shape, compiled, as a function of the number of sequences."""

    class Linear(torch.nn.Module):
        def __init__(self, cols, outputs):
            super().__init__()
            if kind == "int4":
                packed, groups = int4_weight(torch, outputs, cols)
                self.register_buffer("packed", packed)
                self.register_buffer("groups", groups)
            else:
                self.weight = torch.nn.Parameter(
                    torch.randn(outputs, cols, device="cuda", dtype=torch.bfloat16) * 0.02, requires_grad=False
                )

        def forward(self, x):
            if kind == "int4":
                return torch.ops.aten._weight_int4pack_mm(x, self.packed, GROUP, self.groups)
            return torch.nn.functional.linear(x, self.weight)

    class Layer(torch.nn.Module):
        def __init__(self, sequences, context):
            super().__init__()
            self.qkv = Linear(HIDDEN, (HEADS + 2 * KV_HEADS) * DIM)
            self.out = Linear(HEADS * DIM, HIDDEN)
            self.gate_up = Linear(HIDDEN, 2 * WIDTH)
            self.down = Linear(WIDTH, HIDDEN)
            shape = (sequences, KV_HEADS, context, DIM)
            self.register_buffer("k", torch.randn(shape, device="cuda", dtype=torch.bfloat16))
            self.register_buffer("v", torch.randn(shape, device="cuda", dtype=torch.bfloat16))

        def forward(self, x, position, cos, sin):
            rows = x.shape[0]
            normed = torch.nn.functional.rms_norm(x, (HIDDEN,))
            q, k, v = self.qkv(normed).split([HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM], dim=-1)

            def turned(heads):
                heads = heads.view(rows, -1, 1, DIM)
                a, b = heads.chunk(2, dim=-1)
                return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

            self.k.index_copy_(2, position, turned(k))
            self.v.index_copy_(2, position, v.view(rows, KV_HEADS, 1, DIM))
            sdpa = torch.nn.functional.scaled_dot_product_attention
            attended = sdpa(turned(q), self.k, self.v, enable_gqa=True)
            x = x + self.out(attended.reshape(rows, HEADS * DIM))
            gate, up = self.gate_up(torch.nn.functional.rms_norm(x, (HIDDEN,))).chunk(2, dim=-1)
            return x + self.down(torch.nn.functional.silu(gate) * up)

    class Model(torch.nn.Module):
        def __init__(self, sequences, context):
            super().__init__()
            self.embedding = torch.randn(VOCAB, HIDDEN, device="cuda", dtype=torch.bfloat16)
            self.layers = torch.nn.ModuleList([Layer(sequences, context) for _ in range(LAYERS)])
            self.head = Linear(HIDDEN, VOCAB)

        def forward(self, ids, position, cos, sin):
            x = self.embedding[ids]
            for layer in self.layers:
                x = layer(x, position, cos, sin)
            return self.head(torch.nn.functional.rms_norm(x, (HIDDEN,))).argmax(dim=-1)

    return Model


def models(torch, context=1024, tokens=64):
    for kind, sequences in (("int4", 1), ("bf16", 1), ("int4", 64)):
        with torch.inference_mode():
            step = torch.compile(model(torch, kind)(sequences, context), mode="reduce-overhead", fullgraph=True)
            ids = torch.zeros(sequences, device="cuda", dtype=torch.long)
            position = torch.tensor([context - 1], device="cuda")
            cos, sin = (torch.ones(DIM // 2, device="cuda", dtype=torch.bfloat16) for _ in range(2))
            times = []
            for turn in range(4):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                for _ in range(tokens):
                    ids = step(ids, position, cos, sin).clone()
                end.record()
                torch.cuda.synchronize()
                times.append(begin.elapsed_time(end) / 1e3 / tokens)
            # The first turn compiles.
            yield f"torch.compile {kind}", f"llama-3-8b, {context}", sequences, sorted(times[1:])[1]
        del step
        torch.cuda.empty_cache()


def measure():
    """Rows, and why there are not more."""
    try:
        import torch
    except ImportError as error:
        return {"rows": [], "skipped": {"torch": str(error)}}
    if not torch.cuda.is_available():
        return {"rows": [], "skipped": {"torch": "it sees no CUDA device"}}
    rows, skipped = [], {}
    for part in (matmuls, int4_matmuls, attentions, models):
        try:
            for operation, shape, count, time in part(torch):
                rows.append({"operation": operation, "shape": shape, "rows": str(count), "ms": 1e3 * time})
        except Exception as error:  # whatever one peer throws, the others are to be measured
            skipped[part.__name__] = f"{type(error).__name__}: {error}"[:300]
        torch.cuda.empty_cache()
    return {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows, "skipped": skipped}


def table(aieng, peers):
    """Lines of Markdown: aieng's rows with the peer's time and how many times faster aieng is; then peers' own rows."""
    times = {(row["operation"], row["shape"], row["rows"]): row["ms"] for row in peers["rows"]}
    lines = ["| operation | shape | rows | ms | of the ceiling | peer | its ms | ratio |", "|" + " --- |" * 8]
    for row in aieng["rows"]:
        peer = PEER_OF.get(row["operation"].lower())
        time = times.get((peer, row["shape"], row["rows"]))
        beside = ("-", "-", "-") if time is None else (peer, f"{time:.4f}", f"{time / row['ms']:.2f}")
        share = f"{row['percent']:.1f}% {row['bound']}"
        cells = [row["operation"], row["shape"], row["rows"], f"{row['ms']:.4f}", share, *beside]
        lines.append("| " + " | ".join(cells) + " |")
    for row in peers["rows"]:
        if row["operation"].startswith("torch.compile"):
            speed = 1e3 * int(row["rows"]) / row["ms"]
            lines.append(f"{row['operation']}, {row['shape']}, {row['rows']} sequences: {speed:.0f} tok/s")
    lines += [f"SKIPPED: {name}: {why}" for name, why in peers["skipped"].items()]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--json", metavar="FILE", help="measure, and write what came of it")
    mode.add_argument("--table", metavar="FOLDER", help="print bench.json and peers.json of a folder")
    args = parser.parse_args()
    if args.json:
        report = measure()
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
        for name, why in report["skipped"].items():
            print(f"SKIPPED: {name}: {why}")
        return
    read = lambda name: json.loads((Path(args.table) / name).read_text())
    sys.stdout.write("\n".join(table(read("bench.json"), read("peers.json"))) + "\n")


if __name__ == "__main__":
    main()
