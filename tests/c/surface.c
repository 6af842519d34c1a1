/*
 * Every part of the interface on the simulated device, which needs no model: surface, or surface nofork, for tools that
 * cannot follow a child of a process with threads.
 */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define INVALID AIENG_ERR_INVALID_ARGUMENT

static aieng_engine *engine;
static aieng_sampling sampling;
static aieng_request request;
static aieng_event events[64];
static uint64_t id;
static size_t count;

static aieng_engine_config default_config(void) {
  aieng_engine_config config;
  memset(&config, 0, sizeof config);
  config.struct_size = sizeof config;
  config.device = AIENG_DEVICE_SIMULATED;
  config.kv_tokens = 65536;
  return config;
}

static void create(const aieng_engine_config *config) {
  EXPECT(aieng_engine_create(NULL, config, &engine), AIENG_OK, "");
  if (!engine) exit(report());
  memset(events, 0, sizeof events);
  events[0].struct_size = sizeof *events;
}

static void destroy(void) {
  EXPECT(aieng_events_clear(events), AIENG_OK, "");
  EXPECT(aieng_engine_destroy(engine), AIENG_OK, "");
}

static void reset(const char *text, uint32_t max_tokens) {
  memset(&sampling, 0, sizeof sampling);
  memset(&request, 0, sizeof request);
  sampling.struct_size = sizeof sampling;
  sampling.max_tokens = max_tokens;
  sampling.flags = AIENG_SAMPLING_IGNORE_EOS;
  request.struct_size = sizeof request;
  request.text = text;
  request.text_length = AIENG_STRLEN;
  request.sampling = &sampling;
}

static void submit(void) { EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, ""); }

/* What came of a request. */
struct outcome {
  int tokens, firsts, prompt_tokens, scored, samples, lasts;
  uint32_t ids[256];
  aieng_finish finish;
};

/* Takes events until the request has ended; there are no others. */
static struct outcome collect(void) {
  struct outcome out;
  memset(&out, 0, sizeof out);
  while (!out.lasts) {
    EXPECT(aieng_next(engine, events, 64, 60000, &count), AIENG_OK, "");
    if (count == 0) break;
    for (size_t i = 0; i < count; i++) {
      const aieng_event *event = &events[i];
      CHECK(event->request_id == id && event->text[event->text_length] == 0);
      CHECK((event->finish != NULL) == ((event->flags & AIENG_EVENT_FINISH) != 0));
      if (event->flags & AIENG_EVENT_PROMPT) {
        out.prompt_tokens++;
      } else if (event->flags & AIENG_EVENT_TOKEN) {
        if (event->sample == 0 && out.firsts < 256) out.ids[out.firsts++] = event->token_id;
        out.tokens++;
      }
      if (event->flags & AIENG_EVENT_LOGPROBS) {
        out.scored++;
        CHECK(event->logprob <= 0);
      }
      if (event->finish) {
        out.samples++;
        out.finish = *event->finish;
        out.finish.kernels = out.finish.determinism = out.finish.message = NULL;
      }
      out.lasts += (event->flags & AIENG_EVENT_LAST) != 0;
    }
  }
  CHECK(out.lasts == 1);
  return out;
}

static void test_descriptions(void) {
  aieng_build_info build;
  aieng_engine_info info;
  memset(&build, 0, sizeof build);
  memset(&info, 0, sizeof info);
  EXPECT(aieng_build_describe(&build), INVALID, "info.struct_size: 0");
  EXPECT(aieng_build_describe(NULL), INVALID, "info: NULL");
  build.struct_size = sizeof build;
  EXPECT(aieng_build_describe(&build), AIENG_OK, "");
  CHECK(build.abi_version == AIENG_ABI_VERSION && strcmp(build.version, aieng_version()) == 0);
  CHECK(strstr(build.version, build.revision) && strchr(build.target, '-') && strstr(build.compiler, "rustc "));
  CHECK(strncmp(build.kernels, "cpu-", 4) == 0 && *build.profile);
  info.struct_size = sizeof info;
  EXPECT(aieng_engine_describe(engine, &info), AIENG_OK, "");
  CHECK(info.device == AIENG_DEVICE_SIMULATED && info.isa == AIENG_ISA_AUTO && info.vocab_size == 257);
  CHECK(info.context == 4096 && info.max_sequences == 16 && info.max_requests == 256 && info.kv_tokens == 65536);
  CHECK(strcmp(info.model_name, "Simulated") == 0 && info.has_chat_template == 1 && info.bos_token == UINT32_MAX);
}

