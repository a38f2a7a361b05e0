// The part of the stand-in NPU that torch wants in C++: streams that really run later, events, pinned memory.
//
// A stream is a queue with a thread of its own.  Work is a number that the Python side turns into a call.
// An event is a mark in a queue.  Everything hangs on one mutex and one condition variable: this device is for
// tests, and has to be right rather than fast.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {
using namespace c10;
using Clock = std::chrono::steady_clock;
using Lock = std::unique_lock<std::mutex>;
constexpr auto NPU = DeviceType::PrivateUse1;

// Never destroyed, since the streams' threads wait on them to the end of the process.
auto& mutex = *new std::mutex;
auto& changed = *new std::condition_variable;

// --- streams -------------------------------------------------------------------------------------------------
struct Queue {
  std::deque<std::function<void()>> work;
  bool busy = false;
  bool idle() const { return work.empty() && !busy; }
};
auto& queues = *new std::map<std::pair<DeviceIndex, StreamId>, Queue*>;
DeviceIndex device_count = 1;
thread_local DeviceIndex current_device = 0;
thread_local std::map<DeviceIndex, StreamId> current_stream;
std::atomic<StreamId> last_stream{0};

void serve(Queue* queue) {
  Lock lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return !queue->work.empty(); });
    auto next = std::move(queue->work.front());
    queue->work.pop_front();
    queue->busy = true;
    lock.unlock();
    next();
    next = nullptr;
    lock.lock();
    queue->busy = false;
    changed.notify_all();
  }
}

Queue* queue_of(const Stream& stream) {  // the mutex is held
  auto& queue = queues[{stream.device_index(), stream.id()}];
  if (!queue) {
    queue = new Queue;
    std::thread(serve, queue).detach();
  }
  return queue;
}

void put(const Stream& stream, std::function<void()> work) {
  Lock lock(mutex);
  queue_of(stream)->work.push_back(std::move(work));
  changed.notify_all();
}

// --- what the tests ask: how late, and how often the host waited ------------------------------------------------
enum Kind { COMPUTE, COPY, KINDS };
std::atomic<int64_t> late_us[KINDS];
enum Wait { EVENT, STREAM, DEVICE, WAITS };
std::atomic<int64_t> waits[WAITS];
void (*run_in_python)(int64_t) = nullptr;
std::atomic<bool> tell_time{true};

// --- pinned memory: freed behind the copies that may still read it, as every accelerator's allocator does ----------
int64_t copies = 0;
auto& pinned = *new std::map<uintptr_t, size_t>;
auto& to_free = *new std::vector<void*>;

void sweep() {  // the mutex is held
  if (copies == 0) {
    for (auto memory : to_free) std::free(memory);
    to_free.clear();
  }
}

struct HostAllocator final : at::HostAllocator {
  static void free_later(void* memory) {
    Lock lock(mutex);
    pinned.erase(reinterpret_cast<uintptr_t>(memory));
    to_free.push_back(memory);
    sweep();
  }
  DataPtr allocate(size_t size) override {
    void* memory = nullptr;
    if (size) {
      TORCH_CHECK(!posix_memalign(&memory, 64, size), "the stand-in NPU is out of host memory");
      Lock lock(mutex);
      pinned[reinterpret_cast<uintptr_t>(memory)] = size;
    }
    return {memory, memory, &free_later, Device(DeviceType::CPU)};
  }
  DeleterFnPtr raw_deleter() const override { return &free_later; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
  bool record_event(void*, void*, Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
} host_allocator;

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count > 0; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return device_count; }
  DeviceIndex getCurrentDevice() const override { return current_device; }
  void setCurrentDevice(DeviceIndex index) const override { current_device = index; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { return std::exchange(current_device, index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return index < 0 ? current_device : exchangeDevice(index);
  }
  at::Allocator* getPinnedMemoryAllocator() const override { return &host_allocator; }
  bool isPinnedPtr(const void* pointer) const override {
    Lock lock(mutex);
    auto address = reinterpret_cast<uintptr_t>(pointer);
    auto after = pinned.upper_bound(address);
    return after != pinned.begin() && (--after, address < after->first + after->second);
  }
} hooks;

// --- devices, streams and events as torch asks for them ---------------------------------------------------------
struct Mark {
  bool reached = false;
  Clock::time_point at;
};
using Event = std::shared_ptr<Mark>;

struct Guard final : impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = NPU;
  DeviceType type() const override { return NPU; }
  Device exchangeDevice(Device device) const override {
    return Device(NPU, std::exchange(current_device, device.index()));
  }
  Device getDevice() const override { return Device(NPU, current_device); }
  void setDevice(Device device) const override { current_device = device.index(); }
  void uncheckedSetDevice(Device device) const noexcept override { current_device = device.index(); }
  DeviceIndex deviceCount() const noexcept override { return device_count; }

  static Device whole(Device device) { return Device(NPU, device.has_index() ? device.index() : current_device); }
  static Stream make(Device device, StreamId id) { return Stream(Stream::UNSAFE, whole(device), id); }
  Stream getStream(Device device) const override { return make(device, current_stream[whole(device).index()]); }
  Stream getDefaultStream(Device device) const override { return make(device, 0); }
  Stream getNewStream(Device device, int) const override { return make(device, ++last_stream); }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return make(device, ++last_stream); }
  Stream exchangeStream(Stream stream) const override {
    return make(stream.device(), std::exchange(current_stream[stream.device_index()], stream.id()));
  }
  bool queryStream(const Stream& stream) const override {
    Lock lock(mutex);
    return queue_of(stream)->idle();
  }
  void synchronizeStream(const Stream& stream) const override {
    ++waits[STREAM];
    Lock lock(mutex);
    auto queue = queue_of(stream);
    changed.wait(lock, [&] { return queue->idle(); });
  }
  void synchronizeDevice(const DeviceIndex index) const override {
    ++waits[DEVICE];
    Lock lock(mutex);
    changed.wait(lock, [&] {
      return std::all_of(queues.begin(), queues.end(), [&](auto& entry) {
        return entry.first.first != index || entry.second->idle();
      });
    });
  }

