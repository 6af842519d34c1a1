"""aieng for Python: the C interface through ctypes, in one file, with nothing to compile.

    with aieng.Engine("model.gguf") as engine:
        for event in engine.generate("Once upon a time", max_tokens=64):
            print(event.text, end="", flush=True)

Many requests run at once: submit() returns a Request at once, and each is iterated by itself, from any thread. One thread of
this module takes the engine's events and hands them to their requests; nothing waits for a slow reader.

The library is looked for in $AIENG_LIBRARY, beside this file, and where the system looks. include/aieng.h is the reference
for every field and limit.
"""

import ctypes
import ctypes.util
import os
import queue
import threading
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, field

ABI_VERSION = 1

OK, TIMEOUT, ERR_CLOSED = 0, 1, 8
DEVICES = {"auto": 0, "cpu": 1, "reference": 2, "simulated": 3, "cuda": 4}
KV_TYPES = {"auto": 0, "f32": 1, "f16": 2, "bf16": 3, "q8": 4}
FINISH_REASONS = {1: "stop", 2: "length", 3: "cancelled", 4: "error", 5: "deadline"}
STOP_CAUSES = {0: None, 1: "eos", 2: "token", 3: "string"}


class Error(Exception):
    """A call that failed; status is its name, as in "AIENG_ERR_BUSY"."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.status = _lib.aieng_status_name(code).decode()


class _Config(Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("struct_size", "flags", "device", "isa", "kv_type", "threads", "context",
                                        "max_sequences", "max_batch_tokens", "max_requests")),
        ("kv_tokens", c_uint64), ("kv_bytes", c_uint64),
        *((name, c_uint32) for name in ("policy", "policy_size", "policy_wait_ms", "ageing_ms")),
        ("tenants", POINTER(c_uint32)), ("tenant_weights", POINTER(c_uint32)), ("tenant_count", c_size_t),
        ("progress", c_void_p), ("progress_data", c_void_p), ("log", c_void_p), ("log_data", c_void_p),
        ("on_event", c_void_p), ("event_data", c_void_p), ("log_level", c_uint32), ("simulated_step_us", c_uint32),
        ("gpu", c_uint32), ("reserved", c_uint32),
    ]


class _Sampling(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("temperature", c_float), ("top_k", c_uint32), ("top_p", c_float),
        ("min_p", c_float), ("repetition_penalty", c_float), ("presence_penalty", c_float),
        ("frequency_penalty", c_float), ("seed", c_uint64), ("max_tokens", c_uint32), ("min_tokens", c_uint32),
        ("flags", c_uint32), ("top_logprobs", c_uint32), ("logit_bias_ids", POINTER(c_uint32)),
        ("logit_bias_values", POINTER(c_float)), ("logit_bias_count", c_size_t), ("stop", POINTER(c_char_p)),
        ("stop_lengths", POINTER(c_size_t)), ("stop_count", c_size_t), ("stop_token_ids", POINTER(c_uint32)),
        ("stop_token_count", c_size_t),
    ]


class _Request(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("token_ids", POINTER(c_uint32)), ("token_count", c_size_t),
        ("text", c_char_p), ("text_length", c_size_t), ("messages", c_void_p), ("message_count", c_size_t),
        ("chat_json", c_char_p), ("chat_json_length", c_size_t), ("sampling", POINTER(_Sampling)),
        ("user_data", c_uint64), ("n", c_uint32), ("best_of", c_uint32), ("priority", c_int32), ("tenant", c_uint32),
        ("deadline_ms", c_uint32), ("prompt_top_logprobs", c_uint32),
    ]


class _TokenLogprob(Structure):
    _fields_ = [("token_id", c_uint32), ("logprob", c_float)]


class _Finish(Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("struct_size", "reason", "stop_cause", "stop_token", "stop_index", "status")),
        ("message", c_char_p), ("message_length", c_size_t),
        *((name, c_uint64) for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "queue_ns", "prefill_ns",
                                        "decode_ns", "ttft_ns", "tpot_ns")),
        ("model_fingerprint", c_uint64 * 2), ("kernels", c_char_p), ("determinism", c_char_p), ("seed", c_uint64),
        ("seed_sample", c_uint64),
    ]


class _Event(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("storage", c_uint64), ("request_id", c_uint64),
        ("user_data", c_uint64), ("sample", c_uint32), ("token_id", c_uint32), ("text", c_void_p),
        ("text_length", c_size_t), ("top", POINTER(_TokenLogprob)), ("top_count", c_uint32), ("logprob", c_float),
        ("finish", POINTER(_Finish)),
    ]


class _Info(Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("struct_size", "device", "isa", "kv_type")),
        ("kernels", c_char_p), ("model_name", c_char_p), ("architecture", c_char_p), ("fingerprint", c_uint64 * 2),
        ("weight_bytes", c_uint64), ("kv_bytes", c_uint64), ("kv_tokens", c_uint64),
        *((name, c_uint32) for name in ("threads", "context", "max_sequences", "max_batch_tokens", "max_requests",
                                        "vocab_size", "has_chat_template", "bos_token")),
        ("gpu", c_char_p),
    ]


def _load():
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libaieng.so.1")
    found = os.environ.get("AIENG_LIBRARY") or (beside if os.path.exists(beside) else None)
    lib = ctypes.CDLL(found or ctypes.util.find_library("aieng") or "libaieng.so.1")
    lib.aieng_abi_version.restype = c_uint32
    if lib.aieng_abi_version() < ABI_VERSION:
        raise ImportError(f"libaieng has ABI {lib.aieng_abi_version()}, but this module needs {ABI_VERSION}")
    for name in ("version", "last_error", "status_name"):
        getattr(lib, "aieng_" + name).restype = c_char_p
    engine, size, text = c_void_p, POINTER(c_size_t), [c_void_p, c_size_t, POINTER(c_size_t)]
    lib.aieng_status_name.argtypes = [c_uint32]
    prototypes = {
        "engine_create": [c_char_p, POINTER(_Config), POINTER(c_void_p)],
        "engine_destroy": [engine],
        "engine_shutdown": [engine],
        "engine_describe": [engine, POINTER(_Info)],
        "submit": [engine, POINTER(_Request), POINTER(c_uint64)],
        "cancel": [engine, c_uint64],
        "next": [engine, POINTER(_Event), c_size_t, c_int64, size],
        "events_clear": [POINTER(_Event)],
        "tokenize": [engine, c_char_p, c_size_t, c_uint32, POINTER(c_uint32), c_size_t, size],
        "detokenize": [engine, POINTER(c_uint32), c_size_t, c_uint32, *text],
        "render": [engine, POINTER(_Request), *text],
        "metrics_text": [engine, *text],
    }
    for name, arguments in prototypes.items():
        function = getattr(lib, "aieng_" + name)
        function.argtypes, function.restype = arguments, c_uint32
    return lib


_lib = _load()


def _check(status):
    if status != OK:
        raise Error(status, _lib.aieng_last_error().decode(errors="replace"))


def _made(struct):
    """A struct of the ABI, zeroed and with its size."""
    value = struct()
    value.struct_size = ctypes.sizeof(struct)
    return value


def version():
    """The library's version."""
    return _lib.aieng_version().decode()


