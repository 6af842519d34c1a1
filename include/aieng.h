/*
 * aieng.h: the C interface of aieng, an LLM inference runtime that is linked, not run.
 *
 * A program in four calls:
 *
 *     aieng_engine_config config = {0};
 *     config.struct_size = sizeof config;
 *     aieng_engine *engine;
 *     aieng_engine_create("model.gguf", &config, &engine);
 *
 *     aieng_request request = {0};
 *     request.struct_size = sizeof request;
 *     request.text = "Once upon a time";
 *     request.text_length = AIENG_STRLEN;
 *     uint64_t id;
 *     aieng_submit(engine, &request, &id);
 *
 *     aieng_event event = {0};
 *     event.struct_size = sizeof event;
 *     while (!(event.flags & AIENG_EVENT_FINISH) && aieng_next(engine, -1, &event) == AIENG_OK)
 *         fwrite(event.text, 1, event.text_length, stdout);
 *     aieng_event_clear(&event);
 *
 *     aieng_engine_destroy(engine);
 *
 * The rules that hold for all of it:
 *
 * Structs      are zeroed by the caller, who then sets struct_size to sizeof. Zero is the default of every field, and
 *              is always legal. Structs only grow at their end: a library that is newer than the caller reads the
 *              missing fields as zero; a library that is older refuses a field it does not know, unless it is zero.
 * Arrays       of structs have elements of one size: the struct_size of the first.
 * Strings      go in as pointer and length, or as pointer and AIENG_STRLEN where they end in NUL; they are UTF-8.
 *              They come out as pointer and length, with a NUL behind.
 * Enumerations and flags are uint32_t. Values are never renumbered, and new ones will be added: have a default case.
 * Statuses     come from every call that can fail. Unless its text says otherwise, a NULL argument, a wrong
 *              struct_size, an unknown enumeration value or flag and a value out of range are
 *              AIENG_ERR_INVALID_ARGUMENT, and aieng_last_error() names argument, field and value.
 * Handles      are numbers dressed up as pointers and are checked at each call: one that was destroyed is
 *              AIENG_ERR_CLOSED, one that was never made AIENG_ERR_INVALID_ARGUMENT.
 * Faults       inside the library never reach the caller: the call returns AIENG_ERR_INTERNAL and from then on its
 *              engine is closed, while all others go on.
 */
#ifndef AIENG_H
#define AIENG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------------- Version ---- */

/** The ABI that this header describes. It is raised by one with each addition. */
#define AIENG_ABI_VERSION 1u

/**
 * The library's version as semantic versioning writes it; built from a git checkout, its revision follows a plus sign:
 * "0.1.0+1a2b3c4d5e6f".
 *
 * Ownership: the string is the library's and is there as long as the library is loaded.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    none.
 */
const char *aieng_version(void);

/**
 * The AIENG_ABI_VERSION of the library. At least the header's one: everything the header declares is there.
 *
 * Ownership: nothing to own.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    none.
 */
uint32_t aieng_abi_version(void);

/* ---------------------------------------------------------------------------------------------------- Statuses --- */

/** How a call ended: one of AIENG_OK and the rest. */
typedef uint32_t aieng_status;

enum {
  /** Done. */
  AIENG_OK = 0,
  /** The time given to aieng_next() went by without an event. Not an error: aieng_last_error() stays as it was. */
  AIENG_TIMEOUT = 1,
  /** A parameter or a request is outside its documented range. */
  AIENG_ERR_INVALID_ARGUMENT = 2,
  /** The operating system refused to open, read or map a file. */
  AIENG_ERR_IO = 3,
  /** A model file is damaged or contradicts itself. */
  AIENG_ERR_MODEL_FORMAT = 4,
  /** The input is well formed, but asks for something that this library, machine or model does not have. */
  AIENG_ERR_UNSUPPORTED = 5,
  /** A bounded queue is full; try again after the next event. */
  AIENG_ERR_BUSY = 6,
  /** Memory could not be had. */
  AIENG_ERR_OUT_OF_MEMORY = 7,
  /** The engine was destroyed, or an internal error has closed it. */
  AIENG_ERR_CLOSED = 8,
  /** A bug in aieng, caught before it could harm the caller. Worth a report. */
  AIENG_ERR_INTERNAL = 9
};

/**
 * A status's name, as in "AIENG_ERR_BUSY"; "AIENG_STATUS_UNKNOWN" for a number that is none.
 *
 * Ownership: the string is the library's and is there as long as the library is loaded.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    none.
 */