static void test_samples(void) {
  struct outcome one, again, best;
  reset("Once upon a time", 20);
  sampling.temperature = 1.0f;
  submit();
  one = collect();
  CHECK(one.tokens == 20 && one.samples == 1 && one.finish.reason == AIENG_FINISH_LENGTH);
  CHECK(one.finish.prompt_tokens == 16 && one.finish.completion_tokens == 20 && one.finish.cached_tokens == 0);
  request.n = 3;
  submit();
  again = collect();
  CHECK(again.tokens == 60 && again.samples == 3);
  CHECK(memcmp(one.ids, again.ids, 20 * sizeof *one.ids) == 0);
  request.n = 2;
  request.best_of = 5;
  submit();
  best = collect();
  CHECK(best.tokens == 40 && best.samples == 2);
  request.best_of = 1;
  EXPECT(aieng_submit(engine, &request, &id), INVALID, "best_of: 1");
}

static void test_prompts(void) {
  struct outcome out;
  reset("0123456789abcdefghijklmnopqrstuv+", 3);
  request.flags = AIENG_REQUEST_ECHO;
  submit();
  out = collect();
  CHECK(out.prompt_tokens == 33 && out.tokens == 3 && out.scored == 0);
  CHECK(out.finish.cached_tokens == 0);
  submit();
  out = collect();
  CHECK(out.finish.cached_tokens == 32);
  request.flags = AIENG_REQUEST_NO_PREFIX_CACHE;
  submit();
  CHECK(collect().finish.cached_tokens == 0);
  request.flags = AIENG_REQUEST_SCORE;
  request.prompt_top_logprobs = 2;
  submit();
  out = collect();
  CHECK(out.prompt_tokens == 33 && out.tokens == 0 && out.scored == 32 && out.finish.completion_tokens == 0);
  request.flags = 0;
  EXPECT(aieng_submit(engine, &request, &id), INVALID, "request.prompt_top_logprobs: 2");
}

static void test_ends(void) {
  static const char *const stops[] = {"never"};
  struct outcome out;
  uint32_t second;
  reset("stop here", 10);
  submit();
  second = collect().ids[1];
  sampling.stop_token_ids = &second;
  sampling.stop_token_count = 1;
  sampling.stop = stops;
  sampling.stop_count = 1;
  submit();
  out = collect();
  CHECK(out.finish.reason == AIENG_FINISH_STOP && out.finish.stop_cause == AIENG_STOP_TOKEN);
  CHECK(out.finish.stop_token == second && out.finish.completion_tokens == 2);
  sampling.min_tokens = 10;
  submit();
  CHECK(collect().finish.reason == AIENG_FINISH_LENGTH);
  reset("cancel", 4000);
  submit();
  EXPECT(aieng_cancel(engine, id), AIENG_OK, "");
  CHECK(collect().finish.reason == AIENG_FINISH_CANCELLED);
}

