/*
 * Requests that must be refused, events in every form, and an engine that is destroyed under a waiting thread:
 * requests MODEL.
 */
#include "check.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#define INVALID AIENG_ERR_INVALID_ARGUMENT

static aieng_engine *engine;
static aieng_sampling sampling;
static aieng_request request;
static uint64_t id;

/* A request that is in order, for a case to spoil. */
static void reset(void) {
  memset(&sampling, 0, sizeof sampling);
  memset(&request, 0, sizeof request);
  sampling.struct_size = sizeof sampling;
  sampling.max_tokens = 4;
  sampling.seed = 5;
  request.struct_size = sizeof request;
  request.text = "The capital of France is";
  request.text_length = AIENG_STRLEN;
  request.sampling = &sampling;
  request.user_data = 77;
}

#define REFUSED(spoil, words)                                   \
  do {                                                          \
    reset();                                                    \
    spoil;                                                      \
    EXPECT(aieng_submit(engine, &request, &id), INVALID, words); \
  } while (0)

static void test_prompts(void) {
  static const uint32_t outside[] = {1, 0xffffffffu};
  char *long_text = (char *)malloc(1 << 20);
  if (!long_text) exit(1);
  for (int i = 0; i < 1 << 20; i++) long_text[i] = i % 2 ? ' ' : 'x';
  reset();
  EXPECT(aieng_submit(engine, NULL, &id), INVALID, "request: NULL");
  EXPECT(aieng_submit(engine, &request, NULL), INVALID, "request_id: NULL");
  REFUSED(request.struct_size = 111, "request.struct_size: 111");
  REFUSED(request.flags = 32, "request.flags: unknown bits 0x20");
  REFUSED(request.text = NULL, "request.text: NULL");
  REFUSED((request.text = NULL, request.text_length = 0), "exactly one of");
  REFUSED(request.token_ids = outside, "exactly one of");
  REFUSED(request.token_count = 1, "request.token_ids: NULL");
  REFUSED(request.message_count = 1, "request.messages: NULL");
  REFUSED(request.text_length = 0, "");
  REFUSED(request.text = "caf\xe9", "request.text: not UTF-8 at byte 3");
  REFUSED((request.text = long_text, request.text_length = 1 << 20), "");
  REFUSED((request.text = NULL, request.text_length = 0, request.token_ids = outside), "");
  REFUSED((request.text = NULL, request.text_length = 0, request.token_ids = outside, request.token_count = 2), "");
  REFUSED((request.text = NULL, request.text_length = 0, request.token_ids = outside, request.token_count = SIZE_MAX / 8),
          "request.token_ids: ");
  free(long_text);
}

static void test_messages(void) {
  aieng_message messages[2];
  memset(messages, 0, sizeof messages);
  messages[0].struct_size = messages[1].struct_size = sizeof messages[0];
  messages[0].role = messages[1].role = "user";
  messages[0].content = messages[1].content = "Hello";
  for (int i = 0; i < 2; i++) messages[i].role_length = messages[i].content_length = AIENG_STRLEN;
#define MESSAGES (request.text = NULL, request.text_length = 0, request.messages = messages, request.message_count = 2)
  messages[1].struct_size = 48;
  REFUSED(MESSAGES, "request.messages[1].struct_size: 48");
  messages[1].struct_size = sizeof messages[0];
  messages[1].reserved = 7;
  REFUSED(MESSAGES, "request.messages[1].reserved: 7");
  messages[1].reserved = 0;
  messages[1].content = "\xc3";
  REFUSED(MESSAGES, "request.messages[1].content: not UTF-8 at byte 0");
  messages[1].content = NULL;
  REFUSED(MESSAGES, "request.messages[1].content: NULL");
  REFUSED((MESSAGES, request.message_count = SIZE_MAX / 2), "request.messages: ");
}

static void test_sampling(void) {
  static const char *const stops[] = {"a", "", "b"};
  static const uint32_t ids[] = {1, 2, 3};
  REFUSED(sampling.struct_size = 0, "sampling.struct_size: 0");
  REFUSED(sampling.temperature = -1.0f, "temperature: -1");
  REFUSED(sampling.temperature = (float)NAN, "temperature: NaN");
  REFUSED(sampling.top_p = 1.5f, "top_p: 1.5");
  REFUSED(sampling.min_p = -0.5f, "min_p: -0.5");
  REFUSED(sampling.repetition_penalty = (float)INFINITY, "repetition_penalty: inf");
  REFUSED(sampling.flags = 4, "sampling.flags: unknown bits 0x4");
  REFUSED((sampling.min_tokens = 5), "min_tokens: 5 is above max_tokens = 4");
  REFUSED(sampling.top_logprobs = 5, "sampling.top_logprobs: 5");
  REFUSED((sampling.flags = AIENG_SAMPLING_LOGPROBS, sampling.top_logprobs = 21), "logprobs: 21");
  REFUSED((sampling.stop = stops, sampling.stop_count = 2), "stop: an empty string");
  REFUSED(sampling.stop_count = 1, "sampling.stop: NULL");
  REFUSED(sampling.stop_count = SIZE_MAX, "sampling.stop: ");
  REFUSED(sampling.stop_token_count = 65, "sampling.stop_token_ids: 65");
  REFUSED((sampling.logit_bias_ids = ids, sampling.logit_bias_count = 3), "sampling.logit_bias_values: NULL");
}

