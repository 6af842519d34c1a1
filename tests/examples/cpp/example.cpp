// Sixteen requests at once from one queue, half of them cancelled: example MODEL, or example simulated.
#include <aieng.hpp>

#include <array>
#include <iostream>

namespace {

constexpr unsigned requests = 16, length = 32;

aieng::Engine load(const std::string &model) {
  auto config = aieng::config();
  config.kv_tokens = 16384;
  if (model != "simulated") return aieng::Engine(model, config);
  config.device = AIENG_DEVICE_SIMULATED;
  config.simulated_step_us = 1000;
  return aieng::Engine(config);
}

aieng::Request request(unsigned number) {
  aieng::Request request(std::to_string(number + 2) + " reasons to link an engine:");
  request.stop("a stop string that never comes");
  request.sampling.max_tokens = number % 2 ? 4000 : length;
  request.sampling.flags = AIENG_SAMPLING_IGNORE_EOS;
  request.fields.user_data = number;
  return request;
}

int run(const std::string &model) {
  aieng::Engine engine = load(model);
  std::array<std::uint64_t, requests> ids{}, tokens{};
  for (unsigned i = 0; i < requests; i++) ids[i] = engine.submit(request(i));
  unsigned running = requests, cancelled = 0;
  aieng::Events events;
  while (running > 0 && engine.next(events)) {
    for (const aieng_event &event : events) {
      const auto number = event.user_data;
      if (event.flags & AIENG_EVENT_TOKEN && ++tokens[number] == 4 && number % 2) engine.cancel(ids[number]);
      if (!event.finish) continue;
      const auto wanted = number % 2 ? AIENG_FINISH_CANCELLED : AIENG_FINISH_LENGTH;
      if (event.finish->reason != wanted || event.finish->completion_tokens != tokens[number]) return 1;
      cancelled += number % 2;
      running--;
    }
  }
  if (engine.detokenize(engine.tokenize("to and fro")) != "to and fro") return 1;
  if (engine.metrics_text().find("\naieng_steps_total ") == std::string::npos) return 1;
  std::uint64_t sum = 0;
  for (auto n : tokens) sum += n;
  if (engine.metrics().generation_tokens < sum || engine.info().context == 0) return 1;
  std::cout << requests << " requests, " << cancelled << " cancelled, " << sum << " tokens\n";
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  try {
    aieng::Engine missing("/missing.gguf");
    return 1;
  } catch (const aieng::Error &error) {
    if (error.status() != AIENG_ERR_IO) return 1;
  }
  try {
    return run(argv[1]);
  } catch (const aieng::Error &error) {
    std::cerr << error.name() << ": " << error.what() << "\n";
    return 1;
  }
}
