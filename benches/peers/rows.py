"""What compare.py measures: rows as data, and what becomes of the measured values.

A `Cell` is one thing that engines are measured on, in turns. A `Row` is a cell's values, or those of one cell over those of
another that was measured in the same turns.
"""

import os
import statistics
from dataclasses import dataclass
from typing import Optional

SMOLLM2, GEMMA, LLAMA_1B = "smollm2-135m", "gemma3-270m", "llama-1b-q4_0"
# SmolLM2 with its weights as floats: llama.cpp's names of their types.
FLOATS = {"smollm2-135m-bf16": "bf16", "smollm2-135m-f16": "f16"}
# Stands for the number of threads that --threads names.
ALL = None


@dataclass(frozen=True)
class Cell:
    model: str
    test: str
    threads: Optional[int] = ALL
    # With a process on each core that never rests.
    busy: bool = False

    @property
    def turns(self):
        """Cells with the same name take turns with each other, too: "pp512" with its variants."""
        return self.test.partition("@")[0]


@dataclass(frozen=True)
class Row:
    name: str
    cell: Cell
    test: str
    unit: str = "tok/s"
    over: Optional[Cell] = None

    @property
    def cells(self):
        return [self.cell] if self.over is None else [self.cell, self.over]


def speed(name, model, test, threads=ALL):
    return Row(name, Cell(model, test, threads), test.replace("@", " @ d"))


def over(name, test, cell, base):
    return Row(name, cell, test, "ratio", base)


def variants(name, test):
    """SmolLM2 with one thread and with busy neighbours, and what becomes of the speed then."""
    base, one = Cell(SMOLLM2, test), Cell(SMOLLM2, test, 1)
    busy = Cell(SMOLLM2, test, busy=True)
    return [
        speed(f"smollm2-{name}-t1", SMOLLM2, test, 1),
        over(f"smollm2-{name}-threads", f"{test}: all threads over 1", base, one),
        Row(f"smollm2-{name}-busy", busy, f"{test}, busy neighbours"),
        over(f"smollm2-{name}-busy-share", f"{test}: busy over idle", busy, base),
    ]


# What models with float weights are measured on: names of rows, and tests.
FLOAT_TESTS = [("pp512", "pp512"), ("tg64", "tg64"), ("x16", "tg32x16")]

ROWS = [
    speed("smollm2-pp512", SMOLLM2, "pp512"),
    *variants("pp512", "pp512"),
    speed("smollm2-pp2048", SMOLLM2, "pp2048"),
    speed("smollm2-tg128", SMOLLM2, "tg128"),
    *variants("tg128", "tg128"),
    speed("smollm2-tg128-d4096", SMOLLM2, "tg128@4096"),
    over("smollm2-depth", "tg128: depth 4096 over 0", Cell(SMOLLM2, "tg128@4096"), Cell(SMOLLM2, "tg128")),
    speed("smollm2-x16", SMOLLM2, "tg64x16"),
    speed("smollm2-x64", SMOLLM2, "tg32x64"),
    Row("smollm2-start", Cell(SMOLLM2, "start"), "process start to first token", "s"),
    Row("smollm2-memory", Cell(SMOLLM2, "memory"), "peak memory, context 2048", "MiB"),
    speed("gemma-pp512", GEMMA, "pp512"),
    speed("gemma-tg128", GEMMA, "tg128"),
    Row("gemma-start", Cell(GEMMA, "start"), "process start to first token", "s"),
    Row("gemma-memory", Cell(GEMMA, "memory"), "peak memory, context 2048", "MiB"),
    speed("llama-1b-pp512", LLAMA_1B, "pp512"),
    speed("llama-1b-tg64", LLAMA_1B, "tg64"),
    speed("llama-1b-x16", LLAMA_1B, "tg32x16"),
    *(speed(f"{kind}-{name}", model, test) for model, kind in FLOATS.items() for name, test in FLOAT_TESTS),
]


def results(row, values, threads):
    """The rows of the report: one for each engine that has values of all cells. `values` is by cell and engine; an engine is
    its name, its version and whether its speed counts as a peer's."""
    measured = [values[cell] for cell in row.cells]
    engines = [engine for engine in measured[0] if all(engine in cell for cell in measured)]
    if row.over is not None:
        engines = [engine for engine in engines if not engine.is_ceiling]
    lists = {engine: quotients(*(cell[engine] for cell in measured)) for engine in engines}
    medians = {engine: statistics.median(of) for engine, of in lists.items()}
    peers = [medians[engine] for engine in engines if engine.is_peer]
    # Seconds and MiB are better where they are fewer.
    best = None if not peers else min(peers) if row.unit in ("s", "MiB") else max(peers)
    ceiling = next((medians[engine] for engine in engines if engine.is_ceiling), None)
    for engine in engines:
        of = lists[engine]
        yield {
            "name": row.name,
            "model": row.cell.model,
            "test": row.test,
            "threads": row.cell.threads or threads,
            "engine": engine.name,
            "version": engine.version,
            "unit": row.unit,
            "median": rounded(medians[engine]),
            "min": rounded(min(of)),
            "max": rounded(max(of)),
            "ratio": None if best is None or engine.is_ceiling else rounded(medians[engine] / best),
            "of_ceiling": None if ceiling is None or engine.is_ceiling else rounded(medians[engine] / ceiling),
        }


def quotients(values, over=None):
    """Turn by turn: what was measured next to each other."""
    return values if over is None else [a / b for a, b in zip(values, over)]


def rounded(value):
    return float(f"{value:.4g}")


def cores():
    return len(os.sched_getaffinity(0))
