// The C interface of the CPU kernel: all tensors of a group in one call, threads, and the choice of
// the instruction set. Knows nothing of torch: addresses come in, and Python keeps them alive.
#include "kernel.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace nero {
namespace {

// Entries that a thread takes at a time: long stretches of memory, but enough of them that threads
// finish together.
constexpr int64_t LEAST_CHUNK = 1 << 15, MOST_CHUNK = 1 << 19, CHUNKS_PER_THREAD = 32;
constexpr int64_t SCRATCH = 192 << 10;       // bytes of gathered neurons per thread, or one neuron
constexpr int64_t MAX_GATHERED = 16;         // as in rows.cpp
constexpr int64_t MAX_LANES = 16;            // neurons in a block of lanes
constexpr int64_t WORTH_THREADS = 1 << 15;   // entries below which one thread is faster

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

bool always() { return true; }
bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2");
#else
  return false;
#endif
}
bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

struct InstructionSet { const char* name; bool (*supported)(); Update update; };
const InstructionSet SETS[] = {  // the best one last
    {"baseline", always, baseline::update},
#ifdef NERO_HAS_AVX2
    {"avx2", has_avx2, avx2::update},
#endif
#ifdef NERO_HAS_AVX512
    {"avx512", has_avx512, avx512::update},
#endif
};
constexpr int SET_COUNT = sizeof SETS / sizeof *SETS;

int64_t element_size(int64_t dtype) { return dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2; }

// Entries of a neuron that follow each other in all three tensors.
bool is_row(const Tensor& t) {
  const Loops& f = t.shape->fan_in_loops;
  return t.shape->fan_in == 1 ||
         (f.count == 1 && f.w[0] == 1 && f.g[0] == 1 && (f.m[0] == 1 || !t.m));
}

// Weights that are stepped in float32, in scratch, and rounded by noise.
bool is_rounded(const Tensor& t) { return (t.shape->flags & STOCHASTIC) && element_size(t.shape->dtype) == 2; }

int64_t scratch_neuron_bytes(const Tensor& t) {
  if (is_rounded(t)) return scratch_row(t.shape->fan_in) * 3 * sizeof(float);
  int64_t average = t.m ? (t.shape->dtype == FLOAT64 ? 8 : 4) : 0;
  return scratch_row(t.shape->fan_in) * (2 * element_size(t.shape->dtype) + average);
}

int64_t gathered_at_once(const Tensor& t) {
  int64_t fit = SCRATCH / scratch_neuron_bytes(t);
  return fit < 1 ? 1 : fit > MAX_GATHERED ? MAX_GATHERED : fit;
}

int64_t chunk_entries(int64_t entries, int threads) {
  const int64_t share = entries / (CHUNKS_PER_THREAD * (threads > 1 ? threads : 1));
  return share < LEAST_CHUNK ? LEAST_CHUNK : share > MOST_CHUNK ? MOST_CHUNK : share;
}

struct Job {
  std::vector<Work> works;
  std::vector<int64_t> per_chunk;  // neurons in a chunk of each tensor
  std::vector<int64_t> chunks;     // chunks in all tensors up to and with each
  int64_t scratch = 0;             // bytes that each thread needs
  Update update;
  std::atomic<int64_t> next{0}, skipped{0};
};

// Chunk after chunk until none is left. Which thread takes which makes no difference to the result.
void take_chunks(Job& job, void* scratch) {
  const int64_t total = job.chunks.back();
  int64_t skipped = 0;
  size_t index = 0;
  for (int64_t chunk; (chunk = job.next.fetch_add(1, std::memory_order_relaxed)) < total;) {
    while (job.chunks[index] <= chunk) ++index;
    int64_t before = index ? job.chunks[index - 1] : 0, size = job.per_chunk[index];
    Work work = job.works[index];
    work.scratch = scratch;
    int64_t begin = (chunk - before) * size, count = work.tensor->shape->neuron_count;
    skipped += job.update(work, begin, begin + size < count ? begin + size : count);
  }
  job.skipped += skipped;
}

// One thread's share, or nothing where it finds no memory.
void run(void* data) {
  Job& job = *static_cast<Job*>(data);
  void* scratch = job.scratch ? std::malloc(job.scratch) : nullptr;
  if (scratch || !job.scratch) take_chunks(job, scratch);
  std::free(scratch);
}

// What a group's step owes to a tensor's count of steps; most tensors have the same count.
struct Corrections {
  double count = 0, debias_m = 1, rate = 0;

  void at(double t, const Group& group) {
    if (t == count) return;
    const double debias = group.beta > 0 ? -std::expm1(t * std::log(group.beta)) : 1;
    count = t;
    debias_m = group.momentum > 0 ? -std::expm1(t * std::log(group.momentum)) : 1;
    rate = group.lr * std::sqrt(debias) / debias_m;
  }
};

