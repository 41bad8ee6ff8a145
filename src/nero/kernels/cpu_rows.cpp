// The arithmetic of rule.py for a few neurons, compiled once per instruction set (NERO_ISA).
//
// A neuron takes two passes. The first reads weights and gradient and forms five sums; these give
// the step, and the mean and norm that the stepped weights will have, without forming them:
//     |w - s g|^2 = |w|^2 - 2 s w.g + s^2 |g|^2.
// The second pass, out of the cache, writes w <- (w - s g - mean) * radius / norm. So memory is
// read once and written once. Where the sums would lose digits (a step as large as the weights,
// numbers near the ends of the range) the neuron takes `careful_turn`, which is slow and exact.
//
// Sums run in 16 lanes (8 in float64) whatever the instruction set, products are never fused into
// additions (-ffp-contract=off), and no lane crosses a neuron: the result does not depend on the
// instruction set or on the number of threads.
#include "cpu.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#ifndef NERO_ISA
#define NERO_ISA baseline
#endif

namespace nero {
namespace NERO_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int VECTOR = 64;
#elif defined(__AVX2__)
constexpr int VECTOR = 32;
#else
constexpr int VECTOR = 16;
#endif
constexpr int BLOCK = 64;             // bytes of arithmetic in one block of lanes
constexpr int PARTS = BLOCK / VECTOR;  // vectors in a block
constexpr int FLUSH = 64;             // blocks that are summed before they go into a double

typedef float Floats __attribute__((vector_size(VECTOR)));
typedef double Doubles __attribute__((vector_size(VECTOR)));
typedef uint32_t Words __attribute__((vector_size(VECTOR)));
typedef int32_t Ints __attribute__((vector_size(VECTOR)));
typedef uint16_t Halves __attribute__((vector_size(VECTOR / 2)));

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

template <class S> struct Lanes { using Scalar = float; using Vector = Floats; };
template <> struct Lanes<double> { using Scalar = double; using Vector = Doubles; };

template <class S> constexpr int LANES = BLOCK / sizeof(typename Lanes<S>::Scalar);
template <class S> constexpr int WIDTH = VECTOR / sizeof(typename Lanes<S>::Scalar);

// Whether sums of squares keep their digits: far from where squares underflow or overflow.
template <class C> struct Range;
template <> struct Range<float> {
  static constexpr double LEAST = 1e-30, MOST = 1e34, EPS = 1.1920928955078125e-07;
};
template <> struct Range<double> {
  static constexpr double LEAST = 1e-280, MOST = 1e280, EPS = 2.220446049250313e-16;
};
constexpr double NOISE_ULPS = 16;  // as in geometry.py

template <class T> inline T bits_as(const void* p) { T x; std::memcpy(&x, p, sizeof x); return x; }

// ---- loads and stores -----------------------------------------------------------------------

inline Floats load(const float* p) { return bits_as<Floats>(p); }
inline Doubles load(const double* p) { return bits_as<Doubles>(p); }
inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
inline void store(double* p, Doubles x) { std::memcpy(p, &x, sizeof x); }

inline Words select(Words mask, Words a, Words b) { return (mask & a) | (~mask & b); }

inline Floats load(const BFloat16* p) {
  return (Floats)(__builtin_convertvector(bits_as<Halves>(p), Words) << 16);
}

// To the nearest, ties to even. NaN keeps its sign and becomes quiet.
inline void store(BFloat16* p, Floats x) {
  Words u = (Words)x;
  Words rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  Words nan = (Words)((u & 0x7fffffffu) > 0x7f800000u);
  Halves h = __builtin_convertvector(select(nan, (u >> 16) | 0x40u, rounded), Halves);
  std::memcpy(p, &h, sizeof h);
}

// Without the processor's denormals, which a training loop may have switched off.
inline Floats load(const Float16* p) {
  Words h = __builtin_convertvector(bits_as<Halves>(p), Words);
  Words sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
  Words normal = (rest << 13) + (112u << 23);
  Words special = (rest << 13) | 0x7f800000u;
  Words small = (Words)(__builtin_convertvector((Ints)rest, Floats) * 0x1p-24f);
  Words out = select((Words)(rest < 0x400u), small, normal);
  return (Floats)(select((Words)(rest >= 0x7c00u), special, out) | sign);
}

inline void store(Float16* p, Floats x) {
  Words u = (Words)x, sign = (u >> 16) & 0x8000u, rest = u & 0x7fffffffu;
  Words moved = rest - (112u << 23);
  Words normal = (moved + 0xfffu + ((moved >> 13) & 1u)) >> 13;
  // Adding 0.5 puts the last place of a float where half's smallest is: the sum rounds.
  Words small = (Words)((Floats)rest + 0.5f) - 0x3f000000u;
  Words out = select((Words)(rest < 0x38800000u), small, normal);
  out = select((Words)(rest >= 0x477ff000u), Words{} + 0x7c00u, out);  // 65520 and above
  out = select((Words)(rest > 0x7f800000u), Words{} + 0x7e00u, out);
  Halves h = __builtin_convertvector(out | sign, Halves);
  std::memcpy(p, &h, sizeof h);
}

// One entry, by way of a vector of which the rest is zero.
template <class S> inline typename Lanes<S>::Scalar get(const S* p) {
  if constexpr (sizeof(S) == 2) {
    S padded[WIDTH<S>] = {};
    std::memcpy(padded, p, sizeof(S));
    return load(padded)[0];
  } else {
    return bits_as<S>(p);
  }
}

template <class S> inline void put(S* p, typename Lanes<S>::Scalar x) {
  if constexpr (sizeof(S) == 2) {
    S padded[WIDTH<S>];
    store(padded, typename Lanes<S>::Vector{} + x);
    std::memcpy(p, padded, sizeof(S));
  } else {
    std::memcpy(p, &x, sizeof x);
  }
}

// The last entries of a neuron, fewer than a block, with zeros after them.
template <class S> struct Tail {
  S entries[LANES<S>] = {};
  Tail(const S* p, int64_t n) { std::memcpy((void*)entries, (const void*)p, n * sizeof(S)); }
};

// ---- sums of lanes, in double and in a fixed order: entry i and entry i + half, halving ------

typedef double Quads __attribute__((vector_size(32)));
typedef double Pairs __attribute__((vector_size(16)));
typedef float HalfFloats __attribute__((vector_size(VECTOR / 2)));

template <class Half, class V> inline Half low(const V& x) {
  Half half;
  std::memcpy(&half, &x, sizeof half);
  return half;
}

template <class Half, class V> inline Half high(const V& x) {
  Half half;
  std::memcpy(&half, (const char*)&x + sizeof half, sizeof half);
  return half;
}

inline double across(Pairs x) { return x[0] + x[1]; }
#if defined(__AVX2__)
inline double across(Quads x) { return across(low<Pairs>(x) + high<Pairs>(x)); }
#endif
#if defined(__AVX512F__)
inline double across(Doubles x) { return across(low<Quads>(x) + high<Quads>(x)); }
#endif

inline double total(const Doubles (&lanes)[PARTS]) {
  Doubles sums[PARTS];
  for (int k = 0; k < PARTS; ++k) sums[k] = lanes[k];
  for (int half = PARTS / 2; half; half /= 2)
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  return across(sums[0]);
}

inline double total(const Floats (&lanes)[PARTS]) {
  Doubles wide[2 * PARTS], sums[PARTS];
  for (int k = 0; k < PARTS; ++k) {
    wide[2 * k] = __builtin_convertvector(low<HalfFloats>(lanes[k]), Doubles);
    wide[2 * k + 1] = __builtin_convertvector(high<HalfFloats>(lanes[k]), Doubles);
  }
  for (int k = 0; k < PARTS; ++k) sums[k] = wide[k] + wide[k + PARTS];
  return total(sums);
}

// ---- pass 1: sums ---------------------------------------------------------------------------

struct Sums { double g = 0, gg = 0, w = 0, ww = 0, wg = 0; };

template <class V> struct LaneSums {
  V g[PARTS] = {}, gg[PARTS] = {}, w[PARTS] = {}, ww[PARTS] = {}, wg[PARTS] = {};

  template <class S, class G> inline void add(const S* ws, const G* gs) {
    for (int k = 0; k < PARTS; ++k) {
      V wk = load(ws + k * WIDTH<S>), gk = load(gs + k * WIDTH<S>);
      w[k] += wk;
      g[k] += gk;
      ww[k] += wk * wk;
      gg[k] += gk * gk;
      wg[k] += wk * gk;
    }
  }
  void flush(Sums& s) {
    s.g += total(g); s.gg += total(gg); s.w += total(w); s.ww += total(ww); s.wg += total(wg);
    *this = LaneSums();
  }
};

template <class S, class G> Sums sum_up(const S* w, const G* g, int64_t n) {
  Sums sums;
  LaneSums<typename Lanes<S>::Vector> lanes;
  int64_t i = 0;
  for (int64_t whole = n - n % LANES<S>; i < whole;) {
    int64_t stop = i + FLUSH * LANES<S>;
    for (stop = stop < whole ? stop : whole; i < stop; i += LANES<S>) {
      __builtin_prefetch(w + n + i);  // the next neuron's, while this one's are at hand
      lanes.add(w + i, g + i);
    }
    lanes.flush(sums);
  }
  if (i < n) {
    Tail<S> w_tail(w + i, n - i);
    Tail<G> g_tail(g + i, n - i);
    lanes.add(w_tail.entries, g_tail.entries);
    lanes.flush(sums);
  }
  return sums;
}

template <class C> inline bool in_range(double squares, int64_t n) {
  return squares >= Range<C>::LEAST * n && squares <= Range<C>::MOST;
}

// The 2-norm over the whole range of the dtype; NaN where an entry is NaN or infinite.
template <class G> double careful_norm(const G* g, int64_t n) {
  double peak = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    double x = std::fabs((double)get(g + i));
    if (!(x <= 1.7976931348623157e308)) return NAN;
    peak = x > peak ? x : peak;
  }
  if (peak == 0) return 0;
  for (int64_t i = 0; i < n; ++i) {
    double x = (double)get(g + i) / peak;
    squares += x * x;
  }
  return peak * std::sqrt(squares);
}

