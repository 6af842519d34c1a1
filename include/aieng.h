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
 *     size_t count;
 *     while (!event.finish && aieng_next(engine, &event, 1, -1, &count) == AIENG_OK)
 *         fwrite(event.text, 1, event.text_length, stdout);
 *     aieng_events_clear(&event);
 *
 *     aieng_engine_destroy(engine);
 *
 * include/README.md walks through an event loop with many requests. The rules that hold for all of it:
 *
 * Structs      are zeroed by the caller, who then sets struct_size to sizeof. Zero is the default of every field, and
 *              is always legal. Structs only grow at their end: a library that is newer than the caller reads the
 *              missing fields as zero; a library that is older refuses a field it does not know, unless it is zero.
 *              Those that the library fills in are filled as far as the caller knows them.
 * Arrays       of structs have elements of one size: the struct_size of the first.
 * Strings      go in as pointer and length, or as pointer and AIENG_STRLEN where they end in NUL; they are UTF-8.
 *              They come out as pointer and length, with a NUL behind.
 * Buffers      of the caller's are filled as snprintf() does it: the length that comes out is that of the whole, and
 *              what is beyond the capacity is left out. A text gets a NUL behind it even where it is cut, and is cut
 *              between characters. NULL with a capacity of 0 only asks for the length.
 * Enumerations and flags are uint32_t. Values are never renumbered, and new ones will be added: have a default case.
 * Statuses     come from every call that can fail. Unless its text says otherwise, a NULL argument, a wrong
 *              struct_size, an unknown enumeration value or flag and a value out of range are
 *              AIENG_ERR_INVALID_ARGUMENT, and aieng_last_error() names argument, field and value.
 * Handles      are numbers dressed up as pointers and are checked at each call: one that was destroyed is
 *              AIENG_ERR_CLOSED, one that was never made AIENG_ERR_INVALID_ARGUMENT.
 * Callbacks    must return, must not throw or longjmp out, and may call anything but aieng_engine_destroy() on their
 *              own engine. They run on threads of the library or inside aieng_engine_create(), as each says, never on
 *              the thread that steps the engine, and never after aieng_engine_destroy() has returned.
 * fork         leaves a child without the engine's threads: there, each call on an engine from before is
 *              AIENG_ERR_CLOSED. The child may create engines of its own.
 * Faults       inside the library never reach the caller: the call returns AIENG_ERR_INTERNAL and from then on its
 *              engine is closed, while all others go on. The library prints nothing (but faults, where the variable
 *              RUST_BACKTRACE asks for them), installs no signal handler and never ends the process.
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
  /** The engine was shut down or destroyed, an internal error has closed it, or this is a fork of its process. */
  AIENG_ERR_CLOSED = 8,
  /** A bug in aieng, caught before it could harm the caller. Worth a report. */
  AIENG_ERR_INTERNAL = 9,
  /** The caller's own callback ended it. */
  AIENG_ERR_CANCELLED = 10
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

/* ---------------------------------------------------------------------------------------------------- Build ------ */

/** How the library was built, and what it finds on this machine. The strings are the library's own, for good. */
typedef struct aieng_build_info {
  uint32_t struct_size;
  /** aieng_abi_version(). */
  uint32_t abi_version;
  /** aieng_version(). */
  const char *version;
  /** The commit it was built from, "" for sources without one. */
  const char *revision;
  /** "x86_64-unknown-linux-gnu". */
  const char *target;
  /** "release", "dev". */
  const char *profile;
  /** "rustc 1.95.0 (...)". */
  const char *compiler;
  /** What AIENG_DEVICE_AUTO takes on this machine, as in "cpu-avx512". */
  const char *kernels;
} aieng_build_info;

/**
 * Fills in *info.
 *
 * Ownership: info is the caller's; the strings are there as long as the library is loaded.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT.
 */
