"""aieng beside other engines: the same file, threads and sizes, in turns, in one run. `tools/bench --peers` calls this.

The peer is llama.cpp, by llama-cpp-python built on this machine from PyPI's sources (GGML_NATIVE, flash attention on, which was
the faster setting wherever it was tried), driven through its low-level API: llama_cpp_bench.py. It is set up once, under
.toolchain/peers; that takes some minutes.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".toolchain" / "peers"
LLAMA = "llama-cpp-python==0.3.36"

# name: prompt, generated, sequences
TESTS = {
    "pp512": (512, 0, 1),
    "pp2048": (2048, 0, 1),
    "tg128": (0, 128, 1),
    "tg64x16": (0, 64, 16),
    "tg64x64": (0, 64, 64),
}


def run(*command, **options):
    done = subprocess.run(command, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}")
    return done.stdout


def setup():
    """The peers' Python, with llama.cpp built for this machine."""
    python = PEERS / "bin" / "python"
    stamp = PEERS / "installed"
    if not stamp.exists() or stamp.read_text() != LLAMA:
        print(f"building {LLAMA} in {PEERS.relative_to(ROOT)}: some minutes", file=sys.stderr)
        run(sys.executable, "-m", "venv", "--clear", PEERS)
        environment = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON", CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count()))
        run(python, "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", LLAMA, env=environment)
        stamp.write_text(LLAMA)
    return python


class Aieng:
    name = "aieng"

    def __init__(self, model, threads):
        self.binary = ROOT / "target" / "release" / "aieng"
        self.common = ["-m", model, "-t", str(threads)]
        self.version = run(self.binary, "--version", stdout=subprocess.PIPE).strip()

    def speed(self, test):
        """Tokens a second."""
        prompt, generated, sequences = TESTS[test]
        if sequences == 1:
            sizes = ["-p", str(prompt), "-n", str(generated), "-r", "1", "--json"]
            return json.loads(run(self.binary, "bench", *self.common, *sizes, stdout=subprocess.PIPE))[0]["avg_ts"]
        n = str(sequences)
        sizes = ["--prompt-len", "1", "--output-len", str(generated + 1), "--requests", n, "--concurrency", n]
        command = [self.binary, "bench", "serve", *self.common, *sizes, "--max-sequences", n, "--json"]
        return sequences * 1000 / json.loads(run(*command, stdout=subprocess.PIPE))[0]["median_tpot_ms"]


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, python, model, threads):
        driver = Path(__file__).with_name("llama_cpp_bench.py")
        options = ["--model", model, "--threads", str(threads), "--context", "8192", "--sequences", "64"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([python, driver, *options, "--flash-attention"], **pipes)
        self.version = "llama-cpp-python " + self.answer()["ready"]
        for test in ("pp512", "tg128"):
            self.speed(test)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: the driver ended")
        return json.loads(line)

    def speed(self, test):
        """Tokens a second."""
        prompt, generated, sequences = TESTS[test]
        order = {"test": test, "prompt": prompt, "generate": generated, "sequences": sequences, "depth": 0}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = self.answer()
        return answer["tokens"] / answer["seconds"][0]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(alias, threads, tests, reps, python):
    """Rows of one model with one number of threads."""
    binary = ROOT / "target" / "release" / "aieng"
    model = run(binary, "pull", alias, stdout=subprocess.PIPE).strip()
    engines = [Aieng(model, threads), LlamaCpp(python, model, threads)]
    for test in tests:
        speeds = {engine.name: [] for engine in engines}
        for _ in range(reps):
            for engine in engines:
                speeds[engine.name].append(engine.speed(test))
        peer = statistics.median(speeds[engines[1].name])
        for engine in engines:
            values = speeds[engine.name]
            median = statistics.median(values)
            yield {
                "model": alias,
                "test": test,
                "threads": threads,
                "engine": engine.name,
                "version": engine.version,
                "median": round(median, 1),
                "min": round(min(values), 1),
                "max": round(max(values), 1),
                "ratio": round(median / peer, 2),
            }
    engines[1].close()


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    family = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("cpu family")), "?")
    return f"{cpu} (family {family}), {os.cpu_count()} cores, Linux {platform.release()}"


def main():
    parser = argparse.ArgumentParser(prog="tools/bench --peers", description=__doc__)
    parser.add_argument("--models", default="smollm2-135m", help="aliases, separated by commas [%(default)s]")
    parser.add_argument("--tests", default=",".join(TESTS), help="some of %(default)s")
    parser.add_argument("--threads", default=str(os.cpu_count()), help="numbers of threads [%(default)s]")
    parser.add_argument("--reps", type=int, default=5, help="turns of each engine [%(default)s]")
    parser.add_argument("--json", metavar="FILE", help="write the machine and the rows there, too")
    args = parser.parse_args()
    tests = args.tests.split(",")
    unknown = [test for test in tests if test not in TESTS]
    if unknown or args.reps < 1:
        parser.error(f"--tests: {unknown[0]} is none of {', '.join(TESTS)}" if unknown else "--reps: at least 1")
    python = setup()
    run("cargo", "build", "--release", "--quiet", "--manifest-path", ROOT / "Cargo.toml")
    print(f"{machine()}, {datetime.date.today()}\n")
    print("| model | test | threads | engine | tok/s | min | max | ratio |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |")
    rows = []
    for alias in args.models.split(","):
        for threads in map(int, args.threads.split(",")):
            for row in measure(alias, threads, tests, args.reps, python):
                rows.append(row)
                shown = ("model", "test", "threads", "engine", "median", "min", "max", "ratio")
                print("| " + " | ".join(str(row[name]) for name in shown) + " |", flush=True)
    print("\n" + "; ".join(sorted({row["version"] for row in rows})))
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
