"""`python3 -m unittest discover benches/peers`: the report's fields and arithmetic; no engine runs."""

import json
import sys
import unittest
from unittest import mock
from xml.dom import minidom

import chart
import compare
import engines
import gpu
from rows import LLAMA_1B, ROWS, Cell, Row, results

AIENG, PEER = compare.Name("aieng", "aieng 1"), compare.Name("peer", "peer 2", is_peer=True)
SLOW = compare.Name("slow", "slow 3", is_peer=True)
CEILING = compare.Name("memory ceiling", None, is_ceiling=True)
BASE, ONE = Cell("m", "tg128"), Cell("m", "tg128", 1)


def by_engine(rows):
    return {row["engine"]: row for row in rows}


class Results(unittest.TestCase):
    def test_a_ratio_is_to_the_fastest_peer(self):
        values = {BASE: {AIENG: [30.0, 10.0, 20.0], PEER: [10.0, 11.0, 9.0], SLOW: [1.0, 1.0, 1.0], CEILING: [40.0]}}
        rows = by_engine(results(Row("r", BASE, "tg128"), values, 2))
        aieng = rows["aieng"]
        fields = ("model", "test", "threads", "median", "min", "max", "ratio", "of_ceiling")
        self.assertEqual([aieng[field] for field in fields], ["m", "tg128", 2, 20.0, 10.0, 30.0, 2.0, 0.5])
        self.assertEqual((rows["peer"]["ratio"], rows["slow"]["ratio"]), (1.0, 0.1))
        self.assertIsNone(rows["memory ceiling"]["ratio"])

    def test_fewer_seconds_are_better(self):
        start = Cell("m", "start")
        values = {start: {AIENG: [1.0], PEER: [4.0], SLOW: [9.0]}}
        rows = by_engine(results(Row("r", start, "start", "s"), values, 2))
        self.assertEqual((rows["aieng"]["ratio"], rows["slow"]["ratio"]), (0.25, 2.25))

    def test_a_quotient_is_taken_turn_by_turn(self):
        values = {BASE: {AIENG: [20.0, 40.0], PEER: [10.0, 10.0], CEILING: [9.0, 9.0]}}
        values[ONE] = {AIENG: [10.0, 10.0], PEER: [10.0, 10.0], CEILING: [9.0, 9.0]}
        rows = by_engine(results(Row("r", BASE, "2 over 1", "ratio", ONE), values, 2))
        self.assertEqual((rows["aieng"]["median"], rows["aieng"]["min"], rows["aieng"]["max"]), (3.0, 2.0, 4.0))
        self.assertEqual(set(rows), {"aieng", "peer"})

    def test_without_a_peer_there_is_no_ratio(self):
        rows = by_engine(results(Row("r", ONE, "tg128"), {ONE: {AIENG: [5.0]}}, 2))
        self.assertEqual((rows["aieng"]["ratio"], rows["aieng"]["threads"]), (None, 1))


class Rows(unittest.TestCase):
    def test_names_are_unique_and_tests_can_be_read(self):
        names = [row.name for row in ROWS]
        self.assertEqual(len(names), len(set(names)))
        for cell in (cell for row in ROWS for cell in row.cells if cell.test not in ("start", "memory")):
            order = engines.sizes(cell.test)
            self.assertTrue(order["prompt"] or order["generate"], cell)
            length = order["depth"] + order["prompt"] + order["generate"] + 17
            self.assertLessEqual(order["sequences"] * length, engines.CONTEXT, cell)
            self.assertLessEqual(order["sequences"], engines.SEQUENCES, cell)

    def test_sizes(self):
        self.assertEqual(engines.sizes("tg64x16"), {"test": "tg64x16", "prompt": 0, "generate": 64, "sequences": 16, "depth": 0})
        self.assertEqual(engines.sizes("tg128@4096")["depth"], 4096)
        self.assertEqual(engines.sizes("pp512")["prompt"], 512)

    def test_what_is_divided_takes_turns_with_its_divisor(self):
        for row in ROWS:
            self.assertEqual(len({(cell.model, cell.turns) for cell in row.cells}), 1, row)

    def test_the_ceiling_is_for_one_sequence_that_decodes(self):
        takes = engines.MemoryCeiling.takes
        self.assertTrue(takes(None, BASE) and takes(None, ONE))
        for cell in (Cell("m", "pp512"), Cell("m", "tg64x16"), Cell("m", "tg128@4096"), Cell("m", "tg128", busy=True)):
            self.assertFalse(takes(None, cell), cell)


