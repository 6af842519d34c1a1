"""Optional peers by their Python wheels: openvino-genai and mistralrs. The protocol is that of llama_cpp_bench.py, for one
sequence without context before it.

openvino-genai is timed round `generate`, as aieng is round a request. mistralrs takes text only, so its own report of tokens a
second counts; the text has about as many tokens as the test asks for.
"""

import argparse
import json
import os
import random
import sys
import time


class OpenVino:
    def __init__(self, model, threads):
        import numpy
        import openvino
        import openvino_genai

        self.numpy, self.openvino, self.genai = numpy, openvino, openvino_genai
        self.pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads, ENABLE_MMAP=True)
        self.version = f"openvino-genai {openvino_genai.__version__}"
        self.random = random.Random(7)

    def run(self, prompt, generate):
        """Tokens and the seconds they took."""
        ids = self.numpy.array([[self.random.randrange(1000, 30000) for _ in range(max(prompt, 1))]], dtype=self.numpy.int64)
        inputs = self.genai.TokenizedInputs(self.openvino.Tensor(ids), self.openvino.Tensor(self.numpy.ones_like(ids)))
        config = self.genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = generate or 1
        config.ignore_eos, config.do_sample = True, False
        begin = time.perf_counter()
        result = self.pipeline.generate(inputs, config)
        seconds = time.perf_counter() - begin
        got = len(result.tokens[0])
        if got != (generate or 1):
            sys.exit(f"openvino-genai: {got} tokens instead of {generate or 1}")
        return prompt + generate, seconds


class MistralRs:
    def __init__(self, model, threads):
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        os.environ.setdefault("RUST_LOG", "error")
        import mistralrs
        from importlib.metadata import version

        folder, name = os.path.split(os.path.abspath(model))
        self.mistralrs = mistralrs
        self.runner = mistralrs.Runner(which=mistralrs.Which.GGUF(folder, name))
        self.version = f"mistralrs {version('mistralrs')}"
        self.turn = 0

    def run(self, prompt, generate):
        """Tokens and the seconds they took, by its own account."""
        self.turn += 1
        # Each turn has a text of its own, so that no cached prefix helps. A word is a token.
        text = f"{self.turn}" + " the" * max(prompt - 1, 1)
        request = self.mistralrs.CompletionRequest(
            prompt=text, model="default", max_tokens=max(generate, 2), temperature=0.0, echo_prompt=False
        )
        usage = self.runner.send_completion_request(request).usage
        if prompt:
            return prompt, prompt / usage.avg_prompt_tok_per_sec
        return generate, generate / usage.avg_compl_tok_per_sec


KINDS = {"openvino-genai": OpenVino, "mistralrs": MistralRs}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=KINDS, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = KINDS[args.engine](args.model, args.threads)
    print(json.dumps({"ready": engine.version}), file=answers, flush=True)
    for line in sys.stdin:
        test = json.loads(line)
        tokens, seconds = engine.run(test["prompt"], test["generate"])
        print(json.dumps({"test": test["test"], "tokens": tokens, "seconds": [seconds]}), file=answers, flush=True)


if __name__ == "__main__":
    main()
