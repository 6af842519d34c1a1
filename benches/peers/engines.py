"""The engines that compare.py lets take turns: how each is set up, driven and measured.

An engine answers `speed` (tokens a second of a test), `start` (seconds of a fresh process from its beginning to the first
token) and `memory` (peak resident MiB of a fresh process that fills a context of 2048 tokens). Drivers live as long as a
model is measured, and are warmed up in the same way.

llama.cpp's driver is Python, which is no part of llama.cpp: its start is counted from where Python has imported everything,
and what Python holds by then is taken off its memory. All of aieng's process counts.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rows import ALL, GEMMA, SMOLLM2

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target" / "release" / "aieng"
TOOLCHAIN = ROOT / ".toolchain"
PROMPT = "The capital of France is"
# What llama.cpp is built with for machines on which aieng takes the --isa of this name (those with AVX-512 VNNI have VBMI, which
# aieng does not use, but for the first of them).
AVX2 = "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
AVX512 = f"{AVX2} -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON"
ISAS = {"avx2": AVX2, "avx-vnni": f"{AVX2} -DGGML_AVX_VNNI=ON", "avx512": AVX512, "avx512-bf16": f"{AVX512} -DGGML_AVX512_BF16=ON"}
# Room for 64 sequences of 64 tokens, or for one of 4096 and what it generates.
CONTEXT, SEQUENCES = 8192, 64
# As many tokens as fit 2048 with the one that is generated.
FULL = 2047
WARM_UP = ("pp512", "tg32")


class Failed(Exception):
    """What an engine could not do, in words."""


def run(*command, **options):
    done = subprocess.run(command, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit code {done.returncode}")
    return done.stdout


def output(*command):
    return run(*command, stdout=subprocess.PIPE).strip()


def sizes(test):
    """What "pp512", "tg64x16" and "tg128@4096" stand for."""
    name, _, depth = test.partition("@")
    kind, (count, _, sequences) = name[:2], name[2:].partition("x")
    order = {"test": test, "prompt": 0, "generate": 0, "sequences": int(sequences or 1), "depth": int(depth or 0)}
    order[{"pp": "prompt", "tg": "generate"}[kind]] = int(count)
    return order


class Driver:
    """A process that takes a test a line and answers with its time."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self.answer()["ready"]
        for test in WARM_UP:
            self.speed(test)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name}: its process ended with exit code {self.process.wait()}")
        return json.loads(line)

    def speed(self, test):
        print(json.dumps(sizes(test)), file=self.process.stdin, flush=True)
        answer = self.answer()
        return answer["tokens"] / answer["seconds"][0]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Engine:
    """Drivers by number of threads; `command` makes one."""

    # Whether the ratios of a row may be to it.
    is_peer = False
    is_ceiling = False
    # Whether the comparison goes on without it.
    is_optional = False

    def __init__(self, model):
        self.model = model
        self.drivers = {}

    def speed(self, test, threads):
        if threads not in self.drivers:
            self.drivers[threads] = Driver(self.name, self.command(threads))
        return self.drivers[threads].speed(test)

    def takes(self, _cell):
        """Whether it is measured on a cell."""
        return True

    def close(self):
        for driver in self.drivers.values():
            driver.close()