@dataclass
class Finish:
    """How a sample ended, and what it took."""

    reason: str
    stop_cause: str | None
    message: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft: float
    tpot: float
    provenance: dict


@dataclass
class Event:
    """Usually one more token."""

    sample: int
    text: str
    token: int | None
    logprob: float | None
    top: list = field(default_factory=list)
    prompt: bool = False
    finish: Finish | None = None


def _finish(f):
    fingerprint = f.model_fingerprint[1] << 64 | f.model_fingerprint[0]
    provenance = {
        "model": f"{fingerprint:032x}", "kernels": f.kernels.decode(), "determinism": f.determinism.decode(),
        "seed": f.seed, "seed_sample": f.seed_sample,
    }
    return Finish(FINISH_REASONS.get(f.reason, "unknown"), STOP_CAUSES.get(f.stop_cause), f.message.decode(),
                  f.prompt_tokens, f.cached_tokens, f.completion_tokens, f.ttft_ns / 1e9, f.tpot_ns / 1e9, provenance)


def _event(e):
    return Event(
        sample=e.sample,
        text=ctypes.string_at(e.text, e.text_length).decode() if e.text_length else "",
        token=e.token_id if e.flags & 1 else None,
        logprob=e.logprob if e.flags & 2 else None,
        top=[(t.token_id, t.logprob) for t in e.top[:e.top_count]],
        prompt=bool(e.flags & 4),
        finish=_finish(e.finish[0]) if e.finish else None,
    )