aieng_status aieng_build_describe(aieng_build_info *info);

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
  AIENG_DEVICE_REFERENCE = 2,
  /**
   * No model: tokens are bytes, and each follows from the one before and its position. To test an integration, or the
   * scheduling of a load, where no model is at hand. path may be NULL, and is not looked at.
   */
  AIENG_DEVICE_SIMULATED = 3,
  /**
   * An NVIDIA GPU (compute capability 8.0 and later), in a library that was built with CUDA. AIENG_ERR_UNSUPPORTED says what is
   * missing where it is not: the build, the driver, the device. One that fails later ends all requests of its engine with an
   * error and closes it; the host lives on.
   */
  AIENG_DEVICE_CUDA = 4
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
  AIENG_ISA_AVX512 = 3,
  /** The same and AVX-512 BF16. */
  AIENG_ISA_AVX512_BF16 = 4,
  /**
   * The same and AMX, with products of bytes and of bf16. Linux lets a process use it that has asked; the library asks once: in
   * aieng_build_describe, or for the first engine that leaves the instruction set to it or names this one. From then on Linux
   * wants signal stacks of AT_MINSIGSTKSZ (getauxval; some 12 KiB): sigaltstack refuses smaller ones. Where a thread has a
   * smaller one already, it refuses AMX instead, which then counts as missing.
   */
  AIENG_ISA_AMX = 5,
  /** That of AIENG_ISA_AVX2 and AVX-VNNI. */
  AIENG_ISA_AVX_VNNI = 6
};

/** Element type of the KV cache. */
typedef uint32_t aieng_kv_type;

enum {
  /** F32 on the reference device, BF16 on GPUs and where the CPU multiplies that in one instruction, F16 elsewhere. */
  AIENG_KV_AUTO = 0,
  AIENG_KV_F32 = 1,
  AIENG_KV_F16 = 2,
  AIENG_KV_BF16 = 3,
  /** 8-bit codes with a scale a token and head: about half of F16. */
  AIENG_KV_Q8 = 4
};

/** When waiting requests join the batch. */
typedef uint32_t aieng_policy;

enum {
  /** At any step. */
  AIENG_POLICY_CONTINUOUS = 0,
  /** When nothing runs, and policy_size wait or the oldest has waited for policy_wait_ms. */
  AIENG_POLICY_DYNAMIC = 1,
  /** When nothing runs: up to policy_size of those that wait. */
  AIENG_POLICY_STATIC = 2
};

/** How much a message matters. */
typedef uint32_t aieng_log_level;

enum {
  /** As the field's default: AIENG_LOG_INFO. */
  AIENG_LOG_DEFAULT = 0,
  /** The engine cannot go on. */
  AIENG_LOG_ERROR = 1,
  /** It goes on, but not as it should. */
  AIENG_LOG_WARN = 2,
  /** What it was set up with, and its end. */
  AIENG_LOG_INFO = 3,
  /** Each request. */
  AIENG_LOG_DEBUG = 4
};

/**
 * Gets a message of an engine: target is the part of it that speaks ("load", "engine", "request"), message is one line.
 * Both end in NUL and are valid during the call.
 */
typedef void (*aieng_log_fn)(void *user_data, aieng_log_level level, const char *target, const char *message);

/** Is told the fraction of a model that is loaded, from 0 to 1; another result than 0 ends the load. */
typedef uint32_t (*aieng_progress_fn)(void *user_data, float fraction);

struct aieng_event;

/** Gets an event, which is valid during the call. */
typedef void (*aieng_event_fn)(void *user_data, const struct aieng_event *event);