class Isa(unittest.TestCase):
    def test_both_engines_are_held_to_the_instructions(self):
        for isa in engines.ISAS:
            aieng, peer = engines.of_isa(isa)
            command = aieng("model").command(2)
            self.assertEqual(command[command.index("--isa") + 1], isa)
            self.assertIn("-DGGML_NATIVE=OFF", peer.cmake)
            self.assertNotEqual(peer.python, engines.LlamaCpp.python)
            self.assertIn(isa, peer("model").version())


class Pretended(engines.Engine):
    """Its speed is its number of turns so far."""

    is_peer = True
    calls = []

    def __init__(self, model):
        super().__init__(model)
        self.turns = 0

    def version(self):
        return "0"

    def speed(self, test, threads):
        self.turns += 1
        self.calls.append((self.name, test, threads))
        return float(self.turns)


class Turns(unittest.TestCase):
    def setUp(self):
        Pretended.calls.clear()

    def test_engines_take_turns(self):
        kinds = [type(name, (Pretended,), {"name": name}) for name in ("a", "b")]
        rows = [row for row in ROWS if row.name in ("llama-1b-pp512", "llama-1b-x16")]
        with mock.patch.object(sys, "argv", ["compare.py", "--rows", "llama-1b-pp512,llama-1b-x*", "--reps", "2"]):
            args, picked, _ = compare.arguments()
        self.assertEqual(picked, rows)
        with mock.patch.object(compare, "model_file", lambda model, _peer: model), mock.patch.object(compare, "PAUSE", 0):
            done = list(compare.compare(rows, kinds, args))
        n = args.threads
        self.assertEqual(Pretended.calls, [(e, t, n) for t in ("pp512", "tg32x16") for _ in range(2) for e in "ab"])
        self.assertEqual([(row["engine"], row["median"]) for row in done], [("a", 1.5), ("b", 1.5), ("a", 3.5), ("b", 3.5)])
        self.assertTrue(all(set(compare.COLUMNS) <= set(row) and row["model"] == LLAMA_1B for row in done))
        json.dumps(done, allow_nan=False)

    def turns(self, kinds):
        with mock.patch.object(sys, "argv", ["compare.py", "--rows", "llama-1b-pp512", "--reps", "3"]):
            args, rows, _ = compare.arguments()
        with mock.patch.object(compare, "model_file", lambda model, _peer: model), mock.patch.object(compare, "PAUSE", 0):
            return [row["engine"] for row in compare.compare(rows, kinds, args)]

    def test_an_optional_engine_that_fails_is_left_out_and_named(self):
        def speed(engine, _test, _threads):
            engine.turns += 1
            if engine.turns == 2:
                raise engines.Failed("broken")
            return 1.0

        good = type("good", (Pretended,), {"name": "good"})
        bad = type("bad", (Pretended,), {"name": "bad", "is_optional": True, "speed": speed})
        with mock.patch.object(sys, "stderr") as stderr:
            self.assertEqual(self.turns([bad, good]), ["good"])
        written = "".join(call.args[0] for call in stderr.write.call_args_list)
        self.assertIn("SKIPPED: bad: llama-1b-q4_0: broken", written)
        bad.is_optional = False
        with self.assertRaises(engines.Failed):
            self.turns([bad, good])

    def test_wrong_options_are_refused(self):
        for options in (["--rows", "nope"], ["--reps", "0"], ["--threads", "0"], ["--engines", "nope"]):
            with mock.patch.object(sys, "argv", ["compare.py", *options]), mock.patch.object(sys, "stderr"):
                with self.assertRaises(SystemExit) as end:
                    compare.arguments()
                self.assertEqual(end.exception.code, 2, options)


