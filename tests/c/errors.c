/*
 * Misuse that needs no model: every call with NULL, with wrong sizes, unknown values and invented handles.
 * errors FOLDER, where FOLDER holds an empty file "empty" and a file "noise" that is no model.
 */
#include "check.h"

#include <stdlib.h>

#define INVALID AIENG_ERR_INVALID_ARGUMENT

static char path[4096];

static const char *in_folder(const char *folder, const char *name) {
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static aieng_engine_config default_config(void) {
  aieng_engine_config config;
  memset(&config, 0, sizeof config);
  config.struct_size = sizeof config;
  return config;
}

/* A number in the guise of a handle. */
static aieng_engine *forged(uint64_t number) {
  aieng_engine *engine;
  memcpy(&engine, &number, sizeof engine);
  return engine;
}

static void test_constants(void) {
  CHECK(aieng_abi_version() == AIENG_ABI_VERSION);
  CHECK(strncmp(aieng_version(), "0.1.", 4) == 0);
  CHECK(strcmp(aieng_status_name(AIENG_ERR_BUSY), "AIENG_ERR_BUSY") == 0);
  CHECK(strcmp(aieng_status_name(12345), "AIENG_STATUS_UNKNOWN") == 0);
  CHECK(strcmp(aieng_last_error(), "") == 0);
}

static void test_create(void) {
  aieng_engine_config config = default_config();
  aieng_engine *engine = forged(1);
  EXPECT(aieng_engine_create(NULL, &config, &engine), INVALID, "path: NULL");
  CHECK(engine == NULL);
  EXPECT(aieng_engine_create("/missing", NULL, &engine), INVALID, "config: NULL");
  EXPECT(aieng_engine_create("/missing", &config, NULL), INVALID, "engine: NULL");
  config.device = 77;
  EXPECT(aieng_engine_create("/missing", &config, &engine), INVALID, "config.device: 77");
  config = default_config();
  config.isa = 78;
  EXPECT(aieng_engine_create("/missing", &config, &engine), INVALID, "config.isa: 78");
  config = default_config();
  config.kv_type = 79;
  EXPECT(aieng_engine_create("/missing", &config, &engine), INVALID, "config.kv_type: 79");
  config = default_config();
  config.flags = 0x80000000u;
  EXPECT(aieng_engine_create("/missing", &config, &engine), INVALID, "config.flags: unknown bits 0x80000000");
}

static void test_files(const char *folder) {
  aieng_engine_config config = default_config();
  aieng_engine *engine = forged(1);
  EXPECT(aieng_engine_create(in_folder(folder, "missing.gguf"), &config, &engine), AIENG_ERR_IO, path);
  CHECK(engine == NULL);
  EXPECT(aieng_engine_create("", &config, &engine), AIENG_ERR_IO, "");
  EXPECT(aieng_engine_create("not\xff utf-8\n", &config, &engine), AIENG_ERR_IO, "");
  CHECK(strchr(aieng_last_error(), '\n') == NULL);
  EXPECT(aieng_engine_create(in_folder(folder, "empty"), &config, &engine), AIENG_ERR_MODEL_FORMAT, path);
  EXPECT(aieng_engine_create(in_folder(folder, "noise"), &config, &engine), AIENG_ERR_MODEL_FORMAT, path);
  CHECK(aieng_engine_create(folder, &config, &engine) != AIENG_OK);
  CHECK(strstr(aieng_last_error(), folder) != NULL);
  CHECK(engine == NULL);
}

/* Each size on memory of its own, so that a tool that checks memory sees a read past the end. */
static void test_struct_sizes(void) {
  static const uint32_t wrong[] = {0, 1, 4, 79, 4097, 0x7fffffffu, UINT32_MAX};
  aieng_engine *engine;
  size_t count;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    aieng_engine_config config = default_config();
    aieng_event event;
    memset(&event, 0, sizeof event);
    config.struct_size = event.struct_size = wrong[i];
    EXPECT(aieng_engine_create("/missing", &config, &engine), INVALID, "config.struct_size: ");
    EXPECT(aieng_events_clear(&event), INVALID, "events.struct_size: ");
    EXPECT(aieng_next(NULL, &event, 1, 0, &count), INVALID, "events.struct_size: ");
  }
  /* From a newer header: fields that this library does not know, first zero, then set. */
  for (uint32_t size = sizeof(aieng_engine_config) + 1; size <= 4096; size += 1349) {
    unsigned char *config = (unsigned char *)calloc(1, size);
    if (!config) exit(1);
    memcpy(config, &size, sizeof size);
    EXPECT(aieng_engine_create("/missing", (aieng_engine_config *)(void *)config, &engine), AIENG_ERR_IO, "/missing");
    config[size - 1] = 1;
    EXPECT(aieng_engine_create("/missing", (aieng_engine_config *)(void *)config, &engine), INVALID, "is not zero");
    free(config);
  }
}