const char *aieng_status_name(aieng_status status);

/**
 * What went wrong in this thread's latest call that returned an error: file, field and value in one line of UTF-8, for
 * people. Calls that end well, and AIENG_TIMEOUT, leave it as it was. Empty before the first error, never NULL.
 *
 * Ownership: the string is the library's; it lives until this thread's next call that returns an error, or the
 *            thread's end. Copy it to keep it.
 * Threads:   any; each has its own. Where a scheduler moves tasks between threads (Go, async runtimes), ask for the
 *            message in the same uninterrupted native section as the failing call.
 * Blocking:  never.
 * Errors:    none.
 */
const char *aieng_last_error(void);

/* ---------------------------------------------------------------------------------------------------- Strings ---- */

/** As a length: the string ends at its NUL. */
#define AIENG_STRLEN SIZE_MAX

/* ---------------------------------------------------------------------------------------------------- Engine ----- */

/** A loaded model and the thread that steps it. */
typedef struct aieng_engine aieng_engine;

/** Where the model runs. */
typedef uint32_t aieng_device;

enum {
  /** The best device of this machine that the library supports. */
  AIENG_DEVICE_AUTO = 0,
  /** The CPU. */
  AIENG_DEVICE_CPU = 1,
  /** The scalar f32 reference, on the CPU: slow and exact, to check other devices with. */
  AIENG_DEVICE_REFERENCE = 2
};

/** The instruction set that AIENG_DEVICE_CPU uses. One that this CPU lacks is AIENG_ERR_UNSUPPORTED. */
typedef uint32_t aieng_isa;

enum {
  /** The fastest that this CPU has. */
  AIENG_ISA_AUTO = 0,
  /** No vector instructions beyond the target's baseline. */
  AIENG_ISA_PORTABLE = 1,
  /** AVX2, FMA and F16C. */
  AIENG_ISA_AVX2 = 2,
  /** AVX-512 F, BW, VL, DQ and VNNI. */
  AIENG_ISA_AVX512 = 3
};

/** Element type of the KV cache. */
typedef uint32_t aieng_kv_type;

enum {
  /** F32 on the reference device, F16 elsewhere. */
  AIENG_KV_AUTO = 0,
  AIENG_KV_F32 = 1,
  AIENG_KV_F16 = 2,
  AIENG_KV_BF16 = 3,
  /** 8-bit codes with a scale a token and head: about half of F16. */
  AIENG_KV_Q8 = 4
};

/** In aieng_engine_config.flags: leave the placing of the worker threads to the operating system. */
#define AIENG_ENGINE_UNPINNED 1u

/** How to load and run a model. All zero suits one user on the whole machine. */
typedef struct aieng_engine_config {
  uint32_t struct_size;
  /** AIENG_ENGINE_*, or-ed. */
  uint32_t flags;
  aieng_device device;
  /** Other than AIENG_ISA_AUTO only where the device is the CPU. */
  aieng_isa isa;
  aieng_kv_type kv_type;
  /** Worker threads, the step thread included; 0: one a physical core that this process may use. */
  uint32_t threads;
  /** Longest sequence in tokens, prompt and output together; 0: the smaller of the model's context and 4096. */
  uint32_t context;
  /** Sequences in one batch; 0: 16. */
  uint32_t max_sequences;
  /** Tokens in one step; 0: 512. */
  uint32_t max_batch_tokens;
  /** Requests accepted and not yet finished, one more is AIENG_ERR_BUSY; 0: 256. */
  uint32_t max_requests;
  /** Size of the KV cache in tokens, shared by all sequences; 0: as many as context. */
  uint64_t kv_tokens;
} aieng_engine_config;

/**
 * Loads the model file at path (GGUF), whose name ends in NUL and is bytes to the operating system, not UTF-8, and
 * starts the engine. On failure *engine is NULL.
 *
 * Ownership: the engine is the caller's, to be given to aieng_engine_destroy(). Nothing of path and config is kept. The
 *            file is mapped: it must not be changed while the engine lives (replacing it by rename is fine).
 * Threads:   any; several engines can live side by side.
 * Blocking:  until the model is loaded.
 * Errors:    AIENG_ERR_IO, AIENG_ERR_MODEL_FORMAT, AIENG_ERR_UNSUPPORTED and AIENG_ERR_OUT_OF_MEMORY, each naming the
 *            file; AIENG_ERR_INVALID_ARGUMENT; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_engine_create(const char *path, const aieng_engine_config *config, aieng_engine **engine);

/**
 * Ends an engine and everything in it. Requests in flight are cancelled, calls that wait in other threads return, and
 * each later call on the engine is AIENG_ERR_CLOSED. NULL does nothing.
 *
 * Ownership: takes the engine. Events that were read from it stay valid until they are cleared.
 * Threads:   any, also while other threads are inside calls on this engine.
 * Blocking:  until the step in progress has ended, the engine's threads are gone and those calls have returned.
 * Errors:    AIENG_ERR_CLOSED the second time; AIENG_ERR_INVALID_ARGUMENT for what never was an engine;
 *            AIENG_ERR_INTERNAL.
 */