// ---- pass 2: the turn -----------------------------------------------------------------------

template <class S, class G>
void write_turn(S* w, const G* g, int64_t n, double s, double mean, double k) {
  using C = typename Lanes<S>::Scalar;
  using V = typename Lanes<S>::Vector;
  const V vs = V{} + (C)s, vm = V{} + (C)mean, vk = V{} + (C)k;
  auto block = [&](S* ws, const G* gs) {
    __builtin_prefetch(gs + n);
    for (int j = 0; j < PARTS; ++j) {
      V wj = load(ws + j * WIDTH<S>), gj = load(gs + j * WIDTH<S>);
      store(ws + j * WIDTH<S>, (wj - vs * gj - vm) * vk);
    }
  };
  int64_t i = 0;
  for (; i + LANES<S> <= n; i += LANES<S>) block(w + i, g + i);
  if (i < n) {
    Tail<S> w_tail(w + i, n - i);
    Tail<G> g_tail(g + i, n - i);
    block(w_tail.entries, g_tail.entries);
    std::memcpy((void*)(w + i), (const void*)w_tail.entries, (n - i) * sizeof(S));
  }
}

// The same turn entry by entry in double, twice centred, as axis_project_ in geometry.py.
template <class S, class G>
void careful_turn(S* w, const G* g, int64_t n, double d, bool center, double radius) {
  using C = typename Lanes<S>::Scalar;
  auto stepped = [&](int64_t i) { return (double)get(w + i) - (double)get(g + i) / d; };
  double mean = 0, norm = 0, k = 1, rest = 0;
  bool project = center || radius > 0;
  if (center) {
    for (int64_t i = 0; i < n; ++i) mean += stepped(i);
    mean /= n;
  }
  if (project && std::isfinite(mean)) {
    double peak = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) {
      double x = std::fabs(stepped(i) - mean);
      peak = x > peak || x != x ? x : peak;
    }
    for (int64_t i = 0; i < n && peak > 0; ++i) {
      double x = (stepped(i) - mean) / peak;
      squares += x * x;
    }
    norm = peak * std::sqrt(squares);
  }
  double noise = NOISE_ULPS * Range<C>::EPS * std::sqrt((double)n) * std::fabs(mean);
  if (!project || !std::isfinite(mean) || !std::isfinite(norm) || !(norm > noise)) {
    mean = 0;  // it cannot be projected
  } else {
    if (radius > 0) k = radius / norm;
    for (int64_t i = 0; i < n && center; ++i) rest += (stepped(i) - mean) * k;
    rest /= n;
  }
  for (int64_t i = 0; i < n; ++i) put(w + i, (C)((stepped(i) - mean) * k - rest));
}