/** In aieng_engine_config.flags: leave the placing of the worker threads to the operating system. */
#define AIENG_ENGINE_UNPINNED 1u
/** In aieng_engine_config.flags: forget what a request has computed when it ends. */
#define AIENG_ENGINE_NO_PREFIX_CACHE 2u

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
  /** Size of the KV cache in tokens, shared by all sequences; 0: as kv_bytes says. */
  uint64_t kv_tokens;
  /** Size of the KV cache in bytes, if kv_tokens is 0; if both are, it holds as many tokens as context. */
  uint64_t kv_bytes;
  aieng_policy policy;
  /** Sequences that begin at once, at most max_sequences; only with the dynamic and the static policy. */
  uint32_t policy_size;
  /** How long the first may wait for others; only with the dynamic policy. */
  uint32_t policy_wait_ms;
  /** A step of priority counts as much as having been submitted this much earlier; 0: 5000. */
  uint32_t ageing_ms;
  /** Shares of tenants under load: weights[i], from 1 to 1000, is that of tenants[i]. Others have 1. At most 1024. */
  const uint32_t *tenants;
  const uint32_t *tenant_weights;
  size_t tenant_count;
  /** Called inside aieng_engine_create(), on its thread; may be NULL. */
  aieng_progress_fn progress;
  void *progress_data;
  /**
   * Called by a thread of the library's, one call at a time; may be NULL. Messages that come faster than they are taken
   * are dropped, and counted in the next one.
   */
  aieng_log_fn log;
  void *log_data;
  /**
   * Called by a thread of the library's, one call at a time, for each event, which then does not come out of
   * aieng_next(); may be NULL. While it does not return, events queue up, and then the engine waits.
   */
  aieng_event_fn on_event;
  void *event_data;
  /** The greatest level that reaches log. */
  aieng_log_level log_level;
  /** With AIENG_DEVICE_SIMULATED: how long a step takes. */
  uint32_t simulated_step_us;
  /** With AIENG_DEVICE_CUDA: the device's number, as CUDA counts them. */
  uint32_t gpu;
  /** 0. */
  uint32_t reserved;
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
 *            file or the part of it; AIENG_ERR_CANCELLED by progress; AIENG_ERR_INVALID_ARGUMENT; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_engine_create(const char *path, const aieng_engine_config *config, aieng_engine **engine);

/**
 * Ends an engine and everything in it. Requests in flight are cancelled, calls that wait in other threads return, and
 * each later call on the engine is AIENG_ERR_CLOSED. NULL does nothing.
 *
 * Ownership: takes the engine. Events that were read from it stay valid until they are cleared.
 * Threads:   any, also while other threads are inside calls on this engine.
 * Blocking:  until the step in progress has ended, the engine's threads are gone and those calls have returned.
 * Errors:    AIENG_ERR_CLOSED the second time; AIENG_ERR_INVALID_ARGUMENT for what never was an engine, and inside one
 *            of its callbacks; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_engine_destroy(aieng_engine *engine);

/**
 * Ends an engine's requests with AIENG_FINISH_CANCELLED and takes no new ones. Events that are there and those of the
 * ends can still be read; after the last one aieng_next() is AIENG_ERR_CLOSED, which tells consumers to go home.
 *
 * Ownership: the engine stays the caller's, to be destroyed.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    AIENG_ERR_CLOSED for an engine that is destroyed or broken; AIENG_ERR_INVALID_ARGUMENT;
 *            AIENG_ERR_INTERNAL.
 */
aieng_status aieng_engine_shutdown(aieng_engine *engine);

/** What an engine runs, and how much of it. The strings are valid until the engine is destroyed. */
typedef struct aieng_engine_info {
  uint32_t struct_size;
  aieng_device device;
  /** AIENG_ISA_AUTO where the device has none. */
  aieng_isa isa;
  aieng_kv_type kv_type;
  /** The kernels that compute, as provenance says it: "cpu-avx512". */
  const char *kernels;
  /** What the file says of the model: its name and architecture, "" where it says nothing. */
  const char *model_name;
  const char *architecture;
  /** 128 bits that name the weights and all that tokens depend on, the lower half first. */
  uint64_t fingerprint[2];
  uint64_t weight_bytes;
  uint64_t kv_bytes;
  uint64_t kv_tokens;
  /** Worker threads. */
  uint32_t threads;
  /** Longest sequence in tokens. */
  uint32_t context;
  uint32_t max_sequences;
  uint32_t max_batch_tokens;
  uint32_t max_requests;
  /** Tokens that can be generated: 0 up to this. */
  uint32_t vocab_size;
  /** 1: the model's file has a chat template. */
  uint32_t has_chat_template;
  /** The token that begins a text; UINT32_MAX if there is none. */
  uint32_t bos_token;
  /** The GPU's name, as its driver says it; "" where none is used. */
  const char *gpu;
} aieng_engine_info;

