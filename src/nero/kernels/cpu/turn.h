// The arithmetic of rule.py for one neuron, in one instruction set.
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
#pragma once
#include "lanes.h"

namespace nero {
namespace NERO_ISA {
namespace {

// ---- pass 1: sums ---------------------------------------------------------------------------

struct Sums { double g = 0, gg = 0, w = 0, ww = 0, wg = 0; };

// Whether weights and gradients are taken in pairs, of which one lane has both entries.
template <class S, class G>
constexpr bool PAIRED = std::is_same_v<S, BFloat16> && std::is_same_v<G, BFloat16>;
template <class S, class G> constexpr int64_t ENTRIES = LANES<S> * (PAIRED<S, G> ? 2 : 1);

template <class V> struct LaneSums {
  V g[PARTS] = {}, gg[PARTS] = {}, w[PARTS] = {}, ww[PARTS] = {}, wg[PARTS] = {};

  inline void add(int k, V wk, V gk) {
    w[k] += wk;
    g[k] += gk;
    ww[k] += wk * wk;
    gg[k] += gk * gk;
    wg[k] += wk * gk;
  }
  // LANES entries, entry i in lane i.
  template <class S, class G> inline void add_lanes(const S* ws, const G* gs) {
    for (int k = 0; k < PARTS; ++k) add(k, load(ws + k * WIDTH<S>), load(gs + k * WIDTH<S>));
  }
  // ENTRIES of a row.
  template <class S, class G> inline void add_row(const S* ws, const G* gs) {
    if constexpr (PAIRED<S, G>) {
      for (int k = 0; k < PARTS; ++k) {
        Words wk = bits_as<Words>(ws + 2 * k * WIDTH<S>), gk = bits_as<Words>(gs + 2 * k * WIDTH<S>);
        add(k, even_of(wk), even_of(gk));
        add(k, odd_of(wk), odd_of(gk));
      }
    } else {
      add_lanes(ws, gs);
    }
  }
  NERO_INLINE void flush(Sums& s) {
    s.g += total(g); s.gg += total(gg); s.w += total(w); s.ww += total(ww); s.wg += total(wg);
    *this = LaneSums();
  }
};

// Sums up a row. The last lanes are left to be added to the sums, so that those of several rows can
// be added up side by side.
template <class S, class G>
NERO_INLINE void sum_lanes(const S* w, const G* g, int64_t n, Sums& sums,
                      LaneSums<typename Lanes<S>::Vector>& lanes) {
  constexpr int64_t block = ENTRIES<S, G>;
  int64_t i = 0;
  for (int64_t whole = n - n % block; i < whole;) {
    if (i) lanes.flush(sums);
    int64_t stop = i + FLUSH * LANES<S>;
    for (stop = stop < whole ? stop : whole; i < stop; i += block) lanes.add_row(w + i, g + i);
  }
  if (i < n) {
    if (i) lanes.flush(sums);
    Tail<S, block> w_tail(w + i, n - i);
    Tail<G, block> g_tail(g + i, n - i);
    lanes.add_row(w_tail.entries, g_tail.entries);
  }
}

template <class S, class G> NERO_INLINE Sums sum_up(const S* w, const G* g, int64_t n) {
  Sums sums;
  LaneSums<typename Lanes<S>::Vector> lanes;
  sum_lanes(w, g, n, sums, lanes);
  lanes.flush(sums);
  return sums;
}

template <class C> inline bool in_range(double squares, double n) {
  return (squares >= Range<C>::LEAST * n) & (squares <= Range<C>::MOST);
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

// w <- (w - k g - mean) * stretch
template <class S> struct Turning {
  using C = typename Lanes<S>::Scalar;
  using V = typename Lanes<S>::Vector;
  V k, mean, stretch;

  Turning(double k, double mean, double stretch)
      : k(V{} + (C)k), mean(V{} + (C)mean), stretch(V{} + (C)stretch) {}

  V turned(V w, V g) const { return (w - k * g - mean) * stretch; }

  template <class G> inline void block(S* w, const G* g) const {
    for (int j = 0; j < PARTS; ++j) {
      if constexpr (PAIRED<S, G>) {
        const int at = 2 * j * WIDTH<S>;
        Words wj = bits_as<Words>(w + at), gj = bits_as<Words>(g + at);
        wj = pairs_of(turned(even_of(wj), even_of(gj)), turned(odd_of(wj), odd_of(gj)));
        std::memcpy((void*)(w + at), &wj, sizeof wj);
      } else {
        const int at = j * WIDTH<S>;
        store(w + at, turned(load(w + at), load(g + at)));
      }
    }
  }

  // A row of n entries that was just summed up, from its end, which is still nearest in the cache.
  template <class G> void row(S* w, const G* g, int64_t n) const {
    constexpr int64_t size = ENTRIES<S, G>;
    tail(w, g, n);
    for (int64_t i = n - n % size; (i -= size) >= 0;) block(w + i, g + i);
  }

  // The last entries of a row of n, fewer than a block.
  template <class G> void tail(S* w, const G* g, int64_t n) const {
    constexpr int64_t block_size = ENTRIES<S, G>;
    const int64_t i = n - n % block_size;
    if (i == n) return;
    Tail<S, block_size> w_tail(w + i, n - i);
    Tail<G, block_size> g_tail(g + i, n - i);
    block(w_tail.entries, g_tail.entries);
    std::memcpy((void*)(w + i), (const void*)w_tail.entries, (n - i) * sizeof(S));
  }
};

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

template <class C> Neuron<C> neuron_at(const Work& work, int64_t index) {
  const Tensor& t = *work.tensor;
  double radius = 0;
  if (t.shape->flags & NORMALIZE)
    radius = t.shape->flags & INITIAL ? (double)get((const C*)t.radius + index) : work.group->radius;
  return {(C*)t.rms + index, (double)get((const C*)t.scale), radius};
}

// What lr and the corrections for bias make of one neuron's step: w <- w - rate / rms * g.
template <class C> double rate_of(const Work& work, const Neuron<C>& neuron) {
  return work.rate * (neuron.radius > 0 ? neuron.radius : neuron.scale);
}

// d of the step w <- w - g / d, which is no longer than the cap allows.
template <class C>
double divisor(const Work& work, const Neuron<C>& neuron, double rms, double g_norm) {
  const double d = rms / rate_of(work, neuron);
  const double least = g_norm / (work.limit * (neuron.radius > 0 ? neuron.radius : neuron.scale));
  return std::fabs(d) < least ? std::copysign(least, d) : d;
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
  const int64_t flags = work.tensor->shape->flags;
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
    careful_turn(w, g, n, divisor(work, neuron, rms, g_norm), centers(work, neuron), neuron.radius);
  return true;
}

// What the neurons of a tensor share, as `plan` takes it.
struct Terms {
  double old_weight, new_weight;  // beta and 1 - beta, the latter corrected for momentum's bias
  double rate, limit, scale, n;
  double center_above;  // neurons with a radius above this are centred

  explicit Terms(const Work& work) {
    const Tensor& t = *work.tensor;
    const double b = work.root_rest / work.debias_m;
    old_weight = work.root_beta * work.root_beta;
    new_weight = b * b;
    rate = work.rate;
    limit = work.limit;
    scale = t.shape->dtype == FLOAT64 ? *(const double*)t.scale : *(const float*)t.scale;
    n = t.shape->fan_in;
    // A neuron without a radius of its own is not projected under radius="initial".
    center_above = !(t.shape->flags & CENTER) ? HUGE_VAL : t.shape->flags & INITIAL ? 0 : -1;
  }
};

// Neurons side by side. Their sums say: w <- (w - k g - mean) * stretch, unless digits would be lost.
template <class C, int N> struct Plans {
  double g[N], gg[N], w[N], ww[N], wg[N];
  double k[N], mean[N], stretch[N];
  double rms[N], radius[N];  // the radius is 0 where the norm is free
  double easy[N];

  // `count` neurons from `first` on; the rest of N repeats the last.
  void remembered(const Work& work, int64_t first, int64_t count) {
    const Tensor& t = *work.tensor;
    const int64_t flags = t.shape->flags;
    const C* own = flags & NORMALIZE && flags & INITIAL ? (const C*)t.radius + first : nullptr;
    const double common = flags & NORMALIZE ? work.group->radius : 0;
    for (int i = 0; i < N; ++i) {
      const int64_t at = i < count ? i : count - 1;
      rms[i] = ((const C*)t.rms)[first + at];
      radius[i] = own ? own[at] : common;
    }
  }

  void set(int i, const Sums& s) {
    g[i] = s.g; gg[i] = s.gg; w[i] = s.w; ww[i] = s.ww; wg[i] = s.wg;
  }

  NERO_INLINE void plan(const Terms& t) { t.limit < HUGE_VAL ? plan_as<true>(t) : plan_as<false>(t); }

  // No branches, so that the compiler takes several neurons at a time.
  template <bool CAPPED> NERO_INLINE void plan_as(const Terms& t) {
    for (int i = 0; i < N; ++i) {
      const double old = rms[i], own = radius[i];
      const double now = (C)std::sqrt(t.old_weight * old * old + t.new_weight * gg[i]);
      double step = t.rate * (own > 0 ? own : t.scale) / now;
      if (CAPPED) {
        const double most = t.limit * (own > 0 ? own : t.scale) / std::sqrt(gg[i]);
        step = step > most ? most : step < -most ? -most : step;
      }
      const double middle = own > t.center_above ? (w[i] - step * g[i]) / t.n : 0;
      const double parts = ww[i] + step * step * gg[i];
      const double squares = parts - 2 * step * wg[i] - middle * middle * t.n;
      const double factor = own / std::sqrt(squares);
      easy[i] = in_range<C>(gg[i], t.n) & in_range<C>(ww[i], t.n) & in_range<C>(old * old, 0) &
                in_range<float>(step * step, 1) & (squares >= 0.25 * parts) ? 1 : 0;
      k[i] = step;
      mean[i] = middle;
      stretch[i] = own > 0 ? factor : 1;
      rms[i] = now;
    }
  }

  // Turns neuron `index`, of which this is the i-th plan. False where it was skipped.
  template <class S, class G>
  NERO_INLINE bool carry_out(const Work& work, int64_t index, int i, S* w, const G* g) const {
    const int64_t n = work.tensor->shape->fan_in;
    Neuron<C> neuron = neuron_at<C>(work, index);
    if (easy[i] == 0) return turn_carefully(work, neuron, w, g, n);
    put(neuron.rms, (C)rms[i]);
    Turning<S>(k[i], mean[i], stretch[i]).row(w, g, n);
    return true;
  }
};

template <class S, class G, class C>
bool turn(const Work& work, const Terms& terms, int64_t index, S* w, const G* g, int64_t n) {
  Plans<C, 1> plans;
  plans.remembered(work, index, 1);
  plans.set(0, sum_up(w, g, n));
  plans.plan(terms);
  return plans.carry_out(work, index, 0, w, g);
}

// One neuron whose entries lie in a row. Returns whether its gradient was finite.
template <class S, class C>
bool update_row(const Work& work, const Terms& terms, int64_t index, S* w, const S* g, C* m,
                int64_t n) {
  if (!m) return turn<S, S, C>(work, terms, index, w, g, n);
  double squares = sum_up(g, g, n).gg;
  double g_norm = (C)(in_range<C>(squares, n) ? std::sqrt(squares) : careful_norm(g, n));
  if (!std::isfinite(g_norm) && work.group->nonfinite == SKIP) return false;
  average(m, g, n, work.group->momentum);
  turn<S, C, C>(work, terms, index, w, (const C*)m, n);
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
  if (x != 0 && rms != 0 && rate != 0) put(w, (C)((double)get(w) - x / divisor(work, neuron, rms, std::fabs(x))));
  return finite;
}

}  // namespace
}  // namespace NERO_ISA
}  // namespace nero
