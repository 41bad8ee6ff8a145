// Random tensors for the CPU kernel, to be run under the address and undefined-behaviour
// sanitizers: every buffer is exactly as long as its tensor needs, at any alignment; entries between
// those of a tensor must keep their bytes, and equal inputs must give equal outputs whatever the
// instruction set and the number of threads. Usage: fuzz_cpu CASES SEED; prints "CASES cases".
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernel.h"

extern "C" {
int nero_instruction_sets(const char** names, int capacity);
int64_t nero_step(const uint64_t* const*, int64_t, const nero::Group*, const char*, int, void*);
}

using namespace nero;

std::mt19937_64 random_bits;
int64_t below(int64_t n) { return (int64_t)(random_bits() % (uint64_t)n); }
int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
bool chance(int percent) { return below(100) < percent; }

struct Buffer {  // entries of `size` bytes, starting at any multiple of 2
  std::vector<char*> blocks;
  char* block;
  char* start;
  int64_t bytes;
  Buffer(int64_t entries, int64_t size) : bytes(entries * size) {
    int64_t offset = 2 * below(size / 2 > 0 ? 8 : 1);
    block = (char*)std::malloc(offset + bytes + 1);
    start = block + offset;
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(block); }
  std::vector<char> copy() const { return {start, start + bytes}; }
  void restore(const std::vector<char>& from) { std::memcpy(start, from.data(), bytes); }
};

// Any bits at all now and then; else numbers around one, of any magnitude.
void fill(Buffer& buffer, int64_t dtype) {
  if (chance(10)) {
    for (int64_t i = 0; i < buffer.bytes; ++i) buffer.start[i] = (char)below(256);
    return;
  }
  double scale = chance(20) ? std::pow(10.0, (double)between(-40, 38)) : 1;
  std::normal_distribution<double> normal;
  int64_t size = dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2;
  for (int64_t i = 0; i < buffer.bytes / size; ++i) {
    double x = chance(2) ? 0 : normal(random_bits) * scale;
    float f = (float)x;
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    uint16_t half = dtype == BFLOAT16 ? (uint16_t)(bits >> 16) : (uint16_t)between(0, 0x7c00);
    const void* from = dtype == FLOAT64 ? (void*)&x : dtype == FLOAT32 ? (void*)&f : (void*)&half;
    std::memcpy(buffer.start + i * size, from, size);
  }
}

// Loops over axes in a random order of memory, with gaps; returns how many entries they span.
int64_t lay_out(Loops& neurons, Loops& fan_in, int64_t (Loops::*strides)[MAX_DIMS], bool rows) {
  struct Axis { Loops* loops; int64_t index; };
  std::vector<Axis> axes;
  for (int64_t d = 0; d < fan_in.count; ++d) axes.push_back({&fan_in, d});
  size_t inner = axes.size();
  for (int64_t d = 0; d < neurons.count; ++d) axes.push_back({&neurons, d});
  std::shuffle(axes.begin() + (rows ? inner : 0), axes.end(), random_bits);
  int64_t span = 1;
  for (const Axis& axis : axes) {
    if (!(rows && axis.loops == &fan_in)) span += chance(20) ? below(5) : 0;
    (axis.loops->*strides)[axis.index] = span;
    span *= axis.loops->size[axis.index];
  }
  return span;
}

void fail(const char* what, int64_t number) {
  std::printf("case %lld: %s\n", (long long)number, what);
  std::exit(1);
}

