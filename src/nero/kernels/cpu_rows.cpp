// The neurons of a tensor, wherever they lie in memory; compiled once per instruction set (NERO_ISA).
#include "cpu_turn.h"

namespace nero {
namespace NERO_ISA {
namespace {

// ---- neurons of a tensor --------------------------------------------------------------------

struct Offsets { int64_t w = 0, g = 0, m = 0; };

inline Offsets offsets(const Loops& loops, int64_t index) {
  Offsets at;
  for (int64_t d = loops.count - 1; d >= 0; --d) {
    int64_t i = index % loops.size[d];
    index /= loops.size[d];
    at.w += i * loops.w[d];
    at.g += i * loops.g[d];
    at.m += i * loops.m[d];
  }
  return at;
}

template <class C> Neuron<C> neuron_at(const Work& work, int64_t index) {
  const Tensor& t = *work.tensor;
  double radius = 0;
  if (t.flags & NORMALIZE)
    radius = t.flags & INITIAL ? (double)get((const C*)t.radius + index) : work.group->radius;
  return {(C*)t.rms + index, (double)get((const C*)t.scale), radius};
}

// Copies entries of `count` neurons between memory and rows of scratch, `each(place, entry)`.
template <class Each>
void walk(const Loops& loops, int64_t Offsets::*stride_of, const int64_t (Loops::*strides)[MAX_DIMS],
          const Offsets* starts, int64_t count, int64_t row, Each each) {
  const int64_t* stride = loops.*strides;
  int64_t sizes[MAX_DIMS] = {1, 1, 1}, steps[MAX_DIMS] = {0, 0, 0};
  for (int64_t d = 0; d < loops.count; ++d) {
    sizes[MAX_DIMS - loops.count + d] = loops.size[d];
    steps[MAX_DIMS - loops.count + d] = stride[d];
  }
  int64_t place = 0;
  for (int64_t a = 0; a < sizes[0]; ++a)
    for (int64_t b = 0; b < sizes[1]; ++b)
      for (int64_t c = 0; c < sizes[2]; ++c, ++place) {
        int64_t at = a * steps[0] + b * steps[1] + c * steps[2];
        for (int64_t k = 0; k < count; ++k) each(k * row + place, starts[k].*stride_of + at);
      }
}

constexpr int MAX_GATHERED = 16;

// Neurons whose entries are scattered: gathered a few at a time, so that each line of the cache
// that is fetched serves several of them.
template <class S, class C>
int64_t update_gathered(const Work& work, int64_t begin, int64_t end) {
  const Tensor& t = *work.tensor;
  const Loops& loops = t.fan_in_loops;
  const int64_t n = t.fan_in, row = scratch_row(n);
  S* w = (S*)work.w;
  const S* g = (const S*)work.g;
  C* m = (C*)t.m;
  C* own_m = (C*)work.scratch;
  S* own_w = (S*)(own_m + (m ? work.scratch_neurons * row : 0));
  S* own_g = own_w + work.scratch_neurons * row;
  int64_t skipped = 0;
  for (int64_t first = begin; first < end; first += work.scratch_neurons) {
    const int64_t left = end - first, count = left < work.scratch_neurons ? left : work.scratch_neurons;
    Offsets starts[MAX_GATHERED];
    for (int64_t k = 0; k < count; ++k) starts[k] = offsets(t.neurons, first + k);
    auto each = [&](auto memory, auto own, auto stride, auto strides, bool out) {
      walk(loops, stride, strides, starts, count, row, [&](int64_t place, int64_t entry) {
        out ? std::memcpy((void*)(memory + entry), (const void*)(own + place), sizeof *memory)
            : std::memcpy((void*)(own + place), (const void*)(memory + entry), sizeof *memory);
      });
    };
    each(w, own_w, &Offsets::w, &Loops::w, false);
    each((S*)g, own_g, &Offsets::g, &Loops::g, false);
    if (m) each(m, own_m, &Offsets::m, &Loops::m, false);
    for (int64_t k = 0; k < count; ++k)
      skipped += !update_row<S, C>(work, neuron_at<C>(work, first + k), own_w + k * row,
                                   own_g + k * row, m ? own_m + k * row : nullptr, n);
    each(w, own_w, &Offsets::w, &Loops::w, true);
    if (m) each(m, own_m, &Offsets::m, &Loops::m, true);
  }
  return skipped;
}

// ---- neurons that lie side by side, one in each lane ------------------------------------------

template <class V, class Each> void along(const Loops& loops, Each each) {
  int64_t sizes[MAX_DIMS] = {1, 1, 1}, w[MAX_DIMS] = {}, g[MAX_DIMS] = {};
  for (int64_t d = 0, at = MAX_DIMS - loops.count; d < loops.count; ++d, ++at) {
    sizes[at] = loops.size[d];
    w[at] = loops.w[d];
    g[at] = loops.g[d];
  }
  for (int64_t a = 0; a < sizes[0]; ++a)
    for (int64_t b = 0; b < sizes[1]; ++b)
      for (int64_t c = 0; c < sizes[2]; ++c)
        each(a * w[0] + b * w[1] + c * w[2], a * g[0] + b * g[1] + c * g[2]);
}

template <class V> void spill(const V (&lanes)[PARTS], double* sums) {
  for (int k = 0; k < PARTS; ++k)
    for (size_t i = 0; i < sizeof(V) / sizeof(lanes[0][0]); ++i)
      sums[k * (sizeof(V) / sizeof(lanes[0][0])) + i] += lanes[k][i];
}

// One block of lanes, each a neuron. Returns which of them could not be turned this way, as bits.
template <class S, class C>
unsigned update_block(const Work& work, int64_t first, S* w, const S* g) {
  using V = typename Lanes<S>::Vector;
  const Tensor& t = *work.tensor;
  double sums[5][LANES<S>] = {};
  LaneSums<V> lanes;
  int64_t summed = 0;
  auto flush = [&] {
    spill(lanes.g, sums[0]); spill(lanes.gg, sums[1]); spill(lanes.w, sums[2]);
    spill(lanes.ww, sums[3]); spill(lanes.wg, sums[4]);
    lanes = LaneSums<V>();
  };
  along<V>(t.fan_in_loops, [&](int64_t w_at, int64_t g_at) {
    lanes.add(w + w_at, g + g_at);
    if (++summed % FLUSH == 0) flush();
  });
  flush();
  C ks[LANES<S>], means[LANES<S>], stretches[LANES<S>], turns[LANES<S>];
  unsigned left = 0;
  for (int i = 0; i < LANES<S>; ++i) {
    Neuron<C> neuron = neuron_at<C>(work, first + i);
    Sums s{sums[0][i], sums[1][i], sums[2][i], sums[3][i], sums[4][i]};
    Turn<C> turn = plan(work, neuron, s, t.fan_in);
    if (turn.easy) put(neuron.rms, turn.rms);
    left |= (unsigned)!turn.easy << i;
    ks[i] = (C)turn.k;
    means[i] = (C)turn.mean;
    stretches[i] = (C)turn.stretch;
    turns[i] = turn.easy;
  }
  along<V>(t.fan_in_loops, [&](int64_t w_at, int64_t g_at) {
    for (int k = 0; k < PARTS; ++k) {
      const int at = k * WIDTH<S>;
      V wk = load(w + w_at + at), gk = load(g + g_at + at);
      V turned = (wk - load(ks + at) * gk - load(means + at)) * load(stretches + at);
      store(w + w_at + at, load(turns + at) != 0 ? turned : wk);
    }
  });
  return left;
}

// Whether a block of lanes fits between neuron `first` and the end of its row in memory.
template <class S> bool is_block(const Tensor& t, int64_t first, int64_t end) {
  const Loops& loops = t.neurons;
  const int64_t inner = loops.count - 1;
  return !t.m && inner >= 0 && loops.w[inner] == 1 && loops.g[inner] == 1 &&
         first + LANES<S> <= end && first % loops.size[inner] + LANES<S> <= loops.size[inner];
}

template <class S, class C>
int64_t update_scattered(const Work& work, int64_t begin, int64_t end) {
  int64_t skipped = 0;
  for (int64_t first = begin; first < end;) {
    if (!is_block<S>(*work.tensor, first, end)) {
      // Up to where the next row in memory begins.
      const Loops& loops = work.tensor->neurons;
      int64_t size = loops.count ? loops.size[loops.count - 1] : 1;
      int64_t stop = first + size - first % size;
      stop = stop < end ? stop : end;
      skipped += update_gathered<S, C>(work, first, stop);
      first = stop;
      continue;
    }
    Offsets at = offsets(work.tensor->neurons, first);
    unsigned left = update_block<S, C>(work, first, (S*)work.w + at.w, (const S*)work.g + at.g);
    for (int i = 0; left; ++i, left >>= 1)
      if (left & 1) skipped += update_gathered<S, C>(work, first + i, first + i + 1);
    first += LANES<S>;
  }
  return skipped;
}

// ---- neurons that are rows in memory ----------------------------------------------------------

template <class S, class C> int64_t update_rows(const Work& work, int64_t begin, int64_t end) {
  const Tensor& t = *work.tensor;
  const int64_t n = t.fan_in;
  auto row = [&](int64_t i) {
    Offsets at = offsets(t.neurons, i);
    return std::pair{(S*)work.w + at.w, (const S*)work.g + at.g};
  };
  auto [w, g] = row(begin);
  Sums sums = sum_up(w, g, n);
  int64_t skipped = 0;
  for (int64_t i = begin; i < end; ++i) {
    Neuron<C> neuron = neuron_at<C>(work, i);
    Turn<C> turn = plan(work, neuron, sums, n);
    if (turn.easy) put(neuron.rms, turn.rms);
    if (i + 1 == end) {
      if (turn.easy) write_turn(w, g, n, turn.k, turn.mean, turn.stretch);
      else skipped += !turn_carefully(work, neuron, w, g, n);
      break;
    }
    auto [next_w, next_g] = row(i + 1);
    if (turn.easy) {
      sums = turn_and_sum(w, g, n, turn.k, turn.mean, turn.stretch, next_w, next_g);
    } else {
      skipped += !turn_carefully(work, neuron, w, g, n);
      sums = sum_up(next_w, next_g, n);
    }
    w = next_w;
    g = next_g;
  }
  return skipped;
}

// Neurons of one entry, and rows with a running average of their gradient.
template <class S, class C> int64_t update_singly(const Work& work, int64_t begin, int64_t end) {
  const Tensor& t = *work.tensor;
  int64_t skipped = 0;
  for (int64_t i = begin; i < end; ++i) {
    Offsets at = offsets(t.neurons, i);
    S* w = (S*)work.w + at.w;
    const S* g = (const S*)work.g + at.g;
    C* m = t.m ? (C*)t.m + at.m : nullptr;
    Neuron<C> neuron = neuron_at<C>(work, i);
    skipped += !(t.fan_in == 1 ? update_entry(work, neuron, w, g, m)
                               : update_row(work, neuron, w, g, m, t.fan_in));
  }
  return skipped;
}

template <class S> int64_t update_neurons(const Work& work, int64_t begin, int64_t end) {
  using C = typename Lanes<S>::Scalar;
  if (work.scratch_neurons) return update_scattered<S, C>(work, begin, end);
  if (work.tensor->m || work.tensor->fan_in == 1) return update_singly<S, C>(work, begin, end);
  return update_rows<S, C>(work, begin, end);
}

}  // namespace

int64_t update(const Work& work, int64_t begin, int64_t end) {
  switch (work.tensor->dtype) {
    case FLOAT64: return update_neurons<double>(work, begin, end);
    case BFLOAT16: return update_neurons<BFloat16>(work, begin, end);
    case FLOAT16: return update_neurons<Float16>(work, begin, end);
    default: return update_neurons<float>(work, begin, end);
  }
}

}  // namespace NERO_ISA
}  // namespace nero
