/*
 * The library loaded and unloaded: reload LIBRARY [MODEL].
 *
 * A hundred times: dlopen, an engine on the simulated device, a request, dlclose; memory must not grow with it. With a MODEL,
 * the time from dlopen to its first token is printed, in milliseconds; run it twice, for the file to be in the system's cache.
 */
#define _DEFAULT_SOURCE
#include "aieng.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static aieng_status (*create)(const char *, const aieng_engine_config *, aieng_engine **);
static aieng_status (*destroy)(aieng_engine *);
static aieng_status (*submit)(aieng_engine *, const aieng_request *, uint64_t *);
static aieng_status (*next)(aieng_engine *, aieng_event *, size_t, int64_t, size_t *);
static aieng_status (*clear)(aieng_event *);
static const char *(*last_error)(void);

static void fail(const char *what, const char *why) {
  printf("%s: %s\n", what, why ? why : "?");
  exit(1);
}

static void check(aieng_status status, const char *what) {
  if (status != AIENG_OK) fail(what, last_error());
}

/* POSIX's way to get a function out of a pointer. */
static void find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  if (!symbol) fail(name, dlerror());
  memcpy(function, &symbol, sizeof symbol);
}

static void *load(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) fail("dlopen", dlerror());
  find(library, "aieng_engine_create", &create);
  find(library, "aieng_engine_destroy", &destroy);
  find(library, "aieng_submit", &submit);
  find(library, "aieng_next", &next);
  find(library, "aieng_events_clear", &clear);
  find(library, "aieng_last_error", &last_error);
  return library;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* One token from an engine that lives for it; when the token came. */
static double generate(const char *model) {
  aieng_engine_config config = {0};
  aieng_sampling sampling = {0};
  aieng_request request = {0};
  aieng_event event;
  aieng_engine *engine;
  double arrived;
  uint64_t id;
  size_t count;
  config.struct_size = sizeof config;
  if (!model) config.device = AIENG_DEVICE_SIMULATED;
  check(create(model, &config, &engine), "create");
  sampling.struct_size = sizeof sampling;
  sampling.max_tokens = 1;
  request.struct_size = sizeof request;
  request.text = "Once upon a time";
  request.text_length = AIENG_STRLEN;
  request.sampling = &sampling;
  check(submit(engine, &request, &id), "submit");
  memset(&event, 0, sizeof event);
  event.struct_size = sizeof event;
  check(next(engine, &event, 1, -1, &count), "next");
  arrived = seconds();
  if (!(event.flags & AIENG_EVENT_TOKEN)) fail("event", "no token");
  check(clear(&event), "clear");
  check(destroy(engine), "destroy");
  return arrived;
}

/* Memory of this process in pages. */
static long resident(void) {
  long size = 0, pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (!file || fscanf(file, "%ld %ld", &size, &pages) != 2) fail("/proc/self/statm", "cannot be read");
  fclose(file);
  return pages;
}

/* Milliseconds from dlopen to the first token. */
static double first_token(const char *path, const char *model) {
  double begin = seconds(), arrived;
  void *library = load(path);
  arrived = generate(model);
  dlclose(library);
  return (arrived - begin) * 1e3;
}

int main(int argc, char **argv) {
  long before = 0, after;
  if (argc < 2) return 2;
  if (argc > 2) {
    printf("%.0f ms from dlopen to the first token\n", first_token(argv[1], argv[2]));
    return 0;
  }
  for (int i = 0; i < 100; i++) {
    void *library = load(argv[1]);
    generate(NULL);
    if (dlclose(library)) fail("dlclose", dlerror());
    if (i == 19) before = resident();
  }
  after = resident();
  if (after > before + 1024) {
    printf("%ld pages after 20 times, %ld after 100\n", before, after);
    return 1;
  }
  return 0;
}