/**
 * Fills in *info.
 *
 * Ownership: info is the caller's; the strings are the engine's.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    AIENG_ERR_CLOSED; AIENG_ERR_INVALID_ARGUMENT; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_engine_describe(aieng_engine *engine, aieng_engine_info *info);

/* ---------------------------------------------------------------------------------------------------- Requests --- */

/** In aieng_sampling.flags: go on after the model's end-of-text tokens. */
#define AIENG_SAMPLING_IGNORE_EOS 1u
/** In aieng_sampling.flags: events carry the log-probability of their token. */
#define AIENG_SAMPLING_LOGPROBS 2u

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
  /** Nothing ends the generation before it has this many tokens; at most max_tokens. */
  uint32_t min_tokens;
  /** AIENG_SAMPLING_*, or-ed. */
  uint32_t flags;
  /** With AIENG_SAMPLING_LOGPROBS: report the n most likely tokens too, at most 20. */
  uint32_t top_logprobs;
  /** logit_bias_values[i] is added to the logit of token logit_bias_ids[i]; at most 1024 of them. */
  const uint32_t *logit_bias_ids;
  const float *logit_bias_values;
  size_t logit_bias_count;
  /**
   * Generation ends before any of these strings, at most 64, of 1 to 4096 bytes. stop_lengths NULL: all end in NUL.
   */
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
/** In aieng_request.flags: deliver the prompt's tokens too, before the output (AIENG_EVENT_PROMPT). */
#define AIENG_REQUEST_ECHO 2u
/** In aieng_request.flags: as AIENG_REQUEST_ECHO, and with log-probabilities; the first token has none. */
#define AIENG_REQUEST_PROMPT_LOGPROBS 4u
/** In aieng_request.flags: as AIENG_REQUEST_PROMPT_LOGPROBS, and generate nothing: the text is scored. */
#define AIENG_REQUEST_SCORE 8u
/** In aieng_request.flags: neither use cached prefixes nor leave any. */
#define AIENG_REQUEST_NO_PREFIX_CACHE 16u

/** What to generate from, in one of four forms, the other three being NULL; how, and for whom. */
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
  /**
   * A conversation as JSON: an array of messages as in OpenAI's interface ([{"role": "user", "content": "Hi"}]), or an
   * object with "messages" and whatever else the template knows ("tools", "documents", "add_generation_prompt",
   * "enable_thinking"). All of it is the template's to read; images and sound are not understood.
   */
  const char *chat_json;
  size_t chat_json_length;
  /** NULL: all zero. */
  const aieng_sampling *sampling;
  /** The caller's own; comes back in each of the request's events. */
  uint64_t user_data;
  /** Samples to deliver, each with random numbers of its own, at most 128; 0: 1. Sample 0 is what 1 would get. */
  uint32_t n;
  /** Samples to generate; the n of the best mean log-probability are delivered when all have ended. 0: n. */
  uint32_t best_of;
  /** Greater goes first among a tenant's requests; from -1000 to 1000. */
  int32_t priority;
  /** Whose request it is. Tenants share the machine by weight, and never each other's cached prefixes. */
  uint32_t tenant;
  /** The request ends with AIENG_FINISH_DEADLINE if it takes longer; 0: it may take as long as it does. */
  uint32_t deadline_ms;
  /** With AIENG_REQUEST_PROMPT_LOGPROBS: report the n most likely tokens in each place too, at most 20. */
  uint32_t prompt_top_logprobs;
} aieng_request;