void run_case(int64_t number, const char** sets, int set_count) {
  Shape shape{};
  Tensor t{&shape};
  shape.dtype = below(4);
  const int64_t size = shape.dtype == FLOAT64 ? 8 : shape.dtype == FLOAT32 ? 4 : 2;
  const int64_t state_size = shape.dtype == FLOAT64 ? 8 : 4;
  const int64_t state_dtype = shape.dtype == FLOAT64 ? FLOAT64 : FLOAT32;
  const bool rows = chance(60), averaged = chance(40);
  shape.neurons.count = below(MAX_DIMS + 1);
  shape.fan_in_loops.count = rows ? below(2) : below(MAX_DIMS + 1);
  shape.neuron_count = shape.fan_in = 1;
  for (int64_t d = 0; d < shape.neurons.count; ++d)
    shape.neuron_count *= shape.neurons.size[d] = between(1, 12);
  int64_t longest = chance(5) ? 3000 : shape.fan_in_loops.count > 1 ? 9 : 90;
  for (int64_t d = 0; d < shape.fan_in_loops.count; ++d)
    shape.fan_in *= shape.fan_in_loops.size[d] = between(1, longest);
  if (shape.fan_in > 40000) return;
  const int64_t w_span = lay_out(shape.neurons, shape.fan_in_loops, &Loops::w, rows);
  const int64_t g_span = lay_out(shape.neurons, shape.fan_in_loops, &Loops::g, rows || chance(50));
  const int64_t m_span = lay_out(shape.neurons, shape.fan_in_loops, &Loops::m, rows || chance(50));
  Buffer w(w_span, size), g(g_span, size), m(m_span, state_size);
  std::vector<char> rms(shape.neuron_count * state_size), radius(shape.neuron_count * state_size);
  char scale[8] = {};
  float step = (float)below(5);
  fill(w, shape.dtype);
  fill(g, shape.dtype);
  fill(m, state_dtype);
  for (int64_t i = 0; i < shape.neuron_count; ++i) {
    double x = chance(30) ? 0 : 1e-3 * (double)below(2000), r = chance(20) ? 0 : x;
    float xf = (float)x, rf = (float)r;
    std::memcpy(&rms[i * state_size], state_size == 8 ? (void*)&x : (void*)&xf, state_size);
    std::memcpy(&radius[i * state_size], state_size == 8 ? (void*)&r : (void*)&rf, state_size);
    std::memcpy(scale, state_size == 8 ? (void*)&x : (void*)&xf, state_size);
  }
  shape.flags = below(16);
  const int64_t seed = (int64_t)random_bits() & 0xffffffff;
  t.seed = &seed;
  shape.offset = chance(10) ? (int64_t)1 << 33 : 0;
  lay_out(shape.neurons, shape.fan_in_loops, &Loops::i, rows);
  t.m = averaged ? m.start : nullptr;
  t.w = w.start;
  t.g = g.start;
  t.rms = rms.data();
  t.step = &step;
  t.scale = scale;
  t.radius = radius.data();
  Group group{chance(10) ? 0 : chance(50) ? 0.01 : -3.0, chance(10) ? 0 : 0.999,
              averaged ? 0.9 : 0, chance(50) ? 1 : 2.5, below(2), chance(50) ? HUGE_VAL : 0.5};
  const auto w_before = w.copy(), m_before = m.copy(), rms_before = rms;
  const auto g_before = g.copy();
  const float step_before = step;
  std::vector<char> w_first, m_first, rms_first;
  for (int set = 0; set < set_count; ++set) {
    w.restore(w_before);
    m.restore(m_before);
    rms = rms_before;
    step = step_before;
    t.rms = rms.data();
    const uint64_t* columns[FIELDS];
    for (int64_t k = 0; k < FIELDS; ++k) columns[k] = (const uint64_t*)&t + k;
    if (nero_step(columns, 1, &group, sets[set], (int)between(1, 3), nullptr) < 0)
      fail("an error", number);
    if (g.copy() != g_before) fail("the gradient was modified", number);
    if (step != step_before + 1) fail("the step was not counted", number);
    if (set == 0) {
      w_first = w.copy();
      m_first = m.copy();
      rms_first = rms;
    } else if (w.copy() != w_first || m.copy() != m_first || rms != rms_first) {
      fail("instruction sets differ", number);
    }
  }
  std::vector<bool> ours(w_span);
  for (int64_t i = 0; i < shape.neuron_count; ++i)
    for (int64_t j = 0; j < shape.fan_in; ++j) {
      int64_t at = 0, left = i;
      for (int64_t d = shape.neurons.count - 1; d >= 0; left /= shape.neurons.size[d--])
        at += left % shape.neurons.size[d] * shape.neurons.w[d];
      left = j;
      for (int64_t d = shape.fan_in_loops.count - 1; d >= 0; left /= shape.fan_in_loops.size[d--])
        at += left % shape.fan_in_loops.size[d] * shape.fan_in_loops.w[d];
      if (at >= w_span) fail("the fuzzer's own layout is wrong", number);
      ours[at] = true;
    }
  for (int64_t i = 0; i < w_span; ++i)
    if (!ours[i] && std::memcmp(&w_first[i * size], &w_before[i * size], size))
      fail("an entry of another tensor was written", number);
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  int64_t cases = std::atoll(arguments[1]);
  const char* sets[8];
  int set_count = nero_instruction_sets(sets, 8);
  for (int64_t i = 0; i < cases; ++i) {
    random_bits.seed((uint64_t)std::atoll(arguments[2]) * 1000003u + (uint64_t)i);
    run_case(i, sets, set_count);
  }
  std::printf("%lld cases, %d instruction sets\n", (long long)cases, set_count);
}