// ---- one neuron -----------------------------------------------------------------------------

// m <- momentum m + (1 - momentum) g
template <class S, class C>
void average(C* m, const S* g, int64_t n, double momentum) {
  const C weight = (C)(1 - momentum);
  for (int64_t i = 0; i < n; ++i) {
    C before = get(m + i), now = get(g + i);
    put(m + i, weight < (C)0.5 ? before + weight * (now - before)
                               : now - (now - before) * ((C)1 - weight));
  }
}

// What one neuron is given besides its entries.
template <class C> struct Neuron {
  C* rms;
  double scale, radius;  // the radius is 0 where its norm is free
};

// What lr and the corrections for bias make of one neuron's step: w <- w - rate / rms * g.
template <class C> double rate_of(const Work& work, const Neuron<C>& neuron) {
  return work.rate * (neuron.radius > 0 ? neuron.radius : neuron.scale);
}

// The running average of the norm, from that of the gradient; returns it.
template <class C> double remember(const Work& work, const Neuron<C>& neuron, double g_norm) {
  double a = work.root_beta * (double)get(neuron.rms), b = work.root_rest / work.debias_m * g_norm;
  C rms = (C)(sizeof(C) == 8 ? std::hypot(a, b) : std::sqrt(a * a + b * b));
  put(neuron.rms, rms);
  return rms;
}

