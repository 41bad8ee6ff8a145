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
int64_t nero_step(const nero::Tensor*, const uint64_t*, int64_t, const nero::Group*, const char*, int,
                  void*);
int64_t nero_look(const void*, void*, int64_t, void*, void*, void*, uint64_t*, void*, int64_t*, int64_t);
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
  Tensor t{};
  t.dtype = below(4);
  const int64_t size = t.dtype == FLOAT64 ? 8 : t.dtype == FLOAT32 ? 4 : 2;
  const int64_t state_size = t.dtype == FLOAT64 ? 8 : 4;
  const int64_t state_dtype = t.dtype == FLOAT64 ? FLOAT64 : FLOAT32;
  const bool rows = chance(60), averaged = chance(40);
  t.neurons.count = below(MAX_DIMS + 1);
  t.fan_in_loops.count = rows ? below(2) : below(MAX_DIMS + 1);
  t.neuron_count = t.fan_in = 1;
  for (int64_t d = 0; d < t.neurons.count; ++d)
    t.neuron_count *= t.neurons.size[d] = between(1, 12);
  int64_t longest = chance(5) ? 3000 : t.fan_in_loops.count > 1 ? 9 : 90;
  for (int64_t d = 0; d < t.fan_in_loops.count; ++d)
    t.fan_in *= t.fan_in_loops.size[d] = between(1, longest);
  if (t.fan_in > 40000) return;
  const int64_t w_span = lay_out(t.neurons, t.fan_in_loops, &Loops::w, rows);
  const int64_t g_span = lay_out(t.neurons, t.fan_in_loops, &Loops::g, rows || chance(50));
  const int64_t m_span = lay_out(t.neurons, t.fan_in_loops, &Loops::m, rows || chance(50));
  Buffer w(w_span, size), g(g_span, size), m(m_span, state_size);
  std::vector<char> rms(t.neuron_count * state_size), radius(t.neuron_count * state_size);
  char scale[8] = {};
  float step = (float)below(5);
  fill(w, t.dtype);
  fill(g, t.dtype);
  fill(m, state_dtype);
  for (int64_t i = 0; i < t.neuron_count; ++i) {
    double x = chance(30) ? 0 : 1e-3 * (double)below(2000), r = chance(20) ? 0 : x;
    float xf = (float)x, rf = (float)r;
    std::memcpy(&rms[i * state_size], state_size == 8 ? (void*)&x : (void*)&xf, state_size);
    std::memcpy(&radius[i * state_size], state_size == 8 ? (void*)&r : (void*)&rf, state_size);
    std::memcpy(scale, state_size == 8 ? (void*)&x : (void*)&xf, state_size);
  }
  t.flags = below(16);
  const int64_t seed = (int64_t)random_bits() & 0xffffffff;
  t.seed = &seed;
  t.offset = chance(10) ? (int64_t)1 << 33 : 0;
  lay_out(t.neurons, t.fan_in_loops, &Loops::i, rows);
  t.m = averaged ? m.start : nullptr;
  t.rms = rms.data();
  t.step = &step;
  t.scale = scale;
  t.radius = radius.data();
  Group group{chance(10) ? 0 : chance(50) ? 0.01 : -3.0, chance(10) ? 0 : 0.999,
              averaged ? 0.9 : 0, chance(50) ? 1 : 2.5, below(2)};
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
    uint64_t addresses[] = {(uint64_t)w.start, (uint64_t)g.start};
    if (nero_step(&t, addresses, 1, &group, sets[set], (int)between(1, 3), nullptr) < 0)
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
  for (int64_t i = 0; i < t.neuron_count; ++i)
    for (int64_t j = 0; j < t.fan_in; ++j) {
      int64_t at = 0, left = i;
      for (int64_t d = t.neurons.count - 1; d >= 0; left /= t.neurons.size[d--])
        at += left % t.neurons.size[d] * t.neurons.w[d];
      left = j;
      for (int64_t d = t.fan_in_loops.count - 1; d >= 0; left /= t.fan_in_loops.size[d--])
        at += left % t.fan_in_loops.size[d] * t.fan_in_loops.w[d];
      if (at >= w_span) fail("the fuzzer's own layout is wrong", number);
      ours[at] = true;
    }
  for (int64_t i = 0; i < w_span; ++i)
    if (!ours[i] && std::memcmp(&w_first[i * size], &w_before[i * size], size))
      fail("an entry of another tensor was written", number);
}

