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
#include "cpu_lanes.h"

namespace nero {
namespace NERO_ISA {
namespace {

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
    for (stop = stop < whole ? stop : whole; i < stop; i += LANES<S>) lanes.add(w + i, g + i);
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

// w <- (w - k g - mean) * stretch
template <class S> struct Turning {
  using C = typename Lanes<S>::Scalar;
  using V = typename Lanes<S>::Vector;
  V k, mean, stretch;

  Turning(double k, double mean, double stretch)
      : k(V{} + (C)k), mean(V{} + (C)mean), stretch(V{} + (C)stretch) {}

  template <class G> inline void block(S* w, const G* g) const {
    for (int j = 0; j < PARTS; ++j) {
      V wj = load(w + j * WIDTH<S>), gj = load(g + j * WIDTH<S>);
      store(w + j * WIDTH<S>, (wj - k * gj - mean) * stretch);
    }
  }

  // The entries from `i` on, fewer than a block.
  template <class G> void tail(S* w, const G* g, int64_t i, int64_t n) const {
    if (i == n) return;
    Tail<S> w_tail(w + i, n - i);
    Tail<G> g_tail(g + i, n - i);
    block(w_tail.entries, g_tail.entries);
    std::memcpy((void*)(w + i), (const void*)w_tail.entries, (n - i) * sizeof(S));
  }
};

template <class S, class G>
void write_turn(S* w, const G* g, int64_t n, double k, double mean, double stretch) {
  const Turning<S> turning(k, mean, stretch);
  int64_t i = 0;
  for (; i + LANES<S> <= n; i += LANES<S>) turning.block(w + i, g + i);
  turning.tail(w, g, i, n);
}

// Turns one neuron while it sums up the next, as `sum_up` does, so that memory is never idle.
template <class S>
Sums turn_and_sum(S* w, const S* g, int64_t n, double k, double mean, double stretch,
                  const S* next_w, const S* next_g) {
  const Turning<S> turning(k, mean, stretch);
  Sums sums;
  LaneSums<typename Lanes<S>::Vector> lanes;
  int64_t i = 0;
  for (int64_t whole = n - n % LANES<S>; i < whole;) {
    int64_t stop = i + FLUSH * LANES<S>;
    for (stop = stop < whole ? stop : whole; i < stop; i += LANES<S>) {
      lanes.add(next_w + i, next_g + i);
      turning.block(w + i, g + i);
    }
    lanes.flush(sums);
  }
  if (i < n) {
    lanes.add(Tail<S>(next_w + i, n - i).entries, Tail<S>(next_g + i, n - i).entries);
    lanes.flush(sums);
    turning.tail(w, g, i, n);
  }
  return sums;
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

}  // namespace
}  // namespace NERO_ISA
}  // namespace nero
