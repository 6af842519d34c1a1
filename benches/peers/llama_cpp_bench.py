"""llama.cpp's speed through the low-level API of llama-cpp-python: only llama_decode and llama_synchronize are timed.

Reads one JSON object a line from standard input, {"test": "pp512", "prompt": 512, "generate": 0, "sequences": 1,
"depth": 0}, runs it and prints {"test": ..., "tokens": N, "seconds": [...]}; so that another program can let engines take
turns. As llama-bench does: random tokens, greedy nothing (the next token is drawn at random), logits only where a
token would be sampled.

With --first-token or --peak-memory it measures that instead, and ends: the seconds from the end of Python's imports to the
first token of a greedy answer, or the peak of resident memory above what Python had before, once a context is full.
"""

import argparse
import ctypes
import json
import random
import sys
import time

import llama_cpp as llama
import numpy as np


def quiet(_level, _text, _user):
    pass


class Peer:
    def __init__(self, args):
        self.callback = llama.llama_log_callback(quiet)
        llama.llama_log_set(self.callback, ctypes.c_void_p(0))
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        self.model = llama.llama_model_load_from_file(args.model.encode(), params)
        if not self.model:
            sys.exit(f"{args.model}: llama.cpp cannot load it")
        context = llama.llama_context_default_params()
        context.n_ctx = args.context
        context.n_batch = 2048
        context.n_ubatch = 512
        context.n_threads = context.n_threads_batch = args.threads
        context.n_seq_max = args.sequences
        context.kv_unified = True
        context.flash_attn_type = 1 if args.flash_attention else 0
        self.context = llama.llama_init_from_model(self.model, context)
        if not self.context:
            sys.exit(f"{args.model}: llama.cpp makes no context of {args.context} tokens")
        self.memory = llama.llama_get_memory(self.context)
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.batch = llama.llama_batch_init(2048, 0, 1)
        self.random = random.Random(7)
        self.filled = 0

    def decode(self, rows):
        """rows: (position, sequence, whether logits are wanted)"""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (position, sequence, logits) in enumerate(rows):
            batch.token[i] = self.random.randrange(self.vocab)
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        status = llama.llama_decode(self.context, batch)
        if status != 0:
            sys.exit(f"llama_decode: {status}")

    def prefill(self, tokens, sequence):
        for start in range(0, tokens, 2048):
            end = min(tokens, start + 2048)
            self.decode([(p, sequence, p + 1 == tokens) for p in range(start, end)])

    def run(self, test):
        """Seconds that the measured part took."""
        sequences, depth = test["sequences"], test["depth"]
        # A context that is there from the test before need not be computed again: it is not measured.
        if not (sequences == 1 and depth == self.filled > 0 and llama.llama_memory_seq_rm(self.memory, 0, depth, -1)):
            llama.llama_memory_clear(self.memory, True)
            for sequence in range(sequences):
                self.prefill(depth, sequence)
        self.filled = depth if sequences == 1 else 0
        llama.llama_synchronize(self.context)
        begin = time.perf_counter()
        for sequence in range(sequences):
            self.prefill(test["prompt"], sequence)
        position = depth + test["prompt"]
        for step in range(test["generate"]):
            self.decode([(position + step, sequence, True) for sequence in range(sequences)])
            llama.llama_synchronize(self.context)
        llama.llama_synchronize(self.context)
        return time.perf_counter() - begin


    def first_token(self, text):
        """Runs a text and takes the likeliest token."""
        vocab = llama.llama_model_get_vocab(self.model)
        data = text.encode()
        tokens = (llama.llama_token * 64)()
        count = llama.llama_tokenize(vocab, data, len(data), tokens, len(tokens), True, True)
        if llama.llama_decode(self.context, llama.llama_batch_get_one(tokens, count)) != 0:
            sys.exit("llama_decode failed")
        logits = llama.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.vocab,)).argmax())


def memory(field):
    """MiB that /proc says this process has (VmRSS) or had at most (VmHWM)."""
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--flash-attention", action="store_true")
    parser.add_argument("--first-token", metavar="TEXT")
    parser.add_argument("--peak-memory", metavar="TOKENS", type=int)
    args = parser.parse_args()
    before, begin = memory("VmRSS"), time.perf_counter()
    peer = Peer(args)
    if args.first_token:
        peer.first_token(args.first_token)
        print(json.dumps({"seconds": time.perf_counter() - begin}))
        return
    if args.peak_memory:
        peer.run({"prompt": args.peak_memory, "generate": 1, "sequences": 1, "depth": 0})
        print(json.dumps({"mib": memory("VmHWM") - before}))
        return
    print(json.dumps({"ready": llama.__version__}), flush=True)
    for line in sys.stdin:
        test = json.loads(line)
        seconds = [peer.run(test)]
        tokens = test["sequences"] * (test["prompt"] + test["generate"])
        print(json.dumps({"test": test["test"], "tokens": tokens, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
