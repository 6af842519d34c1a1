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
  request.struct_size = sizeof request;
  request.text = "The capital of France is";
  request.text_length = AIENG_STRLEN;
  request.sampling = &sampling;
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
  REFUSED(request.struct_size = 63, "request.struct_size: 63");
  REFUSED(request.flags = 2, "request.flags: unknown bits 0x2");
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
  REFUSED(sampling.ignore_eos = 2, "sampling.ignore_eos: 2");
  REFUSED(sampling.logprobs = 2, "sampling.logprobs: 2");
  REFUSED(sampling.top_logprobs = 5, "sampling.top_logprobs: 5");
  REFUSED((sampling.logprobs = 1, sampling.top_logprobs = 21), "logprobs: 21");
  REFUSED((sampling.stop = stops, sampling.stop_count = 2), "stop: an empty string");
  REFUSED(sampling.stop_count = 1, "sampling.stop: NULL");
  REFUSED(sampling.stop_count = SIZE_MAX, "sampling.stop: ");
  REFUSED(sampling.stop_token_count = 65, "sampling.stop_token_ids: 65");
  REFUSED((sampling.logit_bias_ids = ids, sampling.logit_bias_count = 3), "sampling.logit_bias_values: NULL");
}

/* The text of one request, event by event, whose fields must agree with each other. */
static void collect(char *text, size_t capacity, int logprobs) {
  aieng_event event;
  uint64_t tokens = 0;
  size_t length = 0;
  memset(&event, 0, sizeof event);
  event.struct_size = sizeof event;
  while (!(event.flags & AIENG_EVENT_FINISH)) {
    EXPECT(aieng_next(engine, 60000, &event), AIENG_OK, "");
    if (event.request_id != id || !event.text) break;
    CHECK(event.text[event.text_length] == 0 && event.message && *event.message == 0);
    if (length + event.text_length < capacity) memcpy(text + length, event.text, event.text_length);
    length += event.text_length;
    if (event.flags & AIENG_EVENT_TOKEN) {
      tokens++;
      CHECK(!!(event.flags & AIENG_EVENT_LOGPROBS) == logprobs);
      CHECK(event.top_count == (logprobs ? 3u : 0u));
      for (size_t i = 0; i < event.top_count; i++) CHECK(event.top_logprobs[i] <= event.top_logprobs[0]);
      /* Greedy: the chosen token is the most likely one. */
      if (logprobs) CHECK(event.token_id == event.top_token_ids[0] && event.logprob == event.top_logprobs[0]);
    }
  }
  CHECK(event.finish_reason == AIENG_FINISH_LENGTH && event.status == AIENG_OK);
  CHECK(event.completion_tokens == 4 && event.completion_tokens == tokens && event.prompt_tokens > 0);
  CHECK(event.ttft_ns > 0 && event.tpot_ns > 0);
  text[length < capacity ? length : capacity - 1] = 0;
  EXPECT(aieng_event_clear(&event), AIENG_OK, "");
  CHECK(event.text == NULL && event.storage == 0);
}

static void test_generation(void) {
  char by_text[256], again[256];
  reset();
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  collect(by_text, sizeof by_text, 0);
  CHECK(strcmp(by_text, " Paris.\n\n") == 0);
  reset();
  sampling.logprobs = 1;
  sampling.top_logprobs = 3;
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  collect(again, sizeof again, 1);
  CHECK(strcmp(by_text, again) == 0);
}

/* Two copies of one event: what the first releases, the second no longer has. */
static void test_duplicates(void) {
  aieng_event event, copy;
  memset(&event, 0, sizeof event);
  event.struct_size = sizeof event;
  reset();
  sampling.max_tokens = 1;
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  EXPECT(aieng_next(engine, -1, &event), AIENG_OK, "");
  copy = event;
  EXPECT(aieng_event_clear(&event), AIENG_OK, "");
  EXPECT(aieng_event_clear(&copy), INVALID, "event.storage: ");
  while (aieng_next(engine, 200, &event) == AIENG_OK) continue;
  EXPECT(aieng_next(engine, 0, &event), AIENG_TIMEOUT, "");
  CHECK(event.text == NULL && event.flags == 0);
  EXPECT(aieng_cancel(engine, id), AIENG_OK, "");
  EXPECT(aieng_cancel(engine, UINT64_MAX), AIENG_OK, "");
}

static void *wait_for_event(void *status) {
  aieng_event event;
  memset(&event, 0, sizeof event);
  event.struct_size = sizeof event;
  *(aieng_status *)status = aieng_next(engine, -1, &event);
  return NULL;
}

static void test_destroy(void) {
  aieng_event kept;
  aieng_status waited = AIENG_OK;
  pthread_t thread;
  memset(&kept, 0, sizeof kept);
  kept.struct_size = sizeof kept;
  reset();
  EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  while (!(kept.flags & AIENG_EVENT_FINISH) && aieng_next(engine, -1, &kept) == AIENG_OK) continue;
  if (pthread_create(&thread, NULL, wait_for_event, &waited)) exit(1);
  EXPECT(aieng_engine_destroy(engine), AIENG_OK, "");
  if (pthread_join(thread, NULL)) exit(1);
  CHECK(waited == AIENG_ERR_CLOSED);
  CHECK(kept.text[kept.text_length] == 0);
  EXPECT(aieng_submit(engine, &request, &id), AIENG_ERR_CLOSED, "engine: was destroyed");
  EXPECT(aieng_cancel(engine, id), AIENG_ERR_CLOSED, "engine: was destroyed");
  EXPECT(aieng_engine_destroy(engine), AIENG_ERR_CLOSED, "engine: was destroyed");
  EXPECT(aieng_next(engine, -1, &kept), AIENG_ERR_CLOSED, "engine: was destroyed");
  CHECK(kept.text == NULL);
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
  test_destroy();
  return report();
}