// ---- a look at tensors, in room for notes that is exact or too short ----------------------------

struct Header {  // DLTensor of dlpack.h
  uint64_t data;
  int32_t device_type, device_index, axes;
  uint8_t kind, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t offset;
};

// What stands for Python's objects. References that are handed out are counted.
int64_t references = 0;
char none, grad, tensor_class, parameter_class, buffer_class, other_class;

struct Named {  // a tensor
  Header header{};
  std::vector<int64_t> shape, strides;
  void *type = &tensor_class, *gradient = &none;
};
using List = std::vector<void*>;
using Dict = std::vector<std::pair<void*, void*>>;  // a null key is an entry that was deleted

void* item_of(void* list, int64_t index) { return (*(List*)list)[index]; }
int append_to(void* list, void* object) { return ((List*)list)->push_back(object), 0; }
void* attribute_of(void* object, void* name) {
  if (name != &grad) return nullptr;
  return ++references, ((Named*)object)->gradient;
}
void* type_of(void* object) { return ++references, ((Named*)object)->type; }
void release(void*) { --references; }

int next_of(void* dict, int64_t* place, void** key, void** value) {
  const Dict& entries = *(Dict*)dict;
  while (*place < (int64_t)entries.size() && !entries[*place].first) ++*place;
  if (*place >= (int64_t)entries.size()) return 0;
  *key = entries[*place].first;
  *value = entries[*place].second;
  return ++*place, 1;
}

int read_header(void* object, void* out) {
  Named& named = *(Named*)object;
  named.header.shape = named.shape.data();
  named.header.strides = named.strides.data();
  std::memcpy(out, &named.header, sizeof named.header);
  return named.header.axes < 0 ? -1 : 0;
}

struct Python {
  void *item = (void*)item_of, *append = (void*)append_to, *attribute = (void*)attribute_of,
       *type = (void*)type_of, *next = (void*)next_of, *released = (void*)release,
       *read = (void*)read_header, *name = &grad, *nothing = &none, *tensor = &tensor_class,
       *parameter = &parameter_class, *buffer = &buffer_class;
} python;

void make(Named& named) {
  const int32_t axes = (int32_t)below(5);
  named.header = {random_bits(), 1, 0, axes, 2, (uint8_t)(16 << below(3)), 1, nullptr, nullptr,
                  (uint64_t)below(64)};
  for (int32_t axis = 0; axis < axes; ++axis) {
    named.shape.push_back(below(9));
    named.strides.push_back(below(99));
  }
}

void change(Named& named) {
  const int64_t axis = named.shape.empty() ? -1 : below((int64_t)named.shape.size());
  if (axis < 0 || chance(20)) named.header.bits ^= 1;
  else (chance(50) ? named.shape : named.strides)[axis] += 1;
}

