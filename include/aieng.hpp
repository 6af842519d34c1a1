/*
 * aieng.hpp: aieng.h for C++17. Header-only; what it adds is ownership, exceptions and std types, nothing else.
 *
 *     aieng::Engine engine("model.gguf");
 *     aieng::Request request("Once upon a time");
 *     std::uint64_t id = engine.submit(request);
 *     aieng::Events events;
 *     for (bool done = false; !done && engine.next(events);)
 *         for (const aieng_event &event : events) {
 *             std::cout << aieng::text(event);
 *             done = event.flags & AIENG_EVENT_LAST;
 *         }
 *
 * Structs of aieng.h are used as they are: config() and Request make them with struct_size set. Everything that aieng.h
 * says of threads, blocking and errors holds; errors are thrown as aieng::Error.
 */
#ifndef AIENG_HPP
#define AIENG_HPP

#include "aieng.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace aieng {

/** A call that failed: what() is aieng_last_error(). */
class Error : public std::runtime_error {
 public:
  explicit Error(aieng_status status) : std::runtime_error(aieng_last_error()), status_(status) {}
  aieng_status status() const noexcept { return status_; }
  /** As in "AIENG_ERR_BUSY". */
  const char *name() const noexcept { return aieng_status_name(status_); }

 private:
  aieng_status status_;
};

/** Throws unless a call went well. */
inline void check(aieng_status status) {
  if (status != AIENG_OK) throw Error(status);
}

/** A struct of aieng.h, zeroed and with its size. */
template <class T>
T make() noexcept {
  T value{};
  value.struct_size = static_cast<std::uint32_t>(sizeof value);
  return value;
}

inline aieng_engine_config config() noexcept { return make<aieng_engine_config>(); }

/** Text of an event, there as long as the Events are. */
inline std::string_view text(const aieng_event &event) noexcept { return {event.text, event.text_length}; }

/** What to generate from, and how. A copy owns its texts and lists, so it can be made anywhere and kept. */
class Request {
 public:
  Request() = default;
  explicit Request(std::string text) : text_(std::move(text)) {}
  static Request tokens(std::vector<std::uint32_t> ids) {
    Request request;
    request.ids_ = std::move(ids);
    return request;
  }
  /** A conversation as aieng_request.chat_json has it. */
  static Request chat(std::string json) {
    Request request;
    request.json_ = std::move(json);
    return request;
  }
  Request &stop(std::string text) {
    stops_.push_back(std::move(text));
    return *this;
  }
  Request &stop_token(std::uint32_t id) {
    stop_ids_.push_back(id);
    return *this;
  }
  Request &logit_bias(std::uint32_t id, float value) {
    bias_ids_.push_back(id);
    bias_values_.push_back(value);
    return *this;
  }

  /** All fields but the pointers, which are set from the texts and lists above when the request is submitted. */
  aieng_request fields = make<aieng_request>();
  aieng_sampling sampling = make<aieng_sampling>();

 private:
  friend class Engine;

  /** Calls f with the C structs, which point into this. */
  template <class F>
  auto with_struct(F f) const {
    aieng_sampling s = sampling;
    std::vector<const char *> stops;
    std::vector<std::size_t> lengths;
    for (const std::string &stop : stops_) {
      stops.push_back(stop.data());
      lengths.push_back(stop.size());
    }
    s.stop = stops.data();
    s.stop_lengths = lengths.data();
    s.stop_count = stops.size();
    s.stop_token_ids = stop_ids_.data();
    s.stop_token_count = stop_ids_.size();
    s.logit_bias_ids = bias_ids_.data();
    s.logit_bias_values = bias_values_.data();
    s.logit_bias_count = bias_ids_.size();
    aieng_request r = fields;
    if (ids_) {
      r.token_ids = ids_->data();
      r.token_count = ids_->size();
    }
    if (text_) {
      r.text = text_->data();
      r.text_length = text_->size();
    }
    if (json_) {
      r.chat_json = json_->data();
      r.chat_json_length = json_->size();
    }
    r.sampling = &s;
    return f(r);
  }

  std::optional<std::string> text_, json_;
  std::optional<std::vector<std::uint32_t>> ids_;
  std::vector<std::string> stops_;
  std::vector<std::uint32_t> stop_ids_, bias_ids_;
  std::vector<float> bias_values_;
};

/** Events of one call of Engine::next(), which are there until the next one with the same Events. */
class Events {
 public:
  explicit Events(std::size_t capacity = 64) : events_(capacity == 0 ? 1 : capacity) { reset(); }
  ~Events() { aieng_events_clear(events_.data()); }
  Events(Events &&other) noexcept
      : events_(std::exchange(other.events_, std::vector<aieng_event>(1))), count_(std::exchange(other.count_, 0)) {
    other.reset();
  }
  Events &operator=(Events &&other) noexcept {
    std::swap(events_, other.events_);
    std::swap(count_, other.count_);
    return *this;
  }
  Events(const Events &) = delete;
  Events &operator=(const Events &) = delete;

