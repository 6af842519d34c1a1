/*
 * Several requests at once, streamed from one queue: stream MODEL PROMPT...
 *
 * Each prompt is answered greedily, and a conversation runs beside them that is cancelled after its third token. One
 * line for each event goes to stdout: the number of the request (the conversation is the last), a tab, and either the
 * text in quotes or why the request ended and how many tokens it has.
 */
#include "aieng.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REQUESTS 16

static void check(aieng_status status, const char *what) {
  if (status == AIENG_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, aieng_status_name(status), aieng_last_error());
  exit(1);
}

static void submit_prompt(aieng_engine *engine, int number, const char *prompt) {
  aieng_sampling sampling = {0};
  aieng_request request = {0};
  uint64_t id;
  sampling.struct_size = sizeof sampling;
  sampling.max_tokens = 48;
  request.struct_size = sizeof request;
  request.text = prompt;
  request.text_length = AIENG_STRLEN;
  request.sampling = &sampling;
  request.user_data = (uint64_t)number;
  check(aieng_submit(engine, &request, &id), prompt);
}

static uint64_t submit_conversation(aieng_engine *engine, int number) {
  aieng_message messages[2];
  aieng_request request = {0};
  uint64_t id;
  memset(messages, 0, sizeof messages);
  messages[0].struct_size = messages[1].struct_size = sizeof messages[0];
  messages[0].role = "system";
  messages[0].content = "You are a poet.";
  messages[1].role = "user";
  messages[1].content = "Write a long poem about the sea.";
  for (int i = 0; i < 2; i++) messages[i].role_length = messages[i].content_length = AIENG_STRLEN;
  request.struct_size = sizeof request;
  request.messages = messages;
  request.message_count = 2;
  request.user_data = (uint64_t)number;
  check(aieng_submit(engine, &request, &id), "conversation");
  return id;
}

static void print_quoted(const char *text, size_t length) {
  putchar('"');
  for (size_t i = 0; i < length; i++) {
    if (text[i] == '\n')
      fputs("\\n", stdout);
    else if (text[i] == '"' || text[i] == '\\')
      printf("\\%c", text[i]);
    else
      putchar(text[i]);
  }
  putchar('"');
}

static void print_event(int number, const aieng_event *event) {
  static const char *const reasons[] = {"none", "stop", "length", "cancelled", "error", "deadline"};
  if (event->text_length > 0) {
    printf("%d\t", number);
    print_quoted(event->text, event->text_length);
    putchar('\n');
  }
  if (event->finish) {
    const aieng_finish *finish = event->finish;
    const char *reason = finish->reason <= AIENG_FINISH_DEADLINE ? reasons[finish->reason] : "unknown";
    printf("%d\t%s %" PRIu64 "%s%s\n", number, reason, finish->completion_tokens, finish->message_length ? ": " : "",
           finish->message);
  }
  fflush(stdout);
}

int main(int argc, char **argv) {
  uint64_t conversation;
  int prompts = argc - 2, running, cancelled_after = 3;
  aieng_engine_config config = {0};
  aieng_event events[8];
  aieng_engine *engine;
  if (prompts < 1 || prompts >= MAX_REQUESTS) {
    fprintf(stderr, "usage: stream MODEL PROMPT... (at most %d)\n", MAX_REQUESTS - 1);
    return 2;
  }
  config.struct_size = sizeof config;
  /* Without this, the cache is as long as one sequence, and requests wait for each other. */
  config.kv_tokens = 16384;
  check(aieng_engine_create(argv[1], &config, &engine), "load");
  for (int i = 0; i < prompts; i++) submit_prompt(engine, i, argv[2 + i]);
  conversation = submit_conversation(engine, prompts);

  memset(events, 0, sizeof events);
  events[0].struct_size = sizeof *events;
  for (running = prompts + 1; running > 0;) {
    size_t count;
    check(aieng_next(engine, events, sizeof events / sizeof *events, -1, &count), "next");
    for (size_t i = 0; i < count; i++) {
      int number = (int)events[i].user_data;
      print_event(number, &events[i]);
      if (number == prompts && (events[i].flags & AIENG_EVENT_TOKEN) && --cancelled_after == 0)
        check(aieng_cancel(engine, conversation), "cancel");
      if (events[i].flags & AIENG_EVENT_LAST) running--;
    }
  }
  check(aieng_events_clear(events), "clear");
  check(aieng_engine_destroy(engine), "destroy");
  return 0;
}