aieng_status aieng_engine_destroy(aieng_engine *engine);

/* ---------------------------------------------------------------------------------------------------- Requests --- */

/**
 * How tokens are chosen, and when a generation ends. All zero is greedy decoding of at most 128 tokens: a zero
 * temperature takes the most likely token each time, and each other zero switches its feature off.
 */
typedef struct aieng_sampling {
  uint32_t struct_size;
  /** 0: greedy. At most 100; 1 samples from the model's own distribution. */
  float temperature;
  /** Keep the k most likely tokens; 0: all. */
  uint32_t top_k;
  /** Keep the smallest set whose probabilities sum to at least this, in (0, 1]; 0: all. */
  float top_p;
  /** Drop tokens less likely than this times the most likely one, in [0, 1]. */
  float min_p;
  /** Divides positive and multiplies negative logits of tokens seen in prompt or output, in (0, 100]; 0: off, as 1. */
  float repetition_penalty;
  /** Subtracted once from the logit of each token in the output, in [-2, 2]. */
  float presence_penalty;
  /** Subtracted once per occurrence in the output, in [-2, 2]. */
  float frequency_penalty;
  /** The same seed gives the same tokens, in any batch. */
  uint64_t seed;
  /** Most tokens to generate; 0: 128. */
  uint32_t max_tokens;
  /** 1: go on after the model's end-of-text tokens. */
  uint32_t ignore_eos;
  /** 1: events carry the log-probability of their token. */
  uint32_t logprobs;
  /** With logprobs: report the n most likely tokens too, at most 20. */
  uint32_t top_logprobs;
  /** logit_bias_values[i] is added to the logit of token logit_bias_ids[i]; at most 1024 of them. */
  const uint32_t *logit_bias_ids;
  const float *logit_bias_values;
  size_t logit_bias_count;
  /** Generation ends before any of these strings, none empty, at most 64. stop_lengths NULL: all end in NUL. */
  const char *const *stop;
  const size_t *stop_lengths;
  size_t stop_count;
  /** Generation ends at any of these tokens, which are not part of the text; at most 64. */
  const uint32_t *stop_token_ids;
  size_t stop_token_count;
} aieng_sampling;

/** One turn of a conversation. */
typedef struct aieng_message {
  uint32_t struct_size;
  /** 0. */
  uint32_t reserved;
  /** "system", "user" or "assistant". */
  const char *role;
  size_t role_length;
  const char *content;
  size_t content_length;
} aieng_message;

/** In aieng_request.flags: spellings of special tokens in text ("<|im_start|>") become those tokens. */
#define AIENG_REQUEST_PARSE_SPECIAL 1u

/** What to generate from, in one of three forms: the other two pointers are NULL. */
typedef struct aieng_request {
  uint32_t struct_size;
  /** AIENG_REQUEST_*, or-ed. */
  uint32_t flags;
  /** The prompt as token ids, taken as they are. */
  const uint32_t *token_ids;
  size_t token_count;
  /** The prompt as text; the model's beginning-of-text token is put in front where its file asks for that. */
  const char *text;
  size_t text_length;
  /** A conversation, put into words by the model's chat template; the answer is the assistant's next turn. */
  const aieng_message *messages;
  size_t message_count;
  /** NULL: all zero. */
  const aieng_sampling *sampling;
} aieng_request;

/**
 * Queues a request. Its events come out of aieng_next(), the first possibly before this call has returned. *request_id
 * is never 0 and never used twice in one engine; on failure it is left as it was.
 *
 * Ownership: nothing of request is kept.
 * Threads:   any.
 * Blocking:  never on the engine; tokenizing takes time in proportion to the text.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT, also for a prompt that is empty or does not fit the context, a token id outside
 *            the vocabulary and text that is not UTF-8; AIENG_ERR_UNSUPPORTED for messages where the model has no chat
 *            template; AIENG_ERR_BUSY; AIENG_ERR_OUT_OF_MEMORY; AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_submit(aieng_engine *engine, const aieng_request *request, uint64_t *request_id);

/**
 * Asks for a request's end. Its last event follows, with AIENG_FINISH_CANCELLED or, where it was about to end anyway,
 * another reason. A request that has ended, or never was, is left alone, which is no error: a cancel may come too late.
 *
 * Ownership: nothing to own.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT for engine; AIENG_ERR_BUSY where cancels come faster than the engine takes them;
 *            AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_cancel(aieng_engine *engine, uint64_t request_id);

/* ---------------------------------------------------------------------------------------------------- Events ----- */