void run_look(int64_t number) {
  const int64_t count = between(1, 20);
  std::vector<Named> params(count), gradients(count), tensors(5 * count);
  std::vector<Dict> inner(count);
  List list, given, expected;
  Dict states;
  std::vector<uint64_t> where;
  int64_t size = 1;
  for (int64_t i = 0; i < count; ++i) {
    make(params[i]);
    make(gradients[i]);
    params[i].type = chance(80) ? &parameter_class : &tensor_class;
    for (int64_t j = below(5); j > 0; --j) {
      if (chance(20)) inner[i].push_back({nullptr, nullptr});
      Named& tensor = tensors[5 * i + j];
      make(tensor);
      if (chance(10)) tensor.type = &other_class;  // any object may be in a state
      inner[i].push_back({&tensor, &tensor});
    }
    if (chance(20)) states.push_back({nullptr, nullptr});
    states.push_back({&params[i], &inner[i]});
    list.push_back(&params[i]);
    if (chance(20)) continue;
    params[i].gradient = &gradients[i];
    expected.push_back(&gradients[i]);
    for (Named* named : {&params[i], &gradients[i]}) {
      where.push_back(named->header.data + named->header.offset);
      size += 3 + 2 * named->header.axes;
    }
    size += 1;
    for (auto& entry : inner[i]) {
      Named* named = (Named*)entry.second;
      if (named) size += named->type == &other_class ? 2 : 5 + 2 * named->header.axes;
    }
  }
  if (chance(30)) std::shuffle(states.begin(), states.end(), random_bits);
  std::vector<uint64_t> addresses(2 * count);
  std::vector<uint64_t> hints(19 * count);  // as many numbers as a Hint has
  List found;
  auto look = [&](std::vector<int64_t>& notes) {
    found.clear();
    return nero_look(&python, &list, count, &none, &found, &states, addresses.data(), hints.data(),
                     notes.data(), (int64_t)notes.size());
  };
  std::vector<int64_t> exact(size), short_of(below(size));
  if (look(short_of) != size || look(short_of) != size) fail("short notes were taken", number);
  if (look(exact) != size) fail("new tensors were not noticed", number);
  for (auto& hint : hints)  // any guess will do
    if (chance(10)) hint = chance(50) ? random_bits() : (uint64_t)below(count);
  if (look(exact) != 0) fail("the same tensors were not recognised", number);
  if (found != expected) fail("other gradients were found", number);
  if (!std::equal(where.begin(), where.end(), addresses.begin())) fail("a wrong address", number);
  // The same, given the gradients of those that have one.
  List with;
  for (void* p : list)
    if (((Named*)p)->gradient != &none) with.push_back(p);
  found.clear();
  if (nero_look(&python, &with, (int64_t)with.size(), &expected, &found, &states, addresses.data(),
                hints.data(), exact.data(), size) != 0 || !found.empty())
    fail("given gradients were not recognised", number);
  if (with.empty()) return;
  Named& one = *(Named*)with[below((int64_t)with.size())];
  const int64_t i = &one - params.data();
  switch (below(7)) {
    case 0: change(one); break;
    case 1: change(gradients[i]); break;
    case 2: one.gradient = &none; break;
    case 3: inner[i].push_back({&none, &one}); break;
    case 4:
      if (inner[i].empty()) return;
      inner[i].back().first = &none;
      break;
    case 5: {
      Named* named = inner[i].empty() ? nullptr : (Named*)inner[i].back().second;
      if (!named || named->type == &other_class) return;
      if (chance(50)) change(*named);
      else named->header.data += 1;
      break;
    }
    case 6: {
      Named* other = (Named*)list[below(count)];
      if (other == &one || other->gradient == &none) return;
      std::swap(*std::find(list.begin(), list.end(), &one), *std::find(list.begin(), list.end(), other));
    }
  }
  if (look(exact) <= 0) fail("a change was not noticed", number);
  (chance(50) ? one : gradients[i]).type = &other_class;
  one.gradient = &gradients[i];
  if (look(exact) != -2) fail("another class was taken", number);
  one.type = gradients[i].type = &tensor_class;
  (chance(50) ? one : gradients[i]).header.axes = -1;
  if (look(exact) != -1) fail("an object without a header was taken", number);
  for (auto& entry : states)
    if (entry.first == &one) entry.first = nullptr;
  if (look(exact) != -2) fail("a parameter without state was taken", number);
  if (references) fail("references were kept or given up", number);
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  int64_t cases = std::atoll(arguments[1]);
  const char* sets[8];
  int set_count = nero_instruction_sets(sets, 8);
  for (int64_t i = 0; i < cases; ++i) {
    random_bits.seed((uint64_t)std::atoll(arguments[2]) * 1000003u + (uint64_t)i);
    run_case(i, sets, set_count);
    run_look(i);
  }
  std::printf("%lld cases, %d instruction sets\n", (long long)cases, set_count);
}