class Aieng(Engine):
    name = "aieng"
    isa = []

    def version(self):
        return output(BINARY, "--version")

    def command(self, threads):
        sizes = ["--context", str(CONTEXT), "--sequences", str(SEQUENCES)]
        return [BINARY, "bench", "turns", "-m", self.model, "-t", str(threads), *self.isa, *sizes]

    def start(self, threads):
        options = ["--raw", "--temperature", "0", "-n", "4", "-t", str(threads), *self.isa]
        begin = time.perf_counter()
        command = [BINARY, "run", "-m", self.model, *options, PROMPT]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            first = process.stdout.read(1)
            seconds = time.perf_counter() - begin
            process.stdout.read()
        if not first or process.returncode != 0:
            raise Failed(f"{self.name}: no answer, exit code {process.returncode}")
        return seconds

    def memory(self, threads):
        options = ["-p", str(FULL), "-n", "0", "-r", "1", "-t", str(threads), *self.isa, "--json"]
        command = [BINARY, "bench", "-m", self.model, *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise Failed(f"{self.name}: exit code {process.returncode}")
        return usage.ru_maxrss / 1024


class AiengAvx2(Aieng):
    name = "aieng-avx2"
    isa = ["--isa", "avx2"]

    def takes(self, cell):
        return cell.test in ("pp512", "tg128") and cell.threads is ALL and not cell.busy and cell.model in (SMOLLM2, GEMMA)


class LlamaCpp(Engine):
    """By llama-cpp-python built on this machine from PyPI's sources (GGML_NATIVE; flash attention on, which was the faster
    setting wherever it was tried), driven through its low-level API."""

    name = "llama.cpp"
    is_peer = True
    requirement = "llama-cpp-python==0.3.36"
    # Without the last flags gcc 12.2, Debian's, drops the stores to a tile configuration before it is loaded (GCC PR 114098), and
    # llama.cpp dies of SIGILL at the first prompt where it finds AMX.
    cmake = "-DGGML_NATIVE=ON '-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse'"
    python = TOOLCHAIN / "peers" / "bin" / "python"
    built_for = ""

    @classmethod
    def setup(cls):
        folder = cls.python.parents[1]
        stamp = folder / "installed"
        built = f"{cls.requirement} {cls.cmake}"
        if stamp.exists() and stamp.read_text() == built:
            return
        print(f"building {cls.requirement} in {folder}: some minutes", file=sys.stderr)
        run(sys.executable, "-m", "venv", "--clear", folder)
        environment = dict(os.environ, CMAKE_ARGS=cls.cmake, CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count()))
        # Not from pip's cache, which knows neither flags nor machine.
        install = ["-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-binary", "llama-cpp-python", cls.requirement]
        run(cls.python, *install, env=environment)
        stamp.write_text(built)

    @classmethod
    def convert(cls, source, target, kind):
        run(cls.python, Path(__file__).with_name("llama_cpp_convert.py"), source, target, kind, stderr=subprocess.DEVNULL)

    def version(self):
        return self.requirement.replace("==", " ") + self.built_for

    def command(self, threads, *more, context=CONTEXT, sequences=SEQUENCES):
        driver = Path(__file__).with_name("llama_cpp_bench.py")
        sizes = ["--context", str(context), "--sequences", str(sequences)]
        return [self.python, driver, "--model", self.model, "--threads", str(threads), *sizes, "--flash-attention", *more]

    def start(self, threads):
        return json.loads(output(*self.command(threads, "--first-token", PROMPT, context=2048, sequences=1)))["seconds"]

    def memory(self, threads):
        return json.loads(output(*self.command(threads, "--peak-memory", str(FULL), context=2048, sequences=1)))["mib"]


def of_isa(isa):
    """aieng and its peer as a machine has them that knows no more instructions than these."""
    python = TOOLCHAIN / f"peers-{isa}" / "bin" / "python"
    peer = {"cmake": ISAS[isa], "python": python, "built_for": f" for {isa}"}
    return [type("AiengOfIsa", (Aieng,), {"isa": ["--isa", isa]}), type("LlamaCppOfIsa", (LlamaCpp,), peer)]


class MemoryCeiling:
    """No engine: the tokens a second that one sequence could decode at if weights were read as fast as `aieng bench --ceilings`
    reads, and nothing else took time."""

    name = "memory ceiling"
    is_peer = is_optional = False
    is_ceiling = True

    def __init__(self, model):
        self.bytes = json.loads(output(BINARY, "info", "-m", model, "--json"))["bytes"]

    def takes(self, cell):
        """At a depth, and with many sequences, weights are not most of what is read; busy neighbours would slow it down, too."""
        return cell.test.startswith("tg") and "x" not in cell.test and "@" not in cell.test and not cell.busy

    def version(self):
        return None

    def speed(self, _test, threads):
        rates = json.loads(output(BINARY, "bench", "--ceilings", "--json", "-t", str(threads)))
        return rates[0]["ceilings"]["memory"] / self.bytes

    def close(self):
        pass


class Wheel(Engine):
    """A peer that is measured when it is asked for, by optional_bench.py: a Python package whose wheel runs here."""

    is_optional = True

    @classmethod
    def python(cls):
        return TOOLCHAIN / f"peers-{cls.name}" / "bin" / "python"

    @classmethod
    def setup(cls):
        folder = cls.python().parents[1]
        stamp = folder / "installed"
        if stamp.exists() and stamp.read_text() == cls.requirement:
            return
        run(sys.executable, "-m", "venv", "--clear", folder)
        run(cls.python(), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", cls.requirement)
        stamp.write_text(cls.requirement)

    def version(self):
        return self.requirement.replace("==", " ")

    def command(self, threads):
        driver = Path(__file__).with_name("optional_bench.py")
        return [self.python(), driver, "--engine", self.name, "--model", self.model, "--threads", str(threads)]

    def takes(self, cell):
        return cell.test in ("pp512", "tg128", "tg64") and not cell.busy


class OpenVino(Wheel):
    """No peer in ratios: it rounds the minima of Q4_1 to whole numbers, and so computes another model (on the golden prompts 49
    of 267 tokens differ, by up to 7.5 nats)."""

    name = "openvino-genai"
    requirement = "openvino-genai==2026.4.1.0"


class MistralRs(Wheel):
    name = "mistralrs"
    requirement = "mistralrs==0.9.5"
    is_peer = True


OPTIONAL = {kind.name: kind for kind in (OpenVino, MistralRs)}