  void record(void** event, const Stream& stream, const DeviceIndex, const EventFlag) const override {
    auto mark = std::make_shared<Mark>();
    if (!*event) *event = new Event;
    *static_cast<Event*>(*event) = mark;
    put(stream, [mark] {
      Lock lock(mutex);
      mark->reached = true;
      mark->at = Clock::now();
    });
  }
  void block(void* event, const Stream& stream) const override {
    if (!event) return;
    auto mark = *static_cast<Event*>(event);
    put(stream, [mark] {
      Lock lock(mutex);
      changed.wait(lock, [&] { return mark->reached; });
    });
  }
  bool queryEvent(void* event) const override {
    Lock lock(mutex);
    return !event || (*static_cast<Event*>(event))->reached;
  }
  void synchronizeEvent(void* event) const override {
    ++waits[EVENT];
    if (!event) return;
    auto mark = *static_cast<Event*>(event);
    Lock lock(mutex);
    changed.wait(lock, [&] { return mark->reached; });
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  double elapsedTime(void* from, void* to, const DeviceIndex) const override {
    TORCH_CHECK(tell_time, "Backend doesn't support elapsedTime.");  // torch's own words where a backend has none
    auto between = (*static_cast<Event*>(to))->at - (*static_cast<Event*>(from))->at;
    return std::chrono::duration<double, std::milli>(between).count();
  }
} guard;
}  // namespace

extern "C" {
void standin_start(void (*run)(int64_t), int count) {
  run_in_python = run;
  device_count = static_cast<DeviceIndex>(count);
  at::setHostAllocator(NPU, &host_allocator);
  at::RegisterPrivateUse1HooksInterface(&hooks);
  impl::registerDeviceGuard(NPU, &guard);
}
// Queue work on the current stream of the current device.
void standin_launch(int kind, int64_t number) {
  if (kind == COPY) {
    Lock lock(mutex);
    ++copies;
  }
  put(guard.getStream(guard.getDevice()), [kind, number] {
    if (auto late = late_us[kind].load()) std::this_thread::sleep_for(std::chrono::microseconds(late));
    run_in_python(number);
    if (kind == COPY) {
      Lock lock(mutex);
      --copies;
      sweep();
    }
  });
}
// Wait for the current stream, uncounted: the Python side says what for.
void standin_wait() {
  auto stream = guard.getStream(guard.getDevice());
  Lock lock(mutex);
  auto queue = queue_of(stream);
  changed.wait(lock, [&] { return queue->idle(); });
}
void standin_drain() {
  Lock lock(mutex);
  changed.wait(lock, [] {
    return std::all_of(queues.begin(), queues.end(), [](auto& entry) { return entry.second->idle(); });
  });
}
// Whether a page-locked block begins here: the pointer of a view into one is not known to every runtime.
int standin_is_block(uint64_t address) {
  Lock lock(mutex);
  return pinned.count(static_cast<uintptr_t>(address)) != 0;
}
void standin_tell_time(int tells) { tell_time = tells != 0; }
void standin_be_late(int kind, int64_t microseconds) { late_us[kind] = microseconds; }
int64_t standin_waits(int wait) { return waits[wait]; }
}