/** In aieng_event.flags: token_id is set. */
#define AIENG_EVENT_TOKEN 1u
/** In aieng_event.flags: logprob and the top_ fields are set. */
#define AIENG_EVENT_LOGPROBS 2u
/** In aieng_event.flags: the request's last event; the fields from finish_reason on are set. */
#define AIENG_EVENT_FINISH 4u

/** Why a request ended. */
typedef uint32_t aieng_finish_reason;

enum {
  /** It has not. */
  AIENG_FINISH_NONE = 0,
  /** An end-of-text token, a stop token or a stop string. */
  AIENG_FINISH_STOP = 1,
  /** max_tokens or the context is used up. */
  AIENG_FINISH_LENGTH = 2,
  /** aieng_cancel(). */
  AIENG_FINISH_CANCELLED = 3,
  /** An error inside the engine, told in message. */
  AIENG_FINISH_ERROR = 4,
  /** The request's deadline passed. */
  AIENG_FINISH_DEADLINE = 5
};

/**
 * Something happened to a request: usually one more token. Zero the struct before its first use. It may be moved, but
 * not duplicated: what it points to is released by the next aieng_next() into it and by aieng_event_clear().
 */
typedef struct aieng_event {
  uint32_t struct_size;
  /** AIENG_EVENT_*, or-ed. */
  uint32_t flags;
  /** The library's own. */
  uint64_t storage;
  /** Whose event this is. */
  uint64_t request_id;
  /**
   * Text that became final with this event: whole UTF-8 characters. Never NULL, often empty: a token may be half a
   * character, or may be held back because a stop string could begin with it. The last event has the rest.
   */
  const char *text;
  size_t text_length;
  /** The generated token. */
  uint32_t token_id;
  /** Its log-probability in nats, from the logits before penalties and temperature. */
  float logprob;
  /** The most likely tokens, best first. */
  const uint32_t *top_token_ids;
  const float *top_logprobs;
  size_t top_count;
  aieng_finish_reason finish_reason;
  /** With AIENG_FINISH_ERROR: what kind of error. */
  aieng_status status;
  /** With AIENG_FINISH_ERROR: what happened; else empty. Never NULL, ends in NUL. */
  const char *message;
  /** Tokens of the prompt. */
  uint64_t prompt_tokens;
  /** Tokens generated, the one that ended it included. */
  uint64_t completion_tokens;
  /** Nanoseconds from submit to the first token; 0 if there was none. */
  uint64_t ttft_ns;
  /** Mean nanoseconds of each token after the first; 0 if there was none. */
  uint64_t tpot_ns;
} aieng_event;

/**
 * Takes the next event of any request. timeout_ms: how long to wait for one; 0 only looks, a negative number waits as
 * long as it takes. Whatever the status, what event held before is released; unless AIENG_OK, it is then zero but for
 * struct_size.
 *
 * Ownership: what event points to is valid until the next aieng_next() into the same struct or aieng_event_clear() on
 *            it, whichever comes first, from whatever thread, also after the engine is destroyed.
 * Threads:   any, each with its own struct; each event goes to one caller, and a request's events leave in order.
 * Blocking:  up to timeout_ms.
 * Errors:    AIENG_TIMEOUT; AIENG_ERR_CLOSED once a closed engine has no more events; AIENG_ERR_INVALID_ARGUMENT, also
 *            for an event that was not zeroed or is a duplicate; AIENG_ERR_OUT_OF_MEMORY; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_next(aieng_engine *engine, int64_t timeout_ms, aieng_event *event);

/**
 * Releases what an event holds and zeroes it but for struct_size. A zeroed event is left as it is. NULL does nothing.
 *
 * Ownership: the pointers in event end here; the struct stays the caller's.
 * Threads:   any, one at a time for one struct.
 * Blocking:  never.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT, also for an event that was not zeroed or is a duplicate; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_event_clear(aieng_event *event);

#ifdef __cplusplus
}
#endif

#endif