static void test_text(void) {
  static const uint32_t outside[] = {257};
  uint32_t ids[64];
  char text[64];
  EXPECT(aieng_tokenize(engine, "h\xc3\xa9llo", AIENG_STRLEN, 0, NULL, 0, &count), AIENG_OK, "");
  CHECK(count == 6);
  ids[2] = 77;
  EXPECT(aieng_tokenize(engine, "h\xc3\xa9llo", 6, 0, ids, 2, &count), AIENG_OK, "");
  CHECK(count == 6 && ids[2] == 77);
  EXPECT(aieng_tokenize(engine, "h\xc3\xa9llo", 6, 0, ids, 64, &count), AIENG_OK, "");
  EXPECT(aieng_tokenize(engine, "h", 1, 0, NULL, 5, &count), INVALID, "token_ids: NULL");
  EXPECT(aieng_tokenize(engine, "h", 1, 0, ids, 5, NULL), INVALID, "count: NULL");
  EXPECT(aieng_tokenize(engine, "h", 1, 4, ids, 5, &count), INVALID, "flags: unknown bits 0x4");
  EXPECT(aieng_tokenize(engine, "\xff", 1, 0, ids, 5, &count), INVALID, "text: not UTF-8");
  EXPECT(aieng_tokenize(engine, NULL, 1, 0, ids, 5, &count), INVALID, "text: NULL");
  EXPECT(aieng_tokenize(engine, "h\xc3\xa9llo", 6, 0, ids, 64, &count), AIENG_OK, "");
  memset(text, 'x', sizeof text);
  EXPECT(aieng_detokenize(engine, ids, count, 0, text, sizeof text, &count), AIENG_OK, "");
  CHECK(count == 6 && strcmp(text, "h\xc3\xa9llo") == 0);
  /* Cut between characters. */
  EXPECT(aieng_detokenize(engine, ids, 6, 0, text, 3, &count), AIENG_OK, "");
  CHECK(count == 6 && strcmp(text, "h") == 0);
  EXPECT(aieng_detokenize(engine, ids, 6, 0, NULL, 0, &count), AIENG_OK, "");
  EXPECT(aieng_detokenize(engine, outside, 1, 0, text, 3, &count), INVALID, "token 257 is outside");
  ids[0] = 256;
  EXPECT(aieng_detokenize(engine, ids, 1, 0, text, sizeof text, &count), AIENG_OK, "");
  CHECK(count == 0 && text[0] == 0);
  EXPECT(aieng_detokenize(engine, ids, 1, AIENG_DETOKENIZE_SPECIAL, text, sizeof text, &count), AIENG_OK, "");
  CHECK(strcmp(text, "<|endoftext|>") == 0);
}

static void test_chat(void) {
  char prompt[128];
  reset(NULL, 5);
  request.text_length = 0;
  request.chat_json = "[{\"role\": \"user\", \"content\": \"Hi\"}]";
  request.chat_json_length = AIENG_STRLEN;
  EXPECT(aieng_render(engine, &request, prompt, sizeof prompt, &count), AIENG_OK, "");
  CHECK(strcmp(prompt, "user: Hi\nassistant:") == 0 && count == strlen(prompt));
  submit();
  CHECK(collect().finish.prompt_tokens == strlen(prompt));
  request.chat_json = "[";
  EXPECT(aieng_submit(engine, &request, &id), INVALID, "chat JSON: ");
  reset("no conversation", 5);
  EXPECT(aieng_render(engine, &request, prompt, sizeof prompt, &count), INVALID, "neither messages nor chat_json");
}

static void test_metrics(void) {
  static char text[1 << 15];
  aieng_metrics metrics;
  memset(&metrics, 0, sizeof metrics);
  metrics.struct_size = sizeof metrics;
  /* The step that made the last event is counted after it. */
  for (int i = 0; i < 1000 && (i == 0 || metrics.running > 0); i++) {
    struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
    EXPECT(aieng_metrics_read(engine, &metrics), AIENG_OK, "");
  }
  CHECK(metrics.buckets == AIENG_BUCKETS && metrics.bucket_bounds[0] == 0.001);
  CHECK(metrics.finished_length > 0 && metrics.finished_stop == 1 && metrics.finished_cancelled == 1);
  CHECK(metrics.prefix_hits >= 32 && metrics.rejected_invalid > 0 && metrics.rejected_busy == 0 && metrics.steps > 0);
  CHECK(metrics.time_to_first_token.sum_ns > 0 && metrics.running == 0 && metrics.kv_blocks == 4096);
  EXPECT(aieng_metrics_text(engine, text, sizeof text, &count), AIENG_OK, "");
  CHECK(count < sizeof text && strlen(text) == count && strstr(text, "\naieng_generation_tokens_total "));
}