/**
 * Queues a request. Its events come out of aieng_next(), the first possibly before this call has returned. *request_id
 * is never 0 and never used twice in one engine; on failure it is left as it was.
 *
 * Ownership: nothing of request is kept.
 * Threads:   any.
 * Blocking:  never on the engine; tokenizing takes time in proportion to the text.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT, also for a prompt that is empty or does not fit the context, a token id
 *            outside the vocabulary and text that is not UTF-8; AIENG_ERR_UNSUPPORTED for a conversation where the
 *            model has no chat template, AIENG_ERR_MODEL_FORMAT where that is broken; AIENG_ERR_BUSY;
 *            AIENG_ERR_OUT_OF_MEMORY; AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_submit(aieng_engine *engine, const aieng_request *request, uint64_t *request_id);

/**
 * Asks for a request's end. Its last event follows, with AIENG_FINISH_CANCELLED or, where it was about to end anyway,
 * another reason. A request that has ended, or never was, is left alone, which is no error: a cancel may come too late.
 *
 * Ownership: nothing to own.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT for engine; AIENG_ERR_BUSY where cancels come faster than the engine takes
 *            them; AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_cancel(aieng_engine *engine, uint64_t request_id);

/* ---------------------------------------------------------------------------------------------------- Events ----- */

/** In aieng_event.flags: token_id is set. */
#define AIENG_EVENT_TOKEN 1u
/** In aieng_event.flags: logprob, top and top_count are set. */
#define AIENG_EVENT_LOGPROBS 2u
/** In aieng_event.flags: the token is one of the prompt, which asked for that. */
#define AIENG_EVENT_PROMPT 4u
/** In aieng_event.flags: the sample's last event; finish is set. */
#define AIENG_EVENT_FINISH 8u
/** In aieng_event.flags: the request's last event. */
#define AIENG_EVENT_LAST 16u

/** Why a sample ended. */
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

/** What AIENG_FINISH_STOP was for. */
typedef uint32_t aieng_stop_cause;

enum {
  /** It was another reason. */
  AIENG_STOP_NONE = 0,
  /** One of the model's end-of-text tokens: stop_token. */
  AIENG_STOP_EOS = 1,
  /** One of the request's stop tokens: stop_token. */
  AIENG_STOP_TOKEN = 2,
  /** The request's stop string number stop_index. */
  AIENG_STOP_STRING = 3
};

/** How a sample ended, what it took, and what its tokens depend on. Made by the library alone. */
typedef struct aieng_finish {
  uint32_t struct_size;
  aieng_finish_reason reason;
  aieng_stop_cause stop_cause;
  uint32_t stop_token;
  uint32_t stop_index;
  /** With AIENG_FINISH_ERROR: what kind of error. */
  aieng_status status;
  /** With AIENG_FINISH_ERROR: what happened; else empty. */
  const char *message;
  size_t message_length;
  /** Tokens of the prompt. */
  uint64_t prompt_tokens;
  /** Those of them that were found in the prefix cache. */
  uint64_t cached_tokens;
  /** Tokens generated, the one that ended it included. */
  uint64_t completion_tokens;
  /** Nanoseconds from submit to the first step, from there to the first token, and from there to the last; 0: none. */
  uint64_t queue_ns;
  uint64_t prefill_ns;
  uint64_t decode_ns;
  /** Nanoseconds from submit to the first token; 0 if there was none. */
  uint64_t ttft_ns;
  /** Mean nanoseconds of each token after the first; 0 if there was none. */
  uint64_t tpot_ns;
  /**
   * Provenance: with the same prompt and sampling, equal model_fingerprint, kernels, seed and seed_sample mean equal
   * tokens. determinism says how far that goes: "batch-invariant", whatever runs beside it.
   */
  uint64_t model_fingerprint[2];
  const char *kernels;
  const char *determinism;
  uint64_t seed;
  /** The sample's number among those that were generated. */
  uint64_t seed_sample;
} aieng_finish;

/** A token and its log-probability in nats. It has no struct_size and will not grow. */
typedef struct aieng_token_logprob {
  uint32_t token_id;
  float logprob;
} aieng_token_logprob;

/** Something happened to a request: usually one more token. Zero the struct before its first use. */
typedef struct aieng_event {
  uint32_t struct_size;
  /** AIENG_EVENT_*, or-ed. */
  uint32_t flags;
  /** The library's own. */
  uint64_t storage;
  /** Whose event this is. */
  uint64_t request_id;
  /** The request's. */
  uint64_t user_data;
  /** Which of the request's samples, from 0. */
  uint32_t sample;
  /** The token. */
  uint32_t token_id;
  /**
   * Text that became final with this event: whole UTF-8 characters. Never NULL, often empty: a token may be half a
   * character, or may be held back because a stop string could begin with it. The last event has the rest.
   */
  const char *text;
  size_t text_length;
  /** The most likely tokens, best first; NULL if none were asked for. */
  const aieng_token_logprob *top;
  uint32_t top_count;
  /** The token's log-probability in nats, from the logits before penalties and temperature. */
  float logprob;
  /** NULL unless this is the sample's last event. */
  const aieng_finish *finish;
} aieng_event;

