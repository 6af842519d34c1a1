"""aieng beside other engines: the same file, threads and sizes, in turns (A B A B), in one run. `tools/bench --peers` calls this.

The peer is llama.cpp; it is built once, under .toolchain/peers (peers-ISA for `--isa`), which takes some minutes. `ratio` is an
engine's median over the fastest peer's of the row: above 1 is faster; for seconds and MiB below 1 is better. Where one sequence
decodes, a ceiling takes its turn: the speed that the machine's memory bandwidth allows. `--engines` adds others where they
install; `--isa` holds aieng and llama.cpp, but not those, to the instructions of a lesser machine.
"""

import argparse
import datetime
import fnmatch
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import chart
import engines
from rows import FLOATS, LLAMA_1B, ROWS, SMOLLM2, cores, results

COLUMNS = ("model", "test", "threads", "engine", "median", "unit", "min", "max", "ratio", "of_ceiling")
# Between two turns, so that the one's threads have gone to sleep when the other begins.
PAUSE = 0.05


@dataclass(frozen=True)
class Name:
    """An engine in the results."""

    name: str
    version: Optional[str]
    is_peer: bool = False
    is_ceiling: bool = False


def peer_of(kinds):
    return next(kind for kind in kinds if kind.is_peer)


def model_file(model, peer):
    """A model's file: pulled, converted by the peer or made."""
    if model != LLAMA_1B and model not in FLOATS:
        return engines.output(engines.BINARY, "pull", model)
    path = engines.TOOLCHAIN / "models" / f"{model}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        if model in FLOATS:
            peer.convert(model_file(SMOLLM2, peer), path, FLOATS[model])
        else:
            engines.run(engines.BINARY, "bench", "--make-model", "llama-1b", path, stdout=subprocess.DEVNULL)
    return str(path)


@contextmanager
def neighbours(wanted):
    """A process on each core that never rests."""
    cpus = os.sched_getaffinity(0) if wanted else []
    loop = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", loop, str(cpu)]) for cpu in cpus]
    try:
        time.sleep(0.3 if wanted else 0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(engine, cell, threads):
    time.sleep(PAUSE)
    if cell.test in ("start", "memory"):
        return getattr(engine, cell.test)(cell.threads or threads)
    return engine.speed(cell.test, cell.threads or threads)


def skip(name, why):
    print(f"SKIPPED: {name}: {why}", file=sys.stderr, flush=True)


def without(values, engine):
    """A cell's values but for an engine's, which would be fewer than the others'."""
    return defaultdict(list, {name: of for name, of in values.items() if name != engine})


def take_turns(model, cells, kinds, args):
    """Values by cell and engine: each repetition measures every cell, one engine after the other."""
    path = model_file(model, peer_of(kinds))
    running = [kind(path) for kind in kinds]
    names = {engine: Name(engine.name, engine.version(), engine.is_peer, engine.is_ceiling) for engine in running}
    values = {cell: defaultdict(list) for cell in cells}
    for family in dict.fromkeys(cell.turns for cell in cells):
        for _ in range(args.reps):
            for cell in (cell for cell in cells if cell.turns == family):
                with neighbours(cell.busy):
                    for engine in [engine for engine in running if engine.takes(cell)]:
                        try:
                            values[cell][names[engine]].append(measure(engine, cell, args.threads))
                        except engines.Failed as failed:
                            if not engine.is_optional:
                                raise
                            skip(engine.name, f"{model}: {failed}")
                            running.remove(engine)
                            values = {cell: without(of, names[engine]) for cell, of in values.items()}
        yield family, values
    for engine in running:
        engine.close()


def compare(rows, kinds, args):
    """Rows of results, each as soon as its cells are measured."""
    cells = list(dict.fromkeys(cell for row in rows for cell in row.cells))
    for model in dict.fromkeys(cell.model for cell in cells):
        of_model = [cell for cell in cells if cell.model == model]
        for family, values in take_turns(model, of_model, kinds, args):
            for row in rows:
                if row.cell.model == model and row.cell.turns == family:
                    yield from results(row, values, args.threads)


def machine(isa):
    fields = dict(line.split(":", 1) for line in open("/proc/cpuinfo") if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    cpu, family = fields.get("model name", platform.machine()), fields.get("cpu family", "?")
    limit = f", no more than {isa}" if isa else ""
    return f"{cpu} (family {family}), {cores()} cores{limit}, Linux {platform.release()}"


def arguments():
    names = ", ".join(row.name for row in ROWS)
    parser = argparse.ArgumentParser(prog="tools/bench --peers", description=__doc__, epilog=f"Rows: {names}.")
    parser.add_argument("--rows", default="*", help="names, separated by commas; * stands for anything [all]")
    parser.add_argument("--threads", type=int, default=cores(), help="where a row does not say 1 [%(default)s]")
    parser.add_argument("--reps", type=int, default=5, help="turns of each engine [%(default)s]")
    parser.add_argument("--isa", choices=engines.ISAS, help="what aieng and llama.cpp may use at most [all that the machine has]")
    parser.add_argument("--engines", default="", help=f"optional peers, separated by commas: {', '.join(engines.OPTIONAL)}")
    parser.add_argument("--json", metavar="FILE", help="write the machine and the rows there, too")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the ratios")
    args = parser.parse_args()
    patterns = args.rows.split(",")
    rows = [row for row in ROWS if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]
    unknown = [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(row.name, pattern) for row in ROWS)]
    if unknown:
        parser.error(f"--rows: {unknown[0]} is none of {names}")
    if args.reps < 1 or args.threads < 1:
        parser.error("--reps, --threads: at least 1")
    optional = [name for name in args.engines.split(",") if name]
    unknown = [name for name in optional if name not in engines.OPTIONAL]
    if unknown:
        parser.error(f"--engines: {unknown[0]} is none of {', '.join(engines.OPTIONAL)}")
    return args, rows, [engines.OPTIONAL[name] for name in optional]


def main():
    try:
        report(*arguments())
    except engines.Failed as failed:
        sys.exit(str(failed))


def report(args, rows, optional):
    build = ["cargo", "build", "--release", "--quiet", "--package", "aieng-cli"]
    engines.run(*build, "--manifest-path", engines.ROOT / "Cargo.toml")
    own = engines.of_isa(args.isa) if args.isa else [engines.Aieng, engines.AiengAvx2, engines.LlamaCpp]
    kinds = [*own, engines.MemoryCeiling]
    peer_of(own).setup()
    for kind in optional:
        try:
            kind.setup()
            kinds.append(kind)
        except engines.Failed as failed:
            skip(kind.name, failed)
    print(f"{machine(args.isa)}, {datetime.date.today()}\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- | --- | --: | --- | --: | --- | --: | --: | --: | --: |")
    done = []
    for row in compare(rows, kinds, args):
        done.append(row)
        cells = ("" if row[column] is None else str(row[column]) for column in COLUMNS)
        print("| " + " | ".join(cells) + " |", flush=True)
    if any(row["engine"] == engines.OpenVino.name for row in done):
        print(f"\n{engines.OpenVino.name} computes another model: no ratio is to it.")
    print("\n" + "; ".join(sorted({row["version"] for row in done if row["version"]})))
    if args.json:
        whole = {"machine": machine(args.isa), "reps": args.reps, "rows": done}
        Path(args.json).write_text(json.dumps(whole, indent=1) + "\n")
    if args.plot:
        Path(args.plot).write_text(chart.ratios(done, machine(args.isa)))


if __name__ == "__main__":
    main()