/* As an event loop does it. */
static void test_descriptor(void) {
  struct pollfd polled;
  int ended = 0;
  EXPECT(aieng_event_fd(engine, &polled.fd), AIENG_OK, "");
  EXPECT(aieng_event_fd(engine, NULL), INVALID, "fd: NULL");
  polled.events = POLLIN;
  while (aieng_next(engine, events, 64, 0, &count) == AIENG_OK) continue;
  CHECK(poll(&polled, 1, 0) == 0);
  reset("poll", 100);
  submit();
  while (!ended && poll(&polled, 1, 60000) == 1) {
    while (aieng_next(engine, events, 64, 0, &count) == AIENG_OK)
      for (size_t i = 0; i < count; i++) ended |= (events[i].flags & AIENG_EVENT_LAST) != 0;
  }
  CHECK(ended);
}

struct heard {
  pthread_mutex_t lock;
  int lines, requests, tokens, lasts, refusals, closed, on_caller;
  pthread_t caller;
};

static void on_log(void *data, aieng_log_level level, const char *target, const char *message) {
  struct heard *heard = (struct heard *)data;
  pthread_mutex_lock(&heard->lock);
  heard->lines++;
  heard->requests += strcmp(target, "request") == 0 && level == AIENG_LOG_DEBUG && strchr(message, ':') != NULL;
  heard->on_caller += pthread_equal(pthread_self(), heard->caller) != 0;
  pthread_mutex_unlock(&heard->lock);
}

static void on_event(void *data, const aieng_event *event) {
  struct heard *heard = (struct heard *)data;
  pthread_mutex_lock(&heard->lock);
  heard->tokens += event->flags & AIENG_EVENT_TOKEN;
  heard->lasts += (event->flags & AIENG_EVENT_LAST) != 0;
  heard->on_caller += pthread_equal(pthread_self(), heard->caller) != 0;
  pthread_mutex_unlock(&heard->lock);
  aieng_status status = aieng_engine_destroy(engine);
  heard->refusals += status == INVALID && strstr(aieng_last_error(), "by its own callback");
  /* Once somebody else destroys it. */
  heard->closed += status == AIENG_ERR_CLOSED;
}

static void test_callbacks(void) {
  struct heard heard;
  int fd;
  aieng_engine_config config = default_config();
  memset(&heard, 0, sizeof heard);
  pthread_mutex_init(&heard.lock, NULL);
  heard.caller = pthread_self();
  config.log_level = AIENG_LOG_DEBUG;
  EXPECT(aieng_engine_create(NULL, &config, &engine), INVALID, "config.log_level: 4, but log is NULL");
  config.log = on_log;
  config.on_event = on_event;
  config.log_data = config.event_data = &heard;
  config.log_level = 9;
  EXPECT(aieng_engine_create(NULL, &config, &engine), INVALID, "config.log_level: 9");
  config.log_level = AIENG_LOG_DEBUG;
  create(&config);
  EXPECT(aieng_next(engine, events, 64, 0, &count), INVALID, "its events go to on_event");
  EXPECT(aieng_event_fd(engine, &fd), INVALID, "its events go to on_event");
  reset("callback", 10);
  for (int i = 0; i < 8; i++) submit();
  for (int lasts = 0; lasts < 7;) {
    struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&heard.lock);
    lasts = heard.lasts;
    pthread_mutex_unlock(&heard.lock);
  }
  destroy();
  /* All that was to be said has been said. */
  CHECK(heard.lasts == 8 && heard.tokens >= 70);
  CHECK(heard.refusals > 0 && heard.refusals + heard.closed >= heard.tokens);
  CHECK(heard.requests == 16 && heard.lines == 17 && heard.on_caller == 0);
  pthread_mutex_destroy(&heard.lock);
}