/**
 * Takes up to capacity events of any requests, at most 4096 at once; *count is how many came. timeout_ms: how long to
 * wait for the first; 0 only looks, a negative number waits as long as it takes. events[0] says by its struct_size how
 * far apart the elements are, and by its storage what the previous call on this array left in it; whatever the status,
 * that is released. Elements from *count on are left as they were, but for events[0], which is then zero but for its
 * struct_size.
 *
 * Ownership: what the events point to is valid until the next aieng_next() into the same array or aieng_events_clear()
 *            on it, whichever comes first, from whatever thread, also after the engine is destroyed. The array may be
 *            moved, but of two copies only one may be used on.
 * Threads:   any, each with its own array; each event goes to one caller, and a request's events leave in order.
 * Blocking:  up to timeout_ms.
 * Errors:    AIENG_TIMEOUT; AIENG_ERR_CLOSED once a closed engine has no more events; AIENG_ERR_INVALID_ARGUMENT, also
 *            for an array that was not zeroed or is a duplicate, and for an engine that has on_event;
 *            AIENG_ERR_OUT_OF_MEMORY; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_next(aieng_engine *engine, aieng_event *events, size_t capacity, int64_t timeout_ms, size_t *count);

/**
 * Releases what an array of events holds, and zeroes its first element but for struct_size. A zeroed array is left as
 * it is. NULL does nothing.
 *
 * Ownership: the pointers in the events end here; the array stays the caller's.
 * Threads:   any, one at a time for one array.
 * Blocking:  never.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT, also for an array that was not zeroed or is a duplicate; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_events_clear(aieng_event *events);

/**
 * A descriptor that poll(2), epoll(7) and what is built on them call readable while there may be events. Once it is,
 * call aieng_next() with a timeout of 0 until it is AIENG_TIMEOUT: only then does it become unreadable again. So it
 * suits edge-triggered polling too. Readable with nothing to read happens, and is no error.
 *
 * Ownership: the engine's, until it is destroyed: poll it, or a dup(2) of it, but never read, write or close it.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    AIENG_ERR_IO where the process has no descriptor left; AIENG_ERR_INVALID_ARGUMENT, also for an engine that
 *            has on_event; AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_event_fd(aieng_engine *engine, int *fd);

/* ---------------------------------------------------------------------------------------------------- Text ------- */

/** For aieng_tokenize(): put the model's beginning-of-text token in front where its file asks for that. */
#define AIENG_TOKENIZE_BOS 1u
/** For aieng_tokenize(): spellings of special tokens become those tokens. */
#define AIENG_TOKENIZE_PARSE_SPECIAL 2u
/** For aieng_detokenize(): spell special tokens out, which are left out otherwise. */
#define AIENG_DETOKENIZE_SPECIAL 1u

/**
 * Token ids of a text, of 1 GiB at most: *count of them, of which the first capacity are written to token_ids.
 *
 * Ownership: token_ids is the caller's.
 * Threads:   any.
 * Blocking:  never on the engine; takes time in proportion to the text.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT, also for text that is not UTF-8; AIENG_ERR_OUT_OF_MEMORY; AIENG_ERR_CLOSED;
 *            AIENG_ERR_INTERNAL.
 */
aieng_status aieng_tokenize(aieng_engine *engine, const char *text, size_t text_length, uint32_t flags,
                            uint32_t *token_ids, size_t capacity, size_t *count);