  const aieng_event *begin() const noexcept { return events_.data(); }
  const aieng_event *end() const noexcept { return events_.data() + count_; }
  std::size_t size() const noexcept { return count_; }
  bool empty() const noexcept { return count_ == 0; }

 private:
  friend class Engine;

  void reset() noexcept { events_[0] = make<aieng_event>(); }

  std::vector<aieng_event> events_;
  std::size_t count_ = 0;
};

/** A loaded model. Moves, but does not copy; all methods may be called from any thread. */
class Engine {
 public:
  explicit Engine(const std::string &path, const aieng_engine_config &config = aieng::config()) {
    check(aieng_engine_create(path.c_str(), &config, &engine_));
  }
  /** For AIENG_DEVICE_SIMULATED. */
  explicit Engine(const aieng_engine_config &config) { check(aieng_engine_create(nullptr, &config, &engine_)); }
  ~Engine() { aieng_engine_destroy(engine_); }
  Engine(Engine &&other) noexcept : engine_(std::exchange(other.engine_, nullptr)) {}
  Engine &operator=(Engine &&other) noexcept {
    std::swap(engine_, other.engine_);
    return *this;
  }
  Engine(const Engine &) = delete;
  Engine &operator=(const Engine &) = delete;

  /** Queues a request; its id. AIENG_ERR_BUSY is thrown as any error is. */
  std::uint64_t submit(const Request &request) {
    return request.with_struct([this](const aieng_request &r) {
      std::uint64_t id = 0;
      check(aieng_submit(engine_, &r, &id));
      return id;
    });
  }
  void cancel(std::uint64_t id) { check(aieng_cancel(engine_, id)); }
  void shutdown() { check(aieng_engine_shutdown(engine_)); }

  /** Takes events, and waits for the first; false once a closed engine has no more. */
  bool next(Events &events) { return take(events, -1); }
  /** The same, but waits only so long: events is then empty. */
  bool next(Events &events, std::chrono::milliseconds timeout) {
    return take(events, timeout.count() < 0 ? 0 : static_cast<std::int64_t>(timeout.count()));
  }
  /** A descriptor to poll, which stays the engine's. */
  int event_fd() const {
    int fd = -1;
    check(aieng_event_fd(engine_, &fd));
    return fd;
  }

  std::vector<std::uint32_t> tokenize(std::string_view text, std::uint32_t flags = 0) const {
    // A token is at least a byte, but for the one that may be put in front.
    std::vector<std::uint32_t> ids(text.size() + 1);
    std::size_t count = 0;
    do {
      ids.resize(count > ids.size() ? count : ids.size());
      check(aieng_tokenize(engine_, text.data(), text.size(), flags, ids.data(), ids.size(), &count));
    } while (count > ids.size());
    ids.resize(count);
    return ids;
  }
  std::string detokenize(const std::vector<std::uint32_t> &ids, std::uint32_t flags = 0) const {
    return filled([&](char *text, std::size_t capacity, std::size_t *length) {
      return aieng_detokenize(engine_, ids.data(), ids.size(), flags, text, capacity, length);
    });
  }
  /** The prompt that a conversation becomes. */
  std::string render(const Request &request) const {
    return request.with_struct([this](const aieng_request &r) {
      return filled([&](char *text, std::size_t capacity, std::size_t *length) {
        return aieng_render(engine_, &r, text, capacity, length);
      });
    });
  }
  aieng_engine_info info() const {
    auto info = make<aieng_engine_info>();
    check(aieng_engine_describe(engine_, &info));
    return info;
  }
  aieng_metrics metrics() const {
    auto metrics = make<aieng_metrics>();
    check(aieng_metrics_read(engine_, &metrics));
    return metrics;
  }
  std::string metrics_text() const {
    return filled([this](char *text, std::size_t capacity, std::size_t *length) {
      return aieng_metrics_text(engine_, text, capacity, length);
    });
  }
  /** For calls of aieng.h. */
  aieng_engine *get() const noexcept { return engine_; }

 private:
  bool take(Events &events, std::int64_t timeout_ms) {
    const aieng_status status =
        aieng_next(engine_, events.events_.data(), events.events_.size(), timeout_ms, &events.count_);
    if (status == AIENG_ERR_CLOSED) return false;
    if (status != AIENG_TIMEOUT) check(status);
    return true;
  }

  /** A text of unknown length. */
  template <class F>
  static std::string filled(F f) {
    std::string text(256, '\0');
    for (;;) {
      std::size_t length = 0;
      check(f(text.data(), text.size() + 1, &length));
      const bool whole = length <= text.size();
      text.resize(length);
      if (whole) return text;
    }
  }

  aieng_engine *engine_ = nullptr;
};

}  // namespace aieng

#endif