static void test_shutdown(void) {
  int lasts = 0;
  aieng_status status;
  aieng_engine_config config = default_config();
  config.simulated_step_us = 1000;
  create(&config);
  reset("shutdown", 4000);
  for (int i = 0; i < 4; i++) submit();
  EXPECT(aieng_engine_shutdown(engine), AIENG_OK, "");
  while ((status = aieng_next(engine, events, 64, -1, &count)) == AIENG_OK)
    for (size_t i = 0; i < count; i++) {
      lasts += (events[i].flags & AIENG_EVENT_LAST) != 0;
      if (events[i].finish) CHECK(events[i].finish->reason == AIENG_FINISH_CANCELLED);
    }
  EXPECT(status, AIENG_ERR_CLOSED, "shut down");
  CHECK(lasts == 4);
  EXPECT(aieng_submit(engine, &request, &id), AIENG_ERR_CLOSED, "shut down");
  destroy();
}

static void test_deadline_and_busy(void) {
  int full = 0;
  aieng_engine_config config = default_config();
  config.simulated_step_us = 2000;
  config.max_requests = 3;
  create(&config);
  reset("late", 4000);
  request.deadline_ms = 30;
  submit();
  CHECK(collect().finish.reason == AIENG_FINISH_DEADLINE);
  for (int i = 0; i < 4; i++) full += aieng_submit(engine, &request, &id) == AIENG_ERR_BUSY;
  CHECK(full == 1 && strstr(aieng_last_error(), "3 requests are in flight"));
  destroy();
}

/* In a child, the parent's engine is closed, and one of its own works. */
static void test_fork(void) {
  aieng_engine_config config = default_config();
  pid_t child;
  int status = -1;
  create(&config);
  reset("fork", 10);
  submit();
  fflush(stdout);
  child = fork();
  if (child == 0) {
    failures = 0;
    alarm(20);
    EXPECT(aieng_submit(engine, &request, &id), AIENG_ERR_CLOSED, "a fork of");
    EXPECT(aieng_next(engine, events, 64, -1, &count), AIENG_ERR_CLOSED, "a fork of");
    EXPECT(aieng_engine_shutdown(engine), AIENG_ERR_CLOSED, "a fork of");
    EXPECT(aieng_engine_destroy(engine), AIENG_ERR_CLOSED, "a fork of");
    create(&config);
    submit();
    CHECK(collect().tokens == 10);
    destroy();
    fflush(stdout);
    _exit(failures != 0);
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  CHECK(collect().tokens == 10);
  destroy();
}

/* Children made while other threads are inside calls. */
static void *keep_calling(void *stop) {
  while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) {
    aieng_engine_config config = default_config();
    aieng_engine *mine;
    if (aieng_engine_create(NULL, &config, &mine) == AIENG_OK) aieng_engine_destroy(mine);
    aieng_cancel(engine, 1);
  }
  return NULL;
}

static void test_fork_under_load(void) {
  aieng_engine_config config = default_config();
  pthread_t threads[3];
  int stop = 0;
  create(&config);
  for (int i = 0; i < 3; i++)
    if (pthread_create(&threads[i], NULL, keep_calling, &stop)) exit(1);
  for (int i = 0; i < 30; i++) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
      alarm(20);
      aieng_engine *mine;
      _exit(aieng_cancel(engine, 1) != AIENG_ERR_CLOSED || aieng_engine_create(NULL, &config, &mine) != AIENG_OK ||
            aieng_engine_destroy(mine) != AIENG_OK);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  }
  __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  destroy();
}

int main(int argc, char **argv) {
  aieng_engine_config config = default_config();
  create(&config);
  test_descriptions();
  test_samples();
  test_prompts();
  test_ends();
  test_text();
  test_chat();
  test_metrics();
  test_descriptor();
  destroy();
  test_callbacks();
  test_shutdown();
  test_deadline_and_busy();
  if (argc < 2 || strcmp(argv[1], "nofork") != 0) {
    test_fork();
    test_fork_under_load();
  }
  return report();
}