/* An array that is in order. */
static void zero_events(aieng_event *events, size_t count) {
  memset(events, 0, count * sizeof *events);
  events->struct_size = sizeof *events;
}

/* The text of one request, event by event, whose fields must agree with each other. */
static void collect(char *text, size_t capacity, int logprobs) {
  aieng_event event;
  const aieng_finish *finish;
  uint64_t tokens = 0;
  size_t length = 0, count;
  zero_events(&event, 1);
  while (!event.finish) {
    EXPECT(aieng_next(engine, &event, 1, 60000, &count), AIENG_OK, "");
    if (event.request_id != id || !event.text) break;
    CHECK(count == 1 && event.text[event.text_length] == 0 && event.user_data == 77 && event.sample == 0);
    if (length + event.text_length < capacity) memcpy(text + length, event.text, event.text_length);
    length += event.text_length;
    if (event.flags & AIENG_EVENT_TOKEN) {
      tokens++;
      CHECK(!!(event.flags & AIENG_EVENT_LOGPROBS) == logprobs);
      CHECK(event.top_count == (logprobs ? 3u : 0u));
      for (size_t i = 0; i < event.top_count; i++) CHECK(event.top[i].logprob <= event.top[0].logprob);
      /* Greedy: the chosen token is the most likely one. */
      if (logprobs) CHECK(event.token_id == event.top[0].token_id && event.logprob == event.top[0].logprob);
    }
  }
  finish = event.finish;
  CHECK(event.flags & AIENG_EVENT_FINISH && event.flags & AIENG_EVENT_LAST);
  CHECK(finish->reason == AIENG_FINISH_LENGTH && finish->status == AIENG_OK && finish->message_length == 0);
  CHECK(finish->completion_tokens == 4 && finish->completion_tokens == tokens && finish->prompt_tokens > 0);
  CHECK(finish->ttft_ns > 0 && finish->tpot_ns > 0 && finish->queue_ns + finish->prefill_ns == finish->ttft_ns);
  CHECK(strncmp(finish->kernels, "cpu-", 4) == 0 && strcmp(finish->determinism, "batch-invariant") == 0);
  CHECK(finish->model_fingerprint[0] && finish->model_fingerprint[1] && finish->seed == 5 && finish->seed_sample == 0);
  text[length < capacity ? length : capacity - 1] = 0;
  EXPECT(aieng_events_clear(&event), AIENG_OK, "");
  CHECK(event.text == NULL && event.storage == 0);
}

static void test_generation(void) {
  char by_text[256], again[256];
  reset();
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  collect(by_text, sizeof by_text, 0);
  CHECK(strcmp(by_text, " Paris.\n\n") == 0);
  reset();
  sampling.flags = AIENG_SAMPLING_LOGPROBS;
  sampling.top_logprobs = 3;
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  collect(again, sizeof again, 1);
  CHECK(strcmp(by_text, again) == 0);
}

/* Two copies of one array: what the first releases, the second no longer has. */
static void test_duplicates(void) {
  aieng_event event, copy;
  size_t count;
  zero_events(&event, 1);
  reset();
  sampling.max_tokens = 1;
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  EXPECT(aieng_next(engine, &event, 1, -1, &count), AIENG_OK, "");
  copy = event;
  EXPECT(aieng_events_clear(&event), AIENG_OK, "");
  EXPECT(aieng_events_clear(&copy), INVALID, "events.storage: ");
  while (aieng_next(engine, &event, 1, 200, &count) == AIENG_OK) continue;
  EXPECT(aieng_next(engine, &event, 1, 0, &count), AIENG_TIMEOUT, "");
  CHECK(event.text == NULL && event.flags == 0 && count == 0);
  EXPECT(aieng_cancel(engine, id), AIENG_OK, "");
  EXPECT(aieng_cancel(engine, UINT64_MAX), AIENG_OK, "");
}

