// The neurons of a tensor, wherever they lie in memory; compiled once per instruction set (NERO_ISA).
#include "rounding.h"

namespace nero {
namespace NERO_ISA {
namespace {

// ---- neurons of a tensor --------------------------------------------------------------------

struct Offsets { int64_t w = 0, g = 0, m = 0; };

inline Offsets offsets(const Loops& loops, int64_t index) {
  Offsets at;
  if (loops.count == 1) return {index * loops.w[0], index * loops.g[0], index * loops.m[0]};
  for (int64_t d = loops.count - 1; d >= 0; --d) {
    int64_t i = index % loops.size[d];
    index /= loops.size[d];
    at.w += i * loops.w[d];
    at.g += i * loops.g[d];
    at.m += i * loops.m[d];
  }
  return at;
}

// Copies entries of `count` neurons between memory and rows of scratch, `each(place, entry, length)`
// for entries that follow each other in both.
template <class Each>
void walk(const Loops& loops, int64_t Offsets::*stride_of, const int64_t (Loops::*strides)[MAX_DIMS],
          const Offsets* starts, int64_t count, int64_t row, Each each) {
  const int64_t* stride = loops.*strides;
  int64_t sizes[MAX_DIMS] = {1, 1, 1}, steps[MAX_DIMS] = {0, 0, 0};
  for (int64_t d = 0; d < loops.count; ++d) {
    sizes[MAX_DIMS - loops.count + d] = loops.size[d];
    steps[MAX_DIMS - loops.count + d] = stride[d];
  }
  const int64_t length = steps[2] == 1 ? sizes[2] : 1;
  int64_t place = 0;
  for (int64_t a = 0; a < sizes[0]; ++a)
    for (int64_t b = 0; b < sizes[1]; ++b)
      for (int64_t c = 0; c < sizes[2]; c += length, place += length) {
        int64_t at = a * steps[0] + b * steps[1] + c * steps[2];
        for (int64_t k = 0; k < count; ++k) each(k * row + place, starts[k].*stride_of + at, length);
      }
}

// Copies entries, of which there is often one or a kernel's 9: too few to call `memcpy` for.
template <class T> inline void copy(T* to, const T* from, int64_t length) {
  constexpr int64_t some = 16 / sizeof(T);
  if (length < some) {
    for (int64_t i = 0; i < length; ++i)
      std::memcpy((void*)(to + i), (const void*)(from + i), sizeof(T));
    return;
  }
  for (int64_t i = 0; i < length; i += some) {
    if (i > length - some) i = length - some;  // the last ones, of which some are there already
    std::memcpy((void*)(to + i), (const void*)(from + i), 16);
  }
}

constexpr int MAX_GATHERED = 16;

// Neurons whose entries are scattered: gathered a few at a time, so that each line of the cache
// that is fetched serves several of them.
template <class S, class C>
int64_t update_gathered(const Work& work, int64_t begin, int64_t end) {
  const Tensor& t = *work.tensor;
  const Loops& loops = t.shape->fan_in_loops;
  const int64_t n = t.shape->fan_in, row = scratch_row(n);
  S* w = (S*)work.w;
  const S* g = (const S*)work.g;
  C* m = (C*)t.m;
  C* own_m = (C*)work.scratch;
  S* own_w = (S*)(own_m + (m ? work.scratch_neurons * row : 0));
  S* own_g = own_w + work.scratch_neurons * row;
  const Terms terms(work);
  int64_t skipped = 0;
  for (int64_t first = begin; first < end; first += work.scratch_neurons) {
    const int64_t left = end - first, count = left < work.scratch_neurons ? left : work.scratch_neurons;
    Offsets starts[MAX_GATHERED];
    for (int64_t k = 0; k < count; ++k) starts[k] = offsets(t.shape->neurons, first + k);
    auto each = [&](auto memory, auto own, auto stride, auto strides, bool out) {
      walk(loops, stride, strides, starts, count, row, [&](int64_t place, int64_t entry, int64_t length) {
        out ? copy(memory + entry, own + place, length) : copy(own + place, memory + entry, length);
      });
    };
    each(w, own_w, &Offsets::w, &Loops::w, false);
    each((S*)g, own_g, &Offsets::g, &Loops::g, false);
    if (m) each(m, own_m, &Offsets::m, &Loops::m, false);
    for (int64_t k = 0; k < count; ++k)
      skipped += !update_row<S, C>(work, terms, first + k, own_w + k * row,
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
  along<V>(t.shape->fan_in_loops, [&](int64_t w_at, int64_t g_at) {
    lanes.add_lanes(w + w_at, g + g_at);
    if (++summed % FLUSH == 0) flush();
  });
  flush();
  Plans<C, LANES<S>> plans;
  plans.remembered(work, first, LANES<S>);
  for (int i = 0; i < LANES<S>; ++i)
    plans.set(i, {sums[0][i], sums[1][i], sums[2][i], sums[3][i], sums[4][i]});
  plans.plan(Terms(work));
  C ks[LANES<S>], means[LANES<S>], stretches[LANES<S>], turns[LANES<S>];
  unsigned left = 0;
  for (int i = 0; i < LANES<S>; ++i) {
    if (plans.easy[i] != 0) put((C*)t.rms + first + i, (C)plans.rms[i]);
    left |= (unsigned)(plans.easy[i] == 0) << i;
    ks[i] = (C)plans.k[i];
    means[i] = (C)plans.mean[i];
    stretches[i] = (C)plans.stretch[i];
    turns[i] = (C)plans.easy[i];
  }
  along<V>(t.shape->fan_in_loops, [&](int64_t w_at, int64_t g_at) {
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
  const Loops& loops = t.shape->neurons;
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
      const Loops& loops = work.tensor->shape->neurons;
      int64_t size = loops.count ? loops.size[loops.count - 1] : 1;
      int64_t stop = first + size - first % size;
      stop = stop < end ? stop : end;
      skipped += update_gathered<S, C>(work, first, stop);
      first = stop;
      continue;
    }
    Offsets at = offsets(work.tensor->shape->neurons, first);
    unsigned left = update_block<S, C>(work, first, (S*)work.w + at.w, (const S*)work.g + at.g);
    for (int i = 0; left; ++i, left >>= 1)
      if (left & 1) skipped += update_gathered<S, C>(work, first + i, first + i + 1);
    first += LANES<S>;
  }
  return skipped;
}

// ---- neurons that are rows in memory ----------------------------------------------------------

constexpr int TOGETHER = 8;  // short rows that are planned side by side
// Bytes of weights and gradient in a row that is short. Longer ones are better taken one by one,
// while they are in the first cache.
constexpr int64_t SHORT_ROW = 1024;

// The sums of a few rows that follow each other.
template <class S, class C> struct ShortRows {
  Sums sums[TOGETHER];
  double folded[5][TOGETHER][FOLDED] = {};

  template <class V> static void keep(const V (&lanes)[PARTS], double* out) {
    Doubles sums[PARTS];
    fold(lanes, sums);
    std::memcpy(out, sums, BLOCK);
  }

  void sum(int r, const S* w, const S* g, int64_t n) {
    LaneSums<typename Lanes<S>::Vector> lanes;
    sums[r] = Sums();
    sum_lanes(w, g, n, sums[r], lanes);
    keep(lanes.g, folded[0][r]);
    keep(lanes.gg, folded[1][r]);
    keep(lanes.w, folded[2][r]);
    keep(lanes.ww, folded[3][r]);
    keep(lanes.wg, folded[4][r]);
  }

  void write(Plans<C, TOGETHER>& plans) const {
    double* all[5] = {plans.g, plans.gg, plans.w, plans.ww, plans.wg};
    for (int s = 0; s < 5; ++s) totals(folded[s], all[s]);
    for (int r = 0; r < TOGETHER; ++r) {
      plans.g[r] += sums[r].g;
      plans.gg[r] += sums[r].gg;
      plans.w[r] += sums[r].w;
      plans.ww[r] += sums[r].ww;
      plans.wg[r] += sums[r].wg;
    }
  }
};

template <class S, class C> int64_t update_short_rows(const Work& work, int64_t begin, int64_t end) {
  const int64_t n = work.tensor->shape->fan_in;
  const Terms terms(work);
  ShortRows<S, C> rows;
  Plans<C, TOGETHER> plans;
  int64_t skipped = 0;
  for (int64_t first = begin; first < end; first += TOGETHER) {
    const int count = (int)(end - first < TOGETHER ? end - first : TOGETHER);
    S* w[TOGETHER];
    const S* g[TOGETHER];
    for (int r = 0; r < count; ++r) {
      Offsets at = offsets(work.tensor->shape->neurons, first + r);
      w[r] = (S*)work.w + at.w;
      g[r] = (const S*)work.g + at.g;
      rows.sum(r, w[r], g[r], n);
    }
    rows.write(plans);
    plans.remembered(work, first, count);
    plans.plan(terms);
    for (int r = 0; r < count; ++r)
      skipped += !plans.carry_out(work, first + r, r, w[r], g[r]);
  }
  return skipped;
}

// LANES neurons of one entry each, that follow each other: what `update_entry` does, side by side.
// Changes nothing and returns false where one of them needs a closer look.
template <class S> bool update_entries(const Work& work, int64_t first, S* w, const S* g) {
  constexpr int N = LANES<S>;
  const Terms terms(work);
  const double a = work.root_beta, b = work.root_rest / work.debias_m, rate = terms.rate * terms.scale;
  const double longest = terms.limit * terms.scale;
  float ws[N], gs[N], rms[N], moved[N];
  std::memcpy(rms, (const float*)work.tensor->rms + first, sizeof rms);
  for (int k = 0; k < PARTS; ++k) {
    store(ws + k * WIDTH<S>, load(w + k * WIDTH<S>));
    store(gs + k * WIDTH<S>, load(g + k * WIDTH<S>));
  }
  int plain = 1;
  for (int i = 0; i < N; ++i) {
    const double x = gs[i], before = a * (double)rms[i], now = b * std::fabs(x);
    rms[i] = (float)std::sqrt(before * before + now * now);
    const double d = (double)rms[i] / rate, least = std::fabs(x) / longest;
    moved[i] = (float)((double)ws[i] - x / (std::fabs(d) < least ? std::copysign(least, d) : d));
    plain &= (gs[i] != 0) & (std::fabs(gs[i]) <= 3.4028234663852886e38f) & (rms[i] > 0);
  }
  if (!plain || rate == 0) return false;
  std::memcpy((float*)work.tensor->rms + first, rms, sizeof rms);
  for (int k = 0; k < PARTS; ++k) store(w + k * WIDTH<S>, load(moved + k * WIDTH<S>));
  return true;
}

// Neurons that are rows in memory or a single entry, one by one.
template <class S, class C> int64_t update_singly(const Work& work, int64_t begin, int64_t end) {
  const Tensor& t = *work.tensor;
  const Loops& loops = t.shape->neurons;
  [[maybe_unused]] const bool together = t.shape->fan_in == 1 && !t.m && !(t.shape->flags & NORMALIZE) &&
                                         loops.count == 1 && loops.w[0] == 1 && loops.g[0] == 1;
  const Terms terms(work);
  int64_t skipped = 0;
  for (int64_t i = begin; i < end; ++i) {
    Offsets at = offsets(loops, i);
    S* w = (S*)work.w + at.w;
    const S* g = (const S*)work.g + at.g;
    C* m = t.m ? (C*)t.m + at.m : nullptr;
    if constexpr (sizeof(C) == 4) {
      if (together && end - i >= LANES<S> && update_entries(work, i, w, g)) {
        i += LANES<S> - 1;
        continue;
      }
    }
    skipped += !(t.shape->fan_in == 1 ? update_entry(work, neuron_at<C>(work, i), w, g, m)
                               : update_row(work, terms, i, w, g, m, t.shape->fan_in));
  }
  return skipped;
}

template <class S> int64_t update_neurons(const Work& work, int64_t begin, int64_t end) {
  using C = typename Lanes<S>::Scalar;
  if constexpr (sizeof(S) == 2)
    if (work.tensor->shape->flags & STOCHASTIC) return update_rounded<S>(work, begin, end);
  if (work.scratch_neurons) return update_scattered<S, C>(work, begin, end);
  const int64_t n = work.tensor->shape->fan_in;
  if (!work.tensor->m && n > 1 && 2 * n * (int64_t)sizeof(S) <= SHORT_ROW)
    return update_short_rows<S, C>(work, begin, end);
  return update_singly<S, C>(work, begin, end);
}

}  // namespace

int64_t update(const Work& work, int64_t begin, int64_t end) {
  switch (work.tensor->shape->dtype) {
    case FLOAT64: return update_neurons<double>(work, begin, end);
    case BFLOAT16: return update_neurons<BFloat16>(work, begin, end);
    case FLOAT16: return update_neurons<Float16>(work, begin, end);
    default: return update_neurons<float>(work, begin, end);
  }
}

}  // namespace NERO_ISA
}  // namespace nero