/**
 * Text of token ids; bytes that are not UTF-8 become U+FFFD, and so does half a character at the end.
 *
 * Ownership: text is the caller's, a buffer of capacity bytes.
 * Threads:   any.
 * Blocking:  never.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT, also for an id outside the vocabulary; AIENG_ERR_OUT_OF_MEMORY;
 *            AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_detokenize(aieng_engine *engine, const uint32_t *token_ids, size_t token_count, uint32_t flags,
                              char *text, size_t capacity, size_t *text_length);

/**
 * The prompt that the model's chat template makes of a request's messages or chat_json: what aieng_submit() would
 * tokenize. The request's other fields are checked and not used.
 *
 * Ownership: text is the caller's, a buffer of capacity bytes.
 * Threads:   any.
 * Blocking:  never on the engine; the template runs, with bounded work.
 * Errors:    as aieng_submit(), but for AIENG_ERR_BUSY.
 */
aieng_status aieng_render(aieng_engine *engine, const aieng_request *request, char *text, size_t capacity,
                          size_t *text_length);

/* ---------------------------------------------------------------------------------------------------- Metrics ---- */

/** Buckets of an aieng_histogram that have an upper bound. */
#define AIENG_BUCKETS 22u

/** Durations by size. It has no struct_size and will not grow. */
typedef struct aieng_histogram {
  /** counts[i]: those up to bucket_bounds[i] seconds and above the one before; the last one counts what is longer. */
  uint64_t counts[23];
  uint64_t sum_ns;
} aieng_histogram;

/** What an engine counts and measures. Each number is exact; a step may end between two of them. */
typedef struct aieng_metrics {
  uint32_t struct_size;
  /** AIENG_BUCKETS. */
  uint32_t buckets;
  /** Upper bounds of the histograms' buckets in seconds; the library's own, for good. */
  const double *bucket_bounds;
  /** Sequences in the batch, and those that wait for a place or for blocks. */
  uint64_t running;
  uint64_t waiting;
  /** Blocks of the KV cache that sequences own, and all of them. */
  uint64_t kv_blocks_used;
  uint64_t kv_blocks;
  /** Tokens that were looked up in the prefix cache, and those that were found. */
  uint64_t prefix_queries;
  uint64_t prefix_hits;
  /** Cached blocks that were given up, and times that a sequence lost its blocks and had to start anew. */
  uint64_t evictions;
  uint64_t preemptions;
  /** Tokens of prompts that began to run, cached ones included, and tokens generated. */
  uint64_t prompt_tokens;
  uint64_t generation_tokens;
  /** Samples that ended, by reason. */
  uint64_t finished_stop;
  uint64_t finished_length;
  uint64_t finished_cancelled;
  uint64_t finished_error;
  uint64_t finished_deadline;
  /** Requests refused because the engine was full, and because of what they asked for. */
  uint64_t rejected_busy;
  uint64_t rejected_invalid;
  /** Steps, their time, and the part of it that the model and the choice of tokens took. */
  uint64_t steps;
  uint64_t step_ns;
  uint64_t kernel_ns;
  /** From submit to the first token; between a sample's tokens; from submit to a sample's end; to the first step. */
  aieng_histogram time_to_first_token;
  aieng_histogram inter_token_latency;
  aieng_histogram e2e_latency;
  aieng_histogram queue_time;
} aieng_metrics;

/**
 * Fills in *metrics as of the engine's last step.
 *
 * Ownership: metrics is the caller's.
 * Threads:   any.
 * Blocking:  never; the engine does not notice.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT; AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_metrics_read(aieng_engine *engine, aieng_metrics *metrics);

/**
 * The same as text that Prometheus reads, about 8 KB, with vLLM's names after "aieng_". It may be longer at the next
 * call: ask again while the length that comes out is not below capacity.
 *
 * Ownership: text is the caller's, a buffer of capacity bytes.
 * Threads:   any.
 * Blocking:  never; the engine does not notice.
 * Errors:    AIENG_ERR_INVALID_ARGUMENT; AIENG_ERR_CLOSED; AIENG_ERR_INTERNAL.
 */
aieng_status aieng_metrics_text(aieng_engine *engine, char *text, size_t capacity, size_t *text_length);

#ifdef __cplusplus
}
#endif

#endif