/* A caller with a longer struct, as a newer header would have it, whose array has another stride. */
static void test_newer_events(void) {
  struct newer {
    aieng_event event;
    uint64_t unknown[3];
  } events[16];
  size_t count, tokens = 0;
  int last = 0;
  memset(events, 0, sizeof events);
  reset();
  sampling.max_tokens = 12;
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  while (!last) {
    events[0].event.struct_size = sizeof *events;
    EXPECT(aieng_next(engine, &events[0].event, 16, 60000, &count), AIENG_OK, "");
    if (count == 0) break;
    for (size_t i = 0; i < count; i++) {
      CHECK(events[i].event.request_id == id && events[i].event.struct_size == sizeof *events);
      CHECK(events[i].unknown[0] == 0 && events[i].unknown[2] == 0);
      tokens += events[i].event.flags & AIENG_EVENT_TOKEN;
      last |= (events[i].event.flags & AIENG_EVENT_LAST) != 0;
    }
  }
  CHECK(tokens == 12);
  events[0].unknown[2] = 1;
  EXPECT(aieng_events_clear(&events[0].event), INVALID, "but this library knows 80 bytes");
  events[0].unknown[2] = 0;
  EXPECT(aieng_events_clear(&events[0].event), AIENG_OK, "");
}

static void *wait_for_event(void *status) {
  aieng_event event;
  size_t count;
  zero_events(&event, 1);
  *(aieng_status *)status = aieng_next(engine, &event, 1, -1, &count);
  return NULL;
}

static void test_destroy(void) {
  aieng_event kept;
  size_t count;
  aieng_status waited = AIENG_OK;
  pthread_t thread;
  zero_events(&kept, 1);
  reset();
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  while (!kept.finish && aieng_next(engine, &kept, 1, -1, &count) == AIENG_OK) continue;
  if (pthread_create(&thread, NULL, wait_for_event, &waited)) exit(1);
  EXPECT(aieng_engine_destroy(engine), AIENG_OK, "");
  if (pthread_join(thread, NULL)) exit(1);
  CHECK(waited == AIENG_ERR_CLOSED);
  CHECK(kept.text[kept.text_length] == 0 && kept.finish->kernels[0] == 'c');
  EXPECT(aieng_submit(engine, &request, &id), AIENG_ERR_CLOSED, "engine: was destroyed");
  EXPECT(aieng_cancel(engine, id), AIENG_ERR_CLOSED, "engine: was destroyed");
  EXPECT(aieng_engine_destroy(engine), AIENG_ERR_CLOSED, "engine: was destroyed");
  EXPECT(aieng_next(engine, &kept, 1, -1, &count), AIENG_ERR_CLOSED, "engine: was destroyed");
  CHECK(kept.text == NULL);
}

static uint32_t end_load(void *calls, float fraction) {
  CHECK(fraction > 0 && fraction < 1);
  return ++*(int *)calls == 3;
}

/* A load that its own progress ends. */
static void test_progress(const char *path) {
  aieng_engine_config config;
  aieng_engine *none;
  int calls = 0;
  memset(&config, 0, sizeof config);
  config.struct_size = sizeof config;
  config.progress = end_load;
  config.progress_data = &calls;
  EXPECT(aieng_engine_create(path, &config, &none), AIENG_ERR_CANCELLED, "progress: ended the load");
  CHECK(calls == 3 && none == NULL);
  config.progress = NULL;
  config.kv_bytes = 1000;
  EXPECT(aieng_engine_create(path, &config, &none), INVALID, "kv_bytes: 1000 are less than");
  config.kv_tokens = 100;
  EXPECT(aieng_engine_create(path, &config, &none), INVALID, "kv_bytes: 1000, but kv_tokens is 100");
}

/* The same conversation in two forms is one prompt. */
static void test_conversation(void) {
  static const char json[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"},"
                             "{\"role\": \"user\", \"content\": \"Hello\"}]}";
  aieng_message messages[2];
  char by_messages[512], by_json[512];
  size_t length;
  memset(messages, 0, sizeof messages);
  messages[0].struct_size = messages[1].struct_size = sizeof messages[0];
  messages[0].role = "system";
  messages[0].content = "Be brief.";
  messages[1].role = "user";
  messages[1].content = "Hello";
  for (int i = 0; i < 2; i++) messages[i].role_length = messages[i].content_length = AIENG_STRLEN;
  reset();
  MESSAGES;
  EXPECT(aieng_render(engine, &request, by_messages, sizeof by_messages, &length), AIENG_OK, "");
  CHECK(strstr(by_messages, "<|im_start|>user\nHello<|im_end|>") && length == strlen(by_messages));
  request.messages = NULL;
  request.message_count = 0;
  request.chat_json = json;
  request.chat_json_length = sizeof json - 1;
  EXPECT(aieng_render(engine, &request, by_json, sizeof by_json, &length), AIENG_OK, "");
  CHECK(strcmp(by_messages, by_json) == 0);
}

int main(int argc, char **argv) {
  aieng_engine_config config;
  memset(&config, 0, sizeof config);
  config.struct_size = sizeof config;
  if (argc != 2) return 2;
  EXPECT(aieng_engine_create(argv[1], &config, &engine), AIENG_OK, "");
  if (!engine) return report();
  test_prompts();
  test_messages();
  test_sampling();
  test_generation();
  test_duplicates();
  test_newer_events();
  test_conversation();
  test_destroy();
  test_progress(argv[1]);
  return report();
}
