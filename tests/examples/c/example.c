/*
 * Sixteen requests at once from one queue, half of them cancelled: example MODEL, or example simulated.
 * The same in C++, Go and Python lies beside it.
 */
#include <aieng.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 16, TOKENS = 32 };

/* What has come of a request so far. */
struct progress {
  uint64_t id;
  unsigned tokens;
  int ended;
};

static void check(aieng_status status, const char *what) {
  if (status == AIENG_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, aieng_status_name(status), aieng_last_error());
  exit(1);
}

static aieng_engine *load(const char *model) {
  aieng_engine_config config = {0};
  aieng_engine *engine;
  config.struct_size = sizeof config;
  config.kv_tokens = 16384;
  if (strcmp(model, "simulated") == 0) {
    config.device = AIENG_DEVICE_SIMULATED;
    config.simulated_step_us = 1000;
  }
  check(aieng_engine_create(model, &config, &engine), model);
  return engine;
}

static uint64_t submit(aieng_engine *engine, unsigned number) {
  char prompt[64];
  aieng_sampling sampling = {0};
  aieng_request request = {0};
  uint64_t id;
  snprintf(prompt, sizeof prompt, "%u reasons to link an engine:", number + 2);
  sampling.struct_size = sizeof sampling;
  sampling.max_tokens = number % 2 ? 4000 : TOKENS;
  sampling.flags = AIENG_SAMPLING_IGNORE_EOS;
  request.struct_size = sizeof request;
  request.text = prompt;
  request.text_length = AIENG_STRLEN;
  request.sampling = &sampling;
  request.user_data = number;
  check(aieng_submit(engine, &request, &id), "submit");
  return id;
}

/* Whether a request ended as it should, with its usage. */
static int as_expected(unsigned number, const struct progress *progress, const aieng_finish *finish) {
  aieng_finish_reason wanted = number % 2 ? AIENG_FINISH_CANCELLED : AIENG_FINISH_LENGTH;
  if (finish->reason == wanted && finish->completion_tokens == progress->tokens && finish->prompt_tokens > 5 &&
      (number % 2 || progress->tokens == TOKENS))
    return 1;
  fprintf(stderr, "request %u: reason %" PRIu32 ", %" PRIu64 " tokens, %u seen\n", number, finish->reason,
          finish->completion_tokens, progress->tokens);
  return 0;
}

int main(int argc, char **argv) {
  static struct progress all[REQUESTS];
  aieng_event events[64];
  unsigned running = REQUESTS, cancelled = 0, tokens = 0;
  aieng_engine *engine;
  if (argc != 2) return 2;
  engine = load(argv[1]);
  for (unsigned i = 0; i < REQUESTS; i++) all[i].id = submit(engine, i);
  memset(events, 0, sizeof events);
  events[0].struct_size = sizeof *events;
  while (running > 0) {
    size_t count;
    check(aieng_next(engine, events, 64, -1, &count), "next");
    for (size_t i = 0; i < count; i++) {
      const aieng_event *event = &events[i];
      struct progress *progress = &all[event->user_data];
      if (event->flags & AIENG_EVENT_TOKEN) {
        tokens++;
        if (++progress->tokens == 4 && event->user_data % 2) check(aieng_cancel(engine, progress->id), "cancel");
      }
      if (event->finish) {
        if (progress->ended++ || !as_expected((unsigned)event->user_data, progress, event->finish)) return 1;
        cancelled += event->finish->reason == AIENG_FINISH_CANCELLED;
        running--;
      }
    }
  }
  check(aieng_events_clear(events), "clear");
  check(aieng_engine_destroy(engine), "destroy");
  printf("%d requests, %u cancelled, %u tokens\n", REQUESTS, cancelled, tokens);
  return 0;
}
