/*
 * A model on a GPU, through the same calls as on the CPU: cuda MODEL. The device is asked for by its number, and says its name.
 */
#include "check.h"

int main(int argc, char **argv) {
  aieng_engine_config config = {0};
  aieng_engine_info info = {0};
  aieng_sampling sampling = {0};
  aieng_request request = {0};
  aieng_event events[8] = {{0}};
  aieng_engine *engine;
  unsigned tokens = 0, finished = 0;
  size_t count, i;
  uint64_t id;
  if (argc != 2) return 2;
  config.struct_size = sizeof config;
  config.device = AIENG_DEVICE_CUDA;
  config.context = 64;
  config.max_sequences = 4;
  config.isa = AIENG_ISA_AVX2;
  EXPECT(aieng_engine_create(argv[1], &config, &engine), AIENG_ERR_INVALID_ARGUMENT, "config.isa");
  config.isa = AIENG_ISA_AUTO;
  EXPECT(aieng_engine_create(argv[1], &config, &engine), AIENG_OK, "");
  info.struct_size = sizeof info;
  EXPECT(aieng_engine_describe(engine, &info), AIENG_OK, "");
  CHECK(info.device == AIENG_DEVICE_CUDA && info.isa == AIENG_ISA_AUTO && info.kv_type == AIENG_KV_BF16);
  sampling.struct_size = sizeof sampling;
  sampling.max_tokens = 5;
  sampling.flags = AIENG_SAMPLING_IGNORE_EOS;
  request.struct_size = sizeof request;
  request.text = "one two three";
  request.text_length = AIENG_STRLEN;
  request.sampling = &sampling;
  for (i = 0; i < 3; i++) EXPECT(aieng_submit(engine, &request, &id), AIENG_OK, "");
  events[0].struct_size = sizeof events[0];
  while (finished < 3 && aieng_next(engine, events, 8, 60000, &count) == AIENG_OK) {
    for (i = 0; i < count; i++) {
      tokens += (events[i].flags & AIENG_EVENT_TOKEN) != 0;
      if (events[i].finish) finished += events[i].finish->reason == AIENG_FINISH_LENGTH;
    }
  }
  CHECK(finished == 3 && tokens == 15);
  printf("%u tokens on %s\n", tokens, info.gpu);
  EXPECT(aieng_events_clear(events), AIENG_OK, "");
  EXPECT(aieng_engine_destroy(engine), AIENG_OK, "");
  return report();
}