static void test_handles(void) {
  static const uint64_t numbers[] = {1, 0xAE, UINT64_C(0xAE00000000000000), UINT64_C(0xAE00000001000000),
                                     UINT64_C(0xE700000000000000), UINT64_MAX};
  aieng_request request;
  aieng_event event;
  uint64_t id = 42;
  size_t taken;
  int on_stack;
  aieng_engine *handles[sizeof numbers / sizeof *numbers + 1];
  size_t count = sizeof numbers / sizeof *numbers;
  memset(&request, 0, sizeof request);
  memset(&event, 0, sizeof event);
  request.struct_size = sizeof request;
  event.struct_size = sizeof event;
  for (size_t i = 0; i < count; i++) handles[i] = forged(numbers[i]);
  handles[count++] = (aieng_engine *)(void *)&on_stack;
  for (size_t i = 0; i < count; i++) {
    EXPECT(aieng_submit(handles[i], &request, &id), INVALID, "engine: not a handle");
    EXPECT(aieng_cancel(handles[i], 0), INVALID, "engine: not a handle");
    EXPECT(aieng_next(handles[i], &event, 1, 0, &taken), INVALID, "engine: not a handle");
    EXPECT(aieng_engine_destroy(handles[i]), INVALID, "engine: not a handle");
  }
  CHECK(id == 42);
  EXPECT(aieng_submit(NULL, &request, &id), INVALID, "engine: NULL");
  EXPECT(aieng_cancel(NULL, 0), INVALID, "engine: NULL");
  EXPECT(aieng_next(NULL, &event, 1, 0, &taken), INVALID, "engine: NULL");
  EXPECT(aieng_engine_destroy(NULL), AIENG_OK, "");
}

static void test_events(void) {
  aieng_event event;
  size_t count = 42;
  memset(&event, 0, sizeof event);
  event.struct_size = sizeof event;
  EXPECT(aieng_events_clear(NULL), AIENG_OK, "");
  EXPECT(aieng_events_clear(&event), AIENG_OK, "");
  EXPECT(aieng_next(NULL, NULL, 1, 0, &count), INVALID, "events: NULL");
  EXPECT(aieng_next(NULL, &event, 1, 0, NULL), INVALID, "count: NULL");
  EXPECT(aieng_next(NULL, &event, 0, 0, &count), INVALID, "capacity: 0");
  CHECK(count == 0);
  event.storage = UINT64_C(0xE700000000000000);
  event.text_length = 99;
  EXPECT(aieng_events_clear(&event), INVALID, "events.storage: 0xe700000000000000");
  CHECK(event.storage == 0 && event.text_length == 0 && event.struct_size == sizeof event);
  memset(&event, 0xA5, sizeof event);
  event.struct_size = sizeof event;
  EXPECT(aieng_next(NULL, &event, 1, 0, &count), INVALID, "events.storage: 0xa5a5a5a5a5a5a5a5");
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  test_constants();
  test_create();
  test_files(argv[1]);
  test_struct_sizes();
  test_handles();
  test_events();
  return report();
}