// A neuron without a radius of its own is not projected under radius="initial".
template <class C> bool centers(const Work& work, const Neuron<C>& neuron) {
  const int64_t flags = work.tensor->flags;
  return (flags & CENTER) && !((flags & INITIAL) && !(neuron.radius > 0));
}

// For sums that may have lost digits. Returns false where the gradient is not finite and skipped.
template <class S, class G, class C>
bool turn_carefully(const Work& work, const Neuron<C>& neuron, S* w, const G* g, int64_t n) {
  double g_norm = (C)careful_norm(g, n);
  // An average of gradients has been looked at before.
  if (!work.tensor->m && !std::isfinite(g_norm) && work.group->nonfinite == SKIP) return false;
  double rms = remember(work, neuron, g_norm), rate = rate_of(work, neuron);
  if (g_norm != 0 && rms != 0 && rate != 0)
    careful_turn(w, g, n, rms / rate, centers(work, neuron), neuron.radius);
  return true;
}

// What the sums of a neuron say: w <- (w - k g - mean) * stretch, unless digits would be lost.
template <class C> struct Turn {
  bool easy;
  double k, mean, stretch;
  C rms;
};

template <class C> Turn<C> plan(const Work& work, const Neuron<C>& neuron, const Sums& s, int64_t n) {
  double old = get(neuron.rms), a = work.root_beta, b = work.root_rest / work.debias_m;
  C rms = (C)std::sqrt(a * a * old * old + b * b * s.gg);
  double k = rate_of(work, neuron) / rms;
  double mean = centers(work, neuron) ? (s.w - k * s.g) / n : 0;
  double parts = s.ww + k * k * s.gg, squares = parts - 2 * k * s.wg - mean * mean * n;
  bool easy = in_range<C>(s.gg, n) && in_range<C>(s.ww, n) && in_range<C>(old * old, 0) &&
              in_range<float>(k * k, 1) && squares >= 0.25 * parts;
  return {easy, k, mean, neuron.radius > 0 ? neuron.radius / std::sqrt(squares) : 1, rms};
}

template <class S, class G, class C>
bool turn(const Work& work, const Neuron<C>& neuron, S* w, const G* g, int64_t n) {
  Turn<C> turn = plan(work, neuron, sum_up(w, g, n), n);
  if (!turn.easy) return turn_carefully(work, neuron, w, g, n);
  put(neuron.rms, turn.rms);
  write_turn(w, g, n, turn.k, turn.mean, turn.stretch);
  return true;
}

// One neuron whose entries lie in a row. Returns whether its gradient was finite.
template <class S, class C>
bool update_row(const Work& work, const Neuron<C>& neuron, S* w, const S* g, C* m, int64_t n) {
  if (!m) return turn(work, neuron, w, g, n);
  double squares = sum_up(g, g, n).gg;
  double g_norm = (C)(in_range<C>(squares, n) ? std::sqrt(squares) : careful_norm(g, n));
  if (!std::isfinite(g_norm) && work.group->nonfinite == SKIP) return false;
  average(m, g, n, work.group->momentum);
  turn(work, neuron, w, (const C*)m, n);
  return std::isfinite(g_norm);
}

// A neuron of one entry: nothing to sum and nothing to project.
template <class S, class C>
bool update_entry(const Work& work, const Neuron<C>& neuron, S* w, const S* g, C* m) {
  double x = get(g);
  bool finite = std::isfinite(x);
  if (!finite && work.group->nonfinite == SKIP) return false;
  if (m) {
    average(m, g, 1, work.group->momentum);
    x = get(m);
  }
  double rms = remember(work, neuron, std::isinf(x) ? NAN : std::fabs(x));
  double rate = rate_of(work, neuron);
  if (x != 0 && rms != 0 && rate != 0) put(w, (C)((double)get(w) - x / (rms / rate)));
  return finite;
}

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

template <class S> int64_t update_neurons(const Work& work, int64_t begin, int64_t end) {
  using C = typename Lanes<S>::Scalar;
  const Tensor& t = *work.tensor;
  if (work.scratch_neurons) return update_scattered<S, C>(work, begin, end);
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