Work start(const Tensor& tensor, const Group& group, Corrections& now) {
  now.at(*tensor.step + 1, group);
  Work work{};
  work.tensor = &tensor;
  work.group = &group;
  work.w = tensor.w;
  work.g = tensor.g;
  work.root_beta = std::sqrt(group.beta);
  work.root_rest = std::sqrt(1 - group.beta);
  work.debias_m = now.debias_m;
  work.rate = now.rate;
  work.limit = std::isinf(group.max_turn) ? HUGE_VAL : std::fabs(group.lr) * group.max_turn;
  work.scratch_neurons = is_rounded(tensor) ? 1 : is_row(tensor) ? 0 : gathered_at_once(tensor);
  return work;
}

// Starts up to `count` threads, and returns those that could be made: memory or a limit may be short.
template <class Function>
std::vector<std::thread> start_threads(int count, Function function) {
  std::vector<std::thread> made;
  try {
    made.reserve(count);
    while ((int)made.size() < count) made.emplace_back(function);
  } catch (const std::exception&) {
  }
  return made;
}

// Whether OpenMP can make its team: where it cannot, it ends the process. So as many threads are made
// and left before the first team of that size; a team stays with the thread that called for it.
bool can_make_team(int threads) {
  thread_local int most = 1;
  if (threads <= most) return true;
  std::mutex gate;  // until it opens all of them are there
  gate.lock();
  auto made = start_threads(threads - 1, [&gate] { std::lock_guard<std::mutex> passed(gate); });
  gate.unlock();
  const bool all = (int)made.size() == threads - 1;
  for (auto& thread : made) thread.join();
  if (all) most = threads;
  return all;
}

void spread(Job& job, int threads, GompParallel gomp_parallel) {
  if (threads <= 1) return;  // the calling thread does all, later
  if (gomp_parallel) {
    if (can_make_team(threads)) gomp_parallel(run, &job, threads, 0);
    return;
  }
  auto others = start_threads(threads - 1, [&job] { run(&job); });
  run(&job);
  for (auto& thread : others) thread.join();
}

}  // namespace
}  // namespace nero

#define NERO_EXPORT __attribute__((visibility("default")))

extern "C" {

// The names of the instruction sets in this binary that this processor has, the best one last.
NERO_EXPORT int nero_instruction_sets(const char** names, int capacity) {
  int count = 0;
  for (const auto& set : nero::SETS)
    if (set.supported() && count < capacity) names[count++] = set.name;
  return count;
}

// One step of `count` tensors, whose step counts it increments; `columns` has, for each field of a
// Tensor, that of each of them. `gomp_parallel` is that function of the
// OpenMP runtime that torch runs on, or null. Returns the number of neurons skipped; with nothing
// updated, -1 for an unknown instruction set and -2 where there is no memory.
NERO_EXPORT int64_t nero_step(const uint64_t* const* columns, int64_t count,
                              const nero::Group* group, const char* instruction_set, int threads,
                              nero::GompParallel gomp_parallel) try {
  nero::Job job;
  job.update = nullptr;
  for (const auto& set : nero::SETS)
    if (set.supported() && !std::strcmp(set.name, instruction_set)) job.update = set.update;
  if (!job.update) return -1;
  if (count == 0) return 0;
  std::vector<nero::Tensor> tensors(count);
  int64_t total = 0, entries = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint64_t fields[nero::FIELDS];
    for (int64_t k = 0; k < nero::FIELDS; ++k) fields[k] = columns[k][i];
    std::memcpy((void*)&tensors[i], fields, sizeof fields);
    entries += tensors[i].shape->neuron_count * tensors[i].shape->fan_in;
  }
  const int64_t chunk = nero::chunk_entries(entries, threads);
  job.works.reserve(count);
  job.per_chunk.reserve(count);
  job.chunks.reserve(count);
  nero::Corrections corrections;
  for (int64_t i = 0; i < count; ++i) {
    const nero::Tensor& t = tensors[i];
    job.works.push_back(nero::start(t, *group, corrections));
    int64_t size = chunk / (t.shape->fan_in > 0 ? t.shape->fan_in : 1);
    int64_t together = job.works.back().scratch_neurons;
    // Whole blocks of lanes, so that the same neurons share one however the threads are.
    if (together && (size = size / nero::MAX_LANES * nero::MAX_LANES) < nero::MAX_LANES) size = nero::MAX_LANES;
    if (size < 1) size = 1;
    job.per_chunk.push_back(size);
    job.chunks.push_back(total += (t.shape->neuron_count + size - 1) / size);
    if (together) {
      int64_t bytes = together * nero::scratch_neuron_bytes(t);
      if (bytes > job.scratch) job.scratch = bytes;
    }
  }
  // This thread's own memory is there before anything changes, for what other threads may leave.
  const std::unique_ptr<void, decltype(&std::free)> scratch(std::malloc(job.scratch + 1), std::free);
  if (!scratch) return -2;
  for (int64_t i = 0; i < count; ++i) *tensors[i].step += 1;
  const int64_t useful = entries < nero::WORTH_THREADS ? 1 : total;
  nero::spread(job, useful < threads ? (int)useful : threads, gomp_parallel);
  nero::take_chunks(job, scratch.get());
  return job.skipped.load();
} catch (const std::bad_alloc&) {
  return -2;
}
}
