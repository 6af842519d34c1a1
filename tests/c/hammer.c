/*
 * Every call from many threads at once, with handles that are alive, stale, of another kind or invented, while engines come
 * and go: hammer SECONDS [SEED]. Built with a sanitizer, or run under one, it shows what the library does to memory.
 *
 * Nothing is checked but that statuses are known ones and strings end: what matters is that nobody crashes or hangs.
 */
#define _POSIX_C_SOURCE 200809L
#include "aieng.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 16, SLOTS = 8, BATCH = 8 };

/* Handles that threads share: some alive, some destroyed, some never made. */
static aieng_engine *volatile slots[SLOTS];
static volatile uint64_t last_id;
static volatile int stop;
static unsigned long calls[THREADS], oks[THREADS];

static uint64_t draw(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static aieng_engine *load_slot(unsigned i) { return __atomic_load_n(&slots[i], __ATOMIC_RELAXED); }

static aieng_engine *any_handle(uint64_t *state) {
  uint64_t bits = draw(state);
  aieng_engine *handle;
  switch (bits % 16) {
    case 0:
      bits = draw(state);
      break;
    case 1:
      bits = UINT64_C(0xE7) << 56 | (draw(state) & 0xff);
      break;
    case 2:
      bits = (uint64_t)(size_t)load_slot((unsigned)(bits >> 8) % SLOTS) ^ UINT64_C(1) << (draw(state) % 64);
      break;
    default:
      return load_slot((unsigned)(bits >> 8) % SLOTS);
  }
  memcpy(&handle, &bits, sizeof handle);
  return handle;
}

static void on_log(void *data, aieng_log_level level, const char *target, const char *message) {
  __atomic_fetch_add((unsigned long *)data, level + strlen(target) + strlen(message), __ATOMIC_RELAXED);
}

static void on_event(void *data, const aieng_event *event) {
  __atomic_fetch_add((unsigned long *)data, event->text_length + event->flags, __ATOMIC_RELAXED);
}

static unsigned long heard;

static aieng_status create(uint64_t *state) {
  aieng_engine_config config;
  aieng_engine *engine, *old;
  unsigned slot = (unsigned)draw(state) % SLOTS;
  aieng_status status;
  memset(&config, 0, sizeof config);
  config.struct_size = sizeof config;
  config.device = AIENG_DEVICE_SIMULATED;
  config.context = 256;
  config.kv_tokens = 2048;
  config.max_requests = 32;
  if (draw(state) % 2) {
    config.log = on_log;
    config.log_data = &heard;
    config.log_level = AIENG_LOG_DEBUG;
  }
  if (draw(state) % 4 == 0) {
    config.on_event = on_event;
    config.event_data = &heard;
  }
  status = aieng_engine_create(NULL, &config, &engine);
  if (status != AIENG_OK) return status;
  old = __atomic_exchange_n(&slots[slot], engine, __ATOMIC_RELAXED);
  return aieng_engine_destroy(old);
}

static aieng_status submit(aieng_engine *engine, uint64_t *state) {
  static const char *const stops[] = {"xyz", "~"};
  static const char json[] = "[{\"role\": \"user\", \"content\": \"Hi\"}]";
  aieng_sampling sampling;
  aieng_request request;
  uint64_t id = 0;
  aieng_status status;
  memset(&sampling, 0, sizeof sampling);
  memset(&request, 0, sizeof request);
  sampling.struct_size = sizeof sampling;
  sampling.max_tokens = (uint32_t)(draw(state) % 100);
  sampling.temperature = draw(state) % 2 ? 1.0f : 0.0f;
  sampling.flags = (uint32_t)(draw(state) % 4);
  sampling.stop = stops;
  sampling.stop_count = draw(state) % 3;
  request.struct_size = draw(state) % 64 ? sizeof request : (uint32_t)draw(state);
  request.flags = (uint32_t)(draw(state) % 32);
  if (draw(state) % 4) {
    request.text = "All work and no play makes Jack a dull boy.";
    request.text_length = AIENG_STRLEN;
  } else {
    request.chat_json = json;
    request.chat_json_length = draw(state) % 8 ? sizeof json - 1 : draw(state) % sizeof json;
  }
  request.sampling = &sampling;
  request.n = (uint32_t)(draw(state) % 4);
  request.best_of = (uint32_t)(draw(state) % 6);
  request.tenant = (uint32_t)(draw(state) % 3);
  request.deadline_ms = draw(state) % 4 ? 0 : (uint32_t)(draw(state) % 20);
  status = aieng_submit(engine, &request, &id);
  if (status == AIENG_OK) __atomic_store_n(&last_id, id, __ATOMIC_RELAXED);
  return status;
}

static aieng_status read_something(aieng_engine *engine, uint64_t *state) {
  aieng_engine_info info;
  aieng_metrics metrics;
  char text[512];
  uint32_t ids[64];
  size_t length = 0;
  int fd;
  memset(&info, 0, sizeof info);
  memset(&metrics, 0, sizeof metrics);
  info.struct_size = sizeof info;
  metrics.struct_size = sizeof metrics;
  switch (draw(state) % 6) {
    case 0:
      return aieng_engine_describe(engine, &info);
    case 1:
      return aieng_metrics_read(engine, &metrics);
    case 2:
      return aieng_metrics_text(engine, text, sizeof text, &length);
    case 3:
      return aieng_event_fd(engine, &fd);
    case 4:
      return aieng_tokenize(engine, "to and fro", AIENG_STRLEN, (uint32_t)(draw(state) % 4), ids, 64, &length);
    default:
      ids[0] = (uint32_t)(draw(state) % 300);
      return aieng_detokenize(engine, ids, 1, (uint32_t)(draw(state) % 2), text, sizeof text, &length);
  }
}

static void *hammer(void *argument) {
  unsigned me = (unsigned)(size_t)argument;
  uint64_t state = 88172645463325252u + me * UINT64_C(0x9e3779b97f4a7c15);
  aieng_event events[BATCH];
  memset(events, 0, sizeof events);
  events[0].struct_size = sizeof *events;
  while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
    aieng_engine *engine = any_handle(&state);
    aieng_status status;
    size_t count = 0;
    uint64_t what = draw(&state) % 1000;
    if (what < 2)
      status = create(&state);
    else if (what < 3)
      status = aieng_engine_destroy(engine);
    else if (what < 4)
      status = aieng_engine_shutdown(engine);
    else if (what < 300)
      status = submit(engine, &state);
    else if (what < 400)
      status = aieng_cancel(engine, draw(&state) % 2 ? __atomic_load_n(&last_id, __ATOMIC_RELAXED) : draw(&state));
    else if (what < 500)
      status = read_something(engine, &state);
    else if (what < 520)
      status = aieng_events_clear(events);
    else
      status = aieng_next(engine, events, 1 + what % BATCH, (int64_t)(what % 3), &count);
    for (size_t i = 0; i < count; i++)
      if (events[i].text[events[i].text_length] != 0) abort();
    if (status > AIENG_ERR_CANCELLED || status == AIENG_ERR_INTERNAL) {
      printf("%s: %s\n", aieng_status_name(status), aieng_last_error());
      abort();
    }
    calls[me]++;
    oks[me] += status == AIENG_OK;
  }
  aieng_events_clear(events);
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t threads[THREADS];
  struct timespec time = {0, 0};
  unsigned long all = 0, good = 0;
  uint64_t state = 1;
  if (argc < 2) return 2;
  time.tv_sec = atoi(argv[1]);
  for (int i = 0; i < SLOTS; i++) create(&state);
  for (size_t i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, hammer, (void *)i)) return 1;
  nanosleep(&time, NULL);
  __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
  for (int i = 0; i < THREADS; i++) {
    if (pthread_join(threads[i], NULL)) return 1;
    all += calls[i];
    good += oks[i];
  }
  for (unsigned i = 0; i < SLOTS; i++) aieng_engine_destroy(load_slot(i));
  printf("%lu calls, %lu of them went well\n", all, good);
  return good == 0;
}
