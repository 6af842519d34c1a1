// Package aieng links libaieng, the LLM inference engine, into Go programs.
//
//	engine, err := aieng.Load("model.gguf", aieng.Config{})
//	defer engine.Close()
//	request, err := engine.Submit(aieng.Text("Once upon a time"), aieng.Sampling{MaxTokens: 64})
//	for event := range request.Events(ctx) {
//		fmt.Print(event.Text)
//	}
//	if err := request.Err(); err != nil { … }
//
// Requests run at once and are submitted and read from any goroutine. One goroutine takes the engine's events: it waits in
// Go's netpoller for the engine's descriptor, so that waiting costs no thread, and nothing waits for a slow reader.
//
// The package finds header and library by pkg-config (aieng.pc, laid by "cargo xtask install"). include/aieng.h is the
// reference for every field and limit.
package aieng

/*
#cgo pkg-config: aieng
#include <aieng.h>
#include <stdlib.h>
#include <string.h>

// A call and its message have to be one uninterrupted section: goroutines move between threads, messages do not.
typedef struct { aieng_status status; char message[512]; } outcome;

static outcome outcome_of(aieng_status status) {
	outcome out = {status, {0}};
	if (status > AIENG_TIMEOUT) strncpy(out.message, aieng_last_error(), sizeof out.message - 1);
	return out;
}
static outcome create(const char *path, const aieng_engine_config *config, uintptr_t *engine) {
	aieng_engine *made = NULL;
	outcome out = outcome_of(aieng_engine_create(path, config, &made));
	*engine = (uintptr_t)made;
	return out;
}
// Handles are numbers, and go by as such: Go's collector must not take them for pointers.
static aieng_engine *handle(uintptr_t engine) { return (aieng_engine *)engine; }
static outcome destroy(uintptr_t engine) { return outcome_of(aieng_engine_destroy(handle(engine))); }
static outcome shutdown_engine(uintptr_t engine) { return outcome_of(aieng_engine_shutdown(handle(engine))); }
static outcome describe(uintptr_t engine, aieng_engine_info *info) {
	return outcome_of(aieng_engine_describe(handle(engine), info));
}
static outcome submit(uintptr_t engine, const aieng_request *request, uint64_t *id) {
	return outcome_of(aieng_submit(handle(engine), request, id));
}
static outcome cancel(uintptr_t engine, uint64_t id) { return outcome_of(aieng_cancel(handle(engine), id)); }
static outcome next(uintptr_t engine, aieng_event *events, size_t capacity, size_t *count) {
	return outcome_of(aieng_next(handle(engine), events, capacity, 0, count));
}
static outcome event_fd(uintptr_t engine, int *fd) { return outcome_of(aieng_event_fd(handle(engine), fd)); }
static outcome tokenize(uintptr_t engine, const char *text, size_t length, uint32_t flags, uint32_t *ids,
                        size_t capacity, size_t *count) {
	return outcome_of(aieng_tokenize(handle(engine), text, length, flags, ids, capacity, count));
}
static outcome detokenize(uintptr_t engine, const uint32_t *ids, size_t count, uint32_t flags, char *text,
                          size_t capacity, size_t *length) {
	return outcome_of(aieng_detokenize(handle(engine), ids, count, flags, text, capacity, length));
}
static outcome metrics_text(uintptr_t engine, char *text, size_t capacity, size_t *length) {
	return outcome_of(aieng_metrics_text(handle(engine), text, capacity, length));
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Status is what a call returned, as in C.
type Status uint32

// Statuses of errors.
const (
	InvalidArgument Status = C.AIENG_ERR_INVALID_ARGUMENT
	IO              Status = C.AIENG_ERR_IO
	ModelFormat     Status = C.AIENG_ERR_MODEL_FORMAT
	Unsupported     Status = C.AIENG_ERR_UNSUPPORTED
	Busy            Status = C.AIENG_ERR_BUSY
	OutOfMemory     Status = C.AIENG_ERR_OUT_OF_MEMORY
	Closed          Status = C.AIENG_ERR_CLOSED
	Internal        Status = C.AIENG_ERR_INTERNAL
)

func (s Status) String() string { return C.GoString(C.aieng_status_name(C.aieng_status(s))) }

// Error is a call that failed.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string { return e.Status.String() + ": " + e.Message }

// Is makes errors.Is compare statuses.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Status == e.Status
}

func check(out C.outcome) error {
	if out.status == C.AIENG_OK {
		return nil
	}
	return &Error{Status(out.status), C.GoString(&out.message[0])}
}

// Version is the library's.
func Version() string { return C.GoString(C.aieng_version()) }

// Device is where a model runs.
type Device uint32

// Devices.
const (
	Auto      Device = C.AIENG_DEVICE_AUTO
	CPU       Device = C.AIENG_DEVICE_CPU
	Reference Device = C.AIENG_DEVICE_REFERENCE
	Simulated Device = C.AIENG_DEVICE_SIMULATED
	CUDA      Device = C.AIENG_DEVICE_CUDA
)

// Config says how to load and run a model; zero suits one user on the whole machine.
type Config struct {
	Device                                         Device
	// GPU is the number of the CUDA device.
	GPU                                            uint32
	Threads, Context, MaxSequences, MaxBatchTokens uint32
	MaxRequests                                    uint32
	KVTokens, KVBytes                              uint64
	Unpinned, NoPrefixCache                        bool
	// SimulatedStep is how long a step of the simulated device takes.
	SimulatedStep time.Duration
}

// Sampling says how tokens are chosen and when a generation ends; zero is greedy, and at most 128 tokens.
type Sampling struct {
	Temperature, TopP, MinP                              float32
	RepetitionPenalty, PresencePenalty, FrequencyPenalty float32
	TopK, MaxTokens, MinTokens                           uint32
	Seed                                                 uint64
	IgnoreEOS, Logprobs                                  bool
	TopLogprobs                                          uint32
	Stop                                                 []string
	StopTokens                                           []uint32
	LogitBias                                            map[uint32]float32
}

// Prompt is what to generate from, how often and for whom. Make it with Text, Tokens or Chat.
type Prompt struct {
	text, chat *string
	tokens     []uint32

	ParseSpecial, Echo, Logprobs, Score, NoPrefixCache bool
	TopLogprobs                                        uint32
	N, BestOf, Tenant                                  uint32
	Priority                                           int32
}

// Text is a prompt as text.
func Text(text string) Prompt { return Prompt{text: &text} }

// Tokens is a prompt as token ids, taken as they are.
func Tokens(ids []uint32) Prompt { return Prompt{tokens: ids} }

// Chat is a conversation in JSON: an array of messages, or an object with one, as in OpenAI's interface.
func Chat(json string) Prompt { return Prompt{chat: &json} }

// TokenLogprob is a token and its log-probability.
type TokenLogprob struct {
	Token   uint32
	Logprob float32
}

// Event is usually one more token.
type Event struct {
	Sample   uint32
	Text     string
	Token    uint32
	HasToken bool
	// Prompt says that the token is one of the prompt.
	Prompt  bool
	Logprob float32
	Top     []TokenLogprob
	// Finish is nil unless this is the sample's last event.
	Finish *Finish
}

// Reason is why a sample ended.
type Reason uint32

// Reasons.
const (
	Stop      Reason = C.AIENG_FINISH_STOP
	Length    Reason = C.AIENG_FINISH_LENGTH
	Cancelled Reason = C.AIENG_FINISH_CANCELLED
	Failed    Reason = C.AIENG_FINISH_ERROR
	Deadline  Reason = C.AIENG_FINISH_DEADLINE
)

// Finish is how a sample ended and what it took.
type Finish struct {
	Reason                                       Reason
	Message                                      string
	PromptTokens, CachedTokens, CompletionTokens uint64
	Queue, Prefill, Decode, TTFT, TPOT           time.Duration
	Kernels                                      string
	Fingerprint                                  [2]uint64
	Seed, SeedSample                             uint64
}

// Engine is a loaded model.
type Engine struct {
	handle C.uintptr_t
	poll   *os.File
	done   chan struct{}

	mu       sync.Mutex
	requests map[uint64]*Request
	nextKey  uint64
	closed   error
}

// Load loads a model; path is not looked at for the simulated device.
func Load(path string, config Config) (*Engine, error) {
	if C.aieng_abi_version() < C.AIENG_ABI_VERSION {
		return nil, fmt.Errorf("libaieng has ABI %d, but %d is needed", C.aieng_abi_version(), C.AIENG_ABI_VERSION)
	}
	var given C.aieng_engine_config
	given.struct_size = C.uint32_t(unsafe.Sizeof(given))
	given.flags = flag(config.Unpinned, C.AIENG_ENGINE_UNPINNED) |
		flag(config.NoPrefixCache, C.AIENG_ENGINE_NO_PREFIX_CACHE)
	given.device = C.aieng_device(config.Device)
	given.gpu = C.uint32_t(config.GPU)
	given.threads, given.context = C.uint32_t(config.Threads), C.uint32_t(config.Context)
	given.max_sequences = C.uint32_t(config.MaxSequences)
	given.max_batch_tokens = C.uint32_t(config.MaxBatchTokens)
	given.max_requests = C.uint32_t(config.MaxRequests)
	given.kv_tokens, given.kv_bytes = C.uint64_t(config.KVTokens), C.uint64_t(config.KVBytes)
	given.simulated_step_us = C.uint32_t(config.SimulatedStep.Microseconds())
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	engine := &Engine{requests: map[uint64]*Request{}, done: make(chan struct{})}
	if err := check(C.create(name, &given, &engine.handle)); err != nil {
		return nil, err
	}
	if err := engine.listen(); err != nil {
		C.destroy(engine.handle)
		return nil, err
	}
	go engine.deliver()
	return engine, nil
}

// listen gives a duplicate of the engine's descriptor to the netpoller, which closes its own when it is done.
func (e *Engine) listen() error {
	var fd C.int
	if err := check(C.event_fd(e.handle, &fd)); err != nil {
		return err
	}
	own, err := syscall.Dup(int(fd))
	if err != nil {
		return fmt.Errorf("dup: %w", err)
	}
	syscall.CloseOnExec(own)
	e.poll = os.NewFile(uintptr(own), "aieng events")
	return nil
}

func flag(set bool, bit C.uint32_t) C.uint32_t {
	if set {
		return bit
	}
	return 0
}

// Submit queues a request; its events are read from what it returns. It never waits: a full engine is Busy.
func (e *Engine) Submit(prompt Prompt, sampling Sampling) (*Request, error) {
	return e.submit(prompt, sampling, 0)
}

// SubmitContext is Submit for a request that ends by the context's deadline, if it has one, wherever it is by then.
func (e *Engine) SubmitContext(ctx context.Context, prompt Prompt, sampling Sampling) (*Request, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limit := time.Duration(0)
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(time.Until(deadline), time.Millisecond)
	}
	return e.submit(prompt, sampling, limit)
}

func (e *Engine) submit(prompt Prompt, sampling Sampling, limit time.Duration) (*Request, error) {
	request := &Request{engine: e, more: make(chan struct{}, 1)}
	e.mu.Lock()
	if e.closed != nil {
		e.mu.Unlock()
		return nil, e.closed
	}
	e.nextKey++
	request.key = e.nextKey
	e.requests[request.key] = request
	e.mu.Unlock()
	if err := e.queue(request, prompt, sampling, limit); err != nil {
		e.mu.Lock()
		delete(e.requests, request.key)
		e.mu.Unlock()
		return nil, err
	}
	return request, nil
}

// queue makes the C structs, which lie in Go's memory, pinned for the call.
func (e *Engine) queue(request *Request, prompt Prompt, s Sampling, limit time.Duration) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	chars := func(text string) (*C.char, C.size_t) {
		bytes := append([]byte(text), 0)
		pinner.Pin(&bytes[0])
		return (*C.char)(unsafe.Pointer(&bytes[0])), C.size_t(len(text))
	}
	ids := func(list []uint32) (*C.uint32_t, C.size_t) {
		if len(list) == 0 {
			return nil, 0
		}
		pinner.Pin(&list[0])
		return (*C.uint32_t)(unsafe.Pointer(&list[0])), C.size_t(len(list))
	}
	sampling := new(C.aieng_sampling)
	pinner.Pin(sampling)
	sampling.struct_size = C.uint32_t(unsafe.Sizeof(*sampling))
	sampling.temperature, sampling.top_p = C.float(s.Temperature), C.float(s.TopP)
	sampling.min_p, sampling.top_k = C.float(s.MinP), C.uint32_t(s.TopK)
	sampling.repetition_penalty = C.float(s.RepetitionPenalty)
	sampling.presence_penalty = C.float(s.PresencePenalty)
	sampling.frequency_penalty = C.float(s.FrequencyPenalty)
	sampling.seed = C.uint64_t(s.Seed)
	sampling.max_tokens, sampling.min_tokens = C.uint32_t(s.MaxTokens), C.uint32_t(s.MinTokens)
	sampling.flags = flag(s.IgnoreEOS, C.AIENG_SAMPLING_IGNORE_EOS) | flag(s.Logprobs, C.AIENG_SAMPLING_LOGPROBS)
	sampling.top_logprobs = C.uint32_t(s.TopLogprobs)
	sampling.stop_token_ids, sampling.stop_token_count = ids(s.StopTokens)
	if len(s.Stop) > 0 {
		texts, lengths := make([]*C.char, len(s.Stop)), make([]C.size_t, len(s.Stop))
		for i, text := range s.Stop {
			texts[i], lengths[i] = chars(text)
		}
		pinner.Pin(&texts[0])
		pinner.Pin(&lengths[0])
		sampling.stop, sampling.stop_lengths, sampling.stop_count = &texts[0], &lengths[0], C.size_t(len(texts))
	}
	if len(s.LogitBias) > 0 {
		tokens, values := make([]uint32, 0, len(s.LogitBias)), make([]C.float, 0, len(s.LogitBias))
		for token, value := range s.LogitBias {
			tokens, values = append(tokens, token), append(values, C.float(value))
		}
		pinner.Pin(&values[0])
		sampling.logit_bias_ids, sampling.logit_bias_count = ids(tokens)
		sampling.logit_bias_values = &values[0]
	}
	given := new(C.aieng_request)
	pinner.Pin(given)
	given.struct_size = C.uint32_t(unsafe.Sizeof(*given))
	given.flags = flag(prompt.ParseSpecial, C.AIENG_REQUEST_PARSE_SPECIAL) |
		flag(prompt.Echo, C.AIENG_REQUEST_ECHO) |
		flag(prompt.Logprobs, C.AIENG_REQUEST_PROMPT_LOGPROBS) |
		flag(prompt.Score, C.AIENG_REQUEST_SCORE) |
		flag(prompt.NoPrefixCache, C.AIENG_REQUEST_NO_PREFIX_CACHE)
	given.token_ids, given.token_count = ids(prompt.tokens)
	if prompt.text != nil {
		given.text, given.text_length = chars(*prompt.text)
	}
	if prompt.chat != nil {
		given.chat_json, given.chat_json_length = chars(*prompt.chat)
	}
	given.sampling = sampling
	given.user_data = C.uint64_t(request.key)
	given.n, given.best_of = C.uint32_t(prompt.N), C.uint32_t(prompt.BestOf)
	given.priority, given.tenant = C.int32_t(prompt.Priority), C.uint32_t(prompt.Tenant)
	given.deadline_ms = C.uint32_t(min(limit.Milliseconds(), 1<<32-1))
	given.prompt_top_logprobs = C.uint32_t(prompt.TopLogprobs)
	var id C.uint64_t
	if err := check(C.submit(e.handle, given, &id)); err != nil {
		return err
	}
	request.id.Store(uint64(id))
	return nil
}

// deliver takes the engine's events and gives them to their requests, until the engine has ended.
func (e *Engine) deliver() {
	defer close(e.done)
	const capacity = 256
	events := (*[capacity]C.aieng_event)(C.calloc(capacity, C.size_t(unsafe.Sizeof(C.aieng_event{}))))
	defer C.free(unsafe.Pointer(events))
	events[0].struct_size = C.uint32_t(unsafe.Sizeof(events[0]))
	defer C.aieng_events_clear(&events[0])
	raw, err := e.poll.SyscallConn()
	for err == nil {
		// Called when the descriptor may be readable; "false" waits in the netpoller until it is.
		pollErr := raw.Read(func(uintptr) bool {
			var count C.size_t
			out := C.next(e.handle, &events[0], capacity, &count)
			if out.status == C.AIENG_TIMEOUT {
				return false
			}
			if err = check(out); err == nil {
				e.dispatch(events[:count])
			}
			return true
		})
		err = errors.Join(err, pollErr)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed == nil {
		e.closed = err
	}
	for _, request := range e.requests {
		request.fail(err)
	}
	clear(e.requests)
}

func (e *Engine) dispatch(events []C.aieng_event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range events {
		key, last := uint64(events[i].user_data), events[i].flags&C.AIENG_EVENT_LAST != 0
		request := e.requests[key]
		if last {
			delete(e.requests, key)
		}
		request.push(event(&events[i]), last)
	}
}

// event copies an event out of the library's memory.
func event(from *C.aieng_event) Event {
	to := Event{
		Sample:   uint32(from.sample),
		Text:     C.GoStringN(from.text, C.int(from.text_length)),
		Token:    uint32(from.token_id),
		HasToken: from.flags&C.AIENG_EVENT_TOKEN != 0,
		Prompt:   from.flags&C.AIENG_EVENT_PROMPT != 0,
		Logprob:  float32(from.logprob),
	}
	for _, top := range unsafe.Slice(from.top, from.top_count) {
		to.Top = append(to.Top, TokenLogprob{uint32(top.token_id), float32(top.logprob)})
	}
	if f := from.finish; f != nil {
		to.Finish = &Finish{
			Reason:           Reason(f.reason),
			Message:          C.GoString(f.message),
			PromptTokens:     uint64(f.prompt_tokens),
			CachedTokens:     uint64(f.cached_tokens),
			CompletionTokens: uint64(f.completion_tokens),
			Queue:            time.Duration(f.queue_ns),
			Prefill:          time.Duration(f.prefill_ns),
			Decode:           time.Duration(f.decode_ns),
			TTFT:             time.Duration(f.ttft_ns),
			TPOT:             time.Duration(f.tpot_ns),
			Kernels:          C.GoString(f.kernels),
			Fingerprint:      [2]uint64{uint64(f.model_fingerprint[0]), uint64(f.model_fingerprint[1])},
			Seed:             uint64(f.seed),
			SeedSample:       uint64(f.seed_sample),
		}
	}
	return to
}

// Tokenize gives a text's token ids; bos puts the model's first token in front where its file asks for that.
func (e *Engine) Tokenize(text string, bos, parseSpecial bool) ([]uint32, error) {
	flags := flag(bos, C.AIENG_TOKENIZE_BOS) | flag(parseSpecial, C.AIENG_TOKENIZE_PARSE_SPECIAL)
	chars := C.CString(text)
	defer C.free(unsafe.Pointer(chars))
	return read(len(text)+2, func(ids *uint32, capacity C.size_t, count *C.size_t) C.outcome {
		return C.tokenize(e.handle, chars, C.size_t(len(text)), flags, (*C.uint32_t)(ids), capacity, count)
	})
}

// Detokenize gives the text of token ids.
func (e *Engine) Detokenize(ids []uint32) (string, error) {
	if len(ids) == 0 {
		return "", nil
	}
	return text(func(buffer *C.char, capacity C.size_t, length *C.size_t) C.outcome {
		first := (*C.uint32_t)(unsafe.Pointer(&ids[0]))
		return C.detokenize(e.handle, first, C.size_t(len(ids)), 0, buffer, capacity, length)
	})
}

// Metrics is text that Prometheus reads.
func (e *Engine) Metrics() (string, error) {
	return text(func(buffer *C.char, capacity C.size_t, length *C.size_t) C.outcome {
		return C.metrics_text(e.handle, buffer, capacity, length)
	})
}

// text reads a text of unknown length.
func text(call func(buffer *C.char, capacity C.size_t, length *C.size_t) C.outcome) (string, error) {
	bytes, err := read(16384, func(buffer *byte, capacity C.size_t, length *C.size_t) C.outcome {
		return call((*C.char)(unsafe.Pointer(buffer)), capacity, length)
	})
	return string(bytes), err
}

// read calls until the buffer has room for all, and for the NUL behind a text.
func read[T any](size int, call func(buffer *T, capacity C.size_t, length *C.size_t) C.outcome) ([]T, error) {
	buffer := make([]T, size)
	for {
		var length C.size_t
		if err := check(call(&buffer[0], C.size_t(len(buffer)), &length)); err != nil {
			return nil, err
		}
		if int(length) < len(buffer) {
			return buffer[:length], nil
		}
		buffer = make([]T, int(length)+1024)
	}
}

// Context is the longest sequence in tokens.
func (e *Engine) Context() (int, error) {
	var info C.aieng_engine_info
	info.struct_size = C.uint32_t(unsafe.Sizeof(info))
	if err := check(C.describe(e.handle, &info)); err != nil {
		return 0, err
	}
	return int(info.context), nil
}

func (e *Engine) cancel(id uint64) error { return check(C.cancel(e.handle, C.uint64_t(id))) }

// Close cancels what runs, and waits for the end of the engine. A second time it does nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	again := e.closed != nil
	if !again {
		e.closed = &Error{Closed, "the engine was closed"}
	}
	e.mu.Unlock()
	if !again {
		if err := check(C.shutdown_engine(e.handle)); err != nil {
			return err
		}
	}
	<-e.done
	err := check(C.destroy(e.handle))
	if again && errors.Is(err, &Error{Status: Closed}) {
		return nil
	}
	return errors.Join(err, e.poll.Close())
}