class Request:
    """A request on its way: iterate over its events, which end after the last sample's last one."""

    def __init__(self, engine, key):
        self._engine, self._key, self._events, self._over = engine, key, queue.SimpleQueue(), False
        self.id = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._over:
            raise StopIteration
        event = self._events.get()
        if event is None:
            self._over = True
            raise StopIteration
        if isinstance(event, Exception):
            self._over = True
            raise event
        return event

    def cancel(self):
        """Asks for its end; its last event follows."""
        self._engine.cancel(self)

    def text(self):
        """All of its output, once it has ended."""
        return "".join(event.text for event in self if not event.prompt)


class Engine:
    """A loaded model. Methods may be called from any thread. close() it, or use it in a with statement."""

    def __init__(self, path=None, *, device="auto", kv_type="auto", **options):
        """Options are the numbers of aieng_engine_config: threads, context, max_sequences, kv_tokens, kv_bytes, …"""
        config = _made(_Config)
        config.device, config.kv_type = DEVICES[device], KV_TYPES[kv_type]
        _set(config, options)
        self._handle, self._requests, self._lock, self._next_key = c_void_p(), {}, threading.Lock(), 1
        self._closed = False
        _check(_lib.aieng_engine_create(os.fsencode(path) if path else None, config, ctypes.byref(self._handle)))
        self._thread = threading.Thread(target=self._deliver, name="aieng-events", daemon=True)
        self._thread.start()

    def submit(self, prompt, **options):
        """Queues a request and returns it. prompt is a text, a list of token ids, or a conversation: a list of messages (or
        an object with them) as in OpenAI's interface. Options are the fields of aieng_request and aieng_sampling, with
        ignore_eos, logprobs, echo, prompt_logprobs, score, parse_special, no_prefix_cache for their flags, and stop,
        stop_token_ids and logit_bias as list, list and dict."""
        given, keep = _request(prompt, options)
        with self._lock:
            if self._closed:
                raise Error(ERR_CLOSED, "the engine is closed")
            key, self._next_key = self._next_key, self._next_key + 1
            request = self._requests[key] = Request(self, key)
        given.user_data = key
        identity = c_uint64()
        try:
            _check(_lib.aieng_submit(self._handle, given, identity))
        except Error:
            with self._lock:
                self._requests.pop(key, None)
            raise
        del keep
        request.id = identity.value
        return request

    def generate(self, prompt, **options):
        """Submits a request and iterates over its events; leaving the iteration cancels it."""
        request = self.submit(prompt, **options)
        try:
            yield from request
        finally:
            if not request._over and not self._closed:
                request.cancel()

    def cancel(self, request):
        _check(_lib.aieng_cancel(self._handle, request.id))

    def tokenize(self, text, *, bos=False, parse_special=False):
        data, count = text.encode(), c_size_t()
        ids = (c_uint32 * (len(data) + 1))()
        flags = bos | parse_special << 1
        _check(_lib.aieng_tokenize(self._handle, data, len(data), flags, ids, len(ids), count))
        if count.value > len(ids):
            ids = (c_uint32 * count.value)()
            _check(_lib.aieng_tokenize(self._handle, data, len(data), flags, ids, len(ids), count))
        return ids[:count.value]

    def detokenize(self, ids, *, special=False):
        array = (c_uint32 * len(ids))(*ids)
        return _text(lambda *out: _lib.aieng_detokenize(self._handle, array, len(ids), int(special), *out))

    def render(self, conversation):
        """The prompt that the chat template makes of a conversation."""
        given, keep = _request(conversation, {})
        return _text(lambda *out: _lib.aieng_render(self._handle, given, *out))

    def metrics(self):
        """Text that Prometheus reads."""
        return _text(lambda *out: _lib.aieng_metrics_text(self._handle, *out))

    def info(self):
        info = _made(_Info)
        _check(_lib.aieng_engine_describe(self._handle, info))
        values = {name: getattr(info, name) for name, _ in _Info._fields_ if name not in ("struct_size", "fingerprint")}
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}

    def close(self):
        """Cancels what runs, and waits for the end of the engine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        _check(_lib.aieng_engine_shutdown(self._handle))
        self._thread.join()
        _check(_lib.aieng_engine_destroy(self._handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_thread", None):
            self.close()

    def _deliver(self):
        events, count = (_Event * 256)(), c_size_t()
        events[0].struct_size = ctypes.sizeof(_Event)
        while True:
            status = _lib.aieng_next(self._handle, events, len(events), -1, count)
            if status != OK:
                break
            for i in range(count.value):
                event = events[i]
                last = event.flags & 16
                with self._lock:
                    request = self._requests.pop(event.user_data) if last else self._requests[event.user_data]
                request._events.put(_event(event))
                if last:
                    request._events.put(None)
        error = Error(status, _lib.aieng_last_error().decode(errors="replace"))
        with self._lock:
            left, self._requests, self._closed = self._requests, {}, self._closed or status != ERR_CLOSED
        for request in left.values():
            request._events.put(error)
        _lib.aieng_events_clear(events)


def _set(struct, options):
    names = {name for name, kind in struct._fields_ if kind in (c_uint32, c_uint64, c_int32, c_float)}
    for name, value in options.items():
        if name not in names:
            raise TypeError(f"no option {name!r}")
        setattr(struct, name, value)


def _request(prompt, options):
    """The C struct, and what its pointers lead to."""
    import json

    request, sampling = _made(_Request), _made(_Sampling)
    take = lambda name: options.pop(name, False)
    options = dict(options)
    flags = ("parse_special", "echo", "prompt_logprobs", "score", "no_prefix_cache")
    request.flags = sum(1 << bit for bit, name in enumerate(flags) if take(name))
    sampling.flags = sum(1 << bit for bit, name in enumerate(("ignore_eos", "logprobs")) if take(name))
    stop = [text.encode() for text in options.pop("stop", ())]
    stop_ids, bias = options.pop("stop_token_ids", ()), options.pop("logit_bias", {})
    of_request = {"n", "best_of", "priority", "tenant", "deadline_ms", "prompt_top_logprobs"}
    _set(request, {name: options.pop(name) for name in of_request & options.keys()})
    _set(sampling, options)
    keep = [(c_char_p * len(stop))(*stop), (c_size_t * len(stop))(*map(len, stop)),
            (c_uint32 * len(stop_ids))(*stop_ids), (c_uint32 * len(bias))(*bias.keys()),
            (c_float * len(bias))(*bias.values())]
    sampling.stop, sampling.stop_lengths, sampling.stop_count = keep[0], keep[1], len(stop)
    sampling.stop_token_ids, sampling.stop_token_count = keep[2], len(stop_ids)
    sampling.logit_bias_ids, sampling.logit_bias_values, sampling.logit_bias_count = keep[3], keep[4], len(bias)
    if isinstance(prompt, str):
        request.text = prompt.encode()
        request.text_length = len(prompt.encode())
    elif isinstance(prompt, dict) or (prompt and isinstance(prompt[0], dict)):
        request.chat_json = json.dumps(prompt).encode()
        request.chat_json_length = len(request.chat_json)
    else:
        keep.append((c_uint32 * len(prompt))(*prompt))
        request.token_ids, request.token_count = keep[-1], len(prompt)
    request.sampling = ctypes.pointer(sampling)
    return request, [keep, sampling]


def _text(call):
    """A text of unknown length."""
    length, capacity = c_size_t(), 16384
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        _check(call(buffer, capacity, length))
        if length.value < capacity:
            return buffer.raw[:length.value].decode()
        capacity = length.value + 1024