class Chart(unittest.TestCase):
    def test_bars_are_as_long_as_their_ratios(self):
        row = {"model": "m<", "test": "t", "threads": 2, "engine": "aieng", "median": 1.0, "unit": "tok/s", "ratio": 4.0}
        rows = [row, {**row, "unit": "s", "ratio": 0.5}, {**row, "engine": "peer"}, {**row, "ratio": None}]
        bars = minidom.parseString(chart.ratios(rows, "here")).getElementsByTagName("rect")[1:]
        widths = [float(bar.getAttribute("width")) for bar in bars]
        self.assertEqual(widths, [chart.WIDTH, chart.WIDTH / 2])
        minidom.parseString(chart.ratios([], "nothing"))


class Gpu(unittest.TestCase):
    def row(self, operation, rows, ms):
        return {"operation": operation, "shape": "4096x4096", "rows": rows, "ms": ms, "percent": 61.5, "bound": "memory"}

    def test_aieng_stands_beside_the_peer_of_its_shape(self):
        aieng = {"rows": [self.row("linear Q4_0", "1", 0.5), self.row("act_mul", "1", 0.1)]}
        compiled = {"operation": "torch.compile int4", "shape": "llama-3-8b, 1024", "rows": "64", "ms": 16.0}
        peers = {"rows": [self.row("int4pack_mm", "1", 1.0), self.row("int4pack_mm", "2", 9.0), compiled]}
        lines = gpu.table(aieng, {**peers, "skipped": {"attentions": "no"}})
        self.assertIn("| linear Q4_0 | 4096x4096 | 1 | 0.5000 | 61.5% memory | int4pack_mm | 1.0000 | 2.00 |", lines)
        self.assertIn("| act_mul | 4096x4096 | 1 | 0.1000 | 61.5% memory | - | - | - |", lines)
        self.assertEqual(lines[-2], "peer: torch.compile int4, llama-3-8b, 1024, 64 sequences: 4000 tok/s")
        self.assertEqual(lines[-1], "SKIPPED: attentions: no")

    def test_whole_models_are_rows_too(self):
        sizes = {"n_prompt": 0, "n_gen": 64, "n_depth": 1024, "n_sequences": 64}
        test = {"model_type": "llama-3-8b 8.03 B int4", "avg_ts": 8000.0, **sizes}
        rows = list(gpu.whole_models("model-int4.json", [test, {**test, "n_prompt": 9}]))
        self.assertEqual([row["ms"] for row in rows], [8.0])
        compiled = {"operation": "torch.compile int4", "shape": "llama-3-8b, 1024", "rows": "64", "ms": 16.0}
        lines = gpu.table({"rows": rows}, {"rows": [compiled], "skipped": {}})
        want = "| model int4 | llama-3-8b, 1024 | 64 | 8.0000 | - | torch.compile int4 | 16.0000 | 2.00 |"
        self.assertIn(want, lines)
        self.assertIn("aieng: model int4, llama-3-8b, 1024, 64 sequences: 8000 tok/s", lines)

    def test_without_torch_it_says_so(self):
        with mock.patch.dict(sys.modules, {"torch": None}):
            report = gpu.measure()
        self.assertEqual((report["rows"], list(report["skipped"])), ([], ["torch"]))

    def test_rows_have_the_benchmarks_names(self):
        cases = (engines.ROOT / "benches/cuda/cases.rs").read_text()
        for shape in gpu.REAL.shapes:
            for side in shape:
                self.assertIn(str(side), cases.replace("_", ""))
        for operation in (name for name in gpu.PEER_OF if not name.startswith("model")):
            self.assertIn(operation.partition(" ")[0].strip(","), cases)


if __name__ == "__main__":
    unittest.main()
