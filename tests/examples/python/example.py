"""Sixteen requests at once from one queue, half of them cancelled: example.py MODEL, or example.py simulated."""

import sys

import aieng

REQUESTS, TOKENS = 16, 32


def load(model):
    if model == "simulated":
        return aieng.Engine(device="simulated", kv_tokens=16384, simulated_step_us=1000)
    return aieng.Engine(model, kv_tokens=16384)


def submit(engine, number):
    prompt = f"{number + 2} reasons to link an engine:"
    return engine.submit(prompt, max_tokens=4000 if number % 2 else TOKENS, ignore_eos=True, stop=["never to come"])


def read(number, request):
    """Reads a request to its end, cancels the odd ones on the way, and returns how many tokens it had."""
    tokens = 0
    for event in request:
        tokens += event.token is not None
        if tokens == 4 and number % 2 and not event.finish:
            request.cancel()
        finish = event.finish
    assert finish.reason == ("cancelled" if number % 2 else "length"), finish
    assert finish.completion_tokens == tokens and finish.prompt_tokens > 5, finish
    assert number % 2 or tokens == TOKENS, tokens
    return tokens


with load(sys.argv[1]) as engine:
    requests = [submit(engine, number) for number in range(REQUESTS)]
    tokens = sum(read(number, request) for number, request in enumerate(requests))
    assert engine.detokenize(engine.tokenize("to and fro")) == "to and fro"
    assert "\naieng_steps_total " in engine.metrics()
    assert engine.info()["context"] > 0
    assert engine.render([{"role": "user", "content": "Hello"}])
    events = engine.generate("Scored", score=True, prompt_top_logprobs=2)
    assert all(len(event.top) == 2 for event in list(events)[1:-1])
    try:
        engine.submit("x", temperature=-1.0)
        raise AssertionError("a negative temperature was taken")
    except aieng.Error as error:
        assert error.status == "AIENG_ERR_INVALID_ARGUMENT" and "temperature: -1" in str(error), error
print(f"{REQUESTS} requests, {REQUESTS // 2} cancelled, {tokens} tokens")
