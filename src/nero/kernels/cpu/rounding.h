// Weights of 16 bits that are rounded stochastically, by the noise and the rounding that rounding.py
// defines: each neuron is stepped in float32, in scratch, and rounded on its way back to memory.
// What the format holds stays as it is, so that a neuron that did not turn keeps its numbers.
#pragma once
#include "turn.h"

namespace nero {
namespace NERO_ISA {
namespace {

inline uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

struct Noise {
  uint32_t first, second;

  Noise(int64_t seed, float step) : first(mix((uint32_t)seed ^ mix((uint32_t)step))) {
    second = mix(first + (uint32_t)seed);
  }
  uint32_t bits(int64_t index) const {
    uint32_t x = (uint32_t)index ^ first;
    x = ((x ^ x >> 16) * 0x85ebca6bu) ^ (second + 0x9e3779b9u * (uint32_t)(index >> 32));
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
  }
};

// The mantissa bits of float32 that a format does not keep, and its largest number.
template <class S> struct Format;
template <> struct Format<BFloat16> {
  static constexpr int DROPPED = 16;
  static constexpr float MOST = 0x1.fep127f;
};
template <> struct Format<Float16> {
  static constexpr int DROPPED = 13;
  static constexpr float MOST = 65504;
};

template <class S> inline void put_rounded(S* p, float x, uint32_t noise) {
  constexpr int dropped = Format<S>::DROPPED;
  const float magnitude = std::fabs(x);
  float y = x;
  if (std::is_same_v<S, Float16> && magnitude < 0x1p-14f) {
    const float scaled = magnitude * 0x1p24f, floor = std::floor(scaled);
    const float needed = (float)((1 << 24) - (int32_t)(noise >> 8));
    y = std::copysign((floor + ((scaled - floor) * 0x1p24f >= needed)) / 0x1p24f, x);
  } else if (magnitude <= Format<S>::MOST) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = (bits + (noise >> (32 - dropped))) & ~((1u << dropped) - 1);
    if constexpr (dropped == 16) {
      const uint16_t half = (uint16_t)(bits >> 16);
      std::memcpy((void*)p, &half, sizeof half);
      return;
    }
    std::memcpy(&y, &bits, sizeof y);
  }
  put(p, y);
}

// bfloat16 is the upper half of float32, so that one entry needs no vector.
inline float widen(const Float16* p) { return get(p); }
inline float widen(const BFloat16* p) {
  uint16_t half;
  std::memcpy(&half, p, sizeof half);
  const uint32_t bits = (uint32_t)half << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

struct Spot { int64_t w = 0, g = 0, m = 0, i = 0; };

// Calls `each` with where the index-th place of a nest of loops lies.
template <class Each> void at_each(const Loops& loops, int64_t begin, int64_t end, Each each) {
  if (loops.count == 1) {  // without divisions, which cost more than all the rest
    for (int64_t k = begin; k < end; ++k)
      each(k, Spot{k * loops.w[0], k * loops.g[0], k * loops.m[0], k * loops.i[0]});
    return;
  }
  for (int64_t index = begin; index < end; ++index) {
    Spot spot;
    for (int64_t d = loops.count - 1, left = index; d >= 0; left /= loops.size[d--]) {
      const int64_t k = left % loops.size[d];
      spot.w += k * loops.w[d];
      spot.g += k * loops.g[d];
      spot.m += k * loops.m[d];
      spot.i += k * loops.i[d];
    }
    each(index, spot);
  }
}

template <class S> int64_t update_rounded(const Work& work, int64_t begin, int64_t end) {
  const Tensor& t = *work.tensor;
  const int64_t n = t.shape->fan_in, row = scratch_row(n);
  const Noise noise(*t.seed, *t.step);
  const Terms terms(work);
  float* own_w = (float*)work.scratch;
  float *own_g = own_w + row, *own_m = t.m ? own_g + row : nullptr;
  int64_t skipped = 0;
  at_each(t.shape->neurons, begin, end, [&](int64_t neuron, const Spot& start) {
    S* w = (S*)work.w + start.w;
    const S* g = (const S*)work.g + start.g;
    float* m = t.m ? (float*)t.m + start.m : nullptr;
    at_each(t.shape->fan_in_loops, 0, n, [&](int64_t k, const Spot& entry) {
      own_w[k] = widen(w + entry.w);
      own_g[k] = widen(g + entry.g);
      if (m) own_m[k] = get(m + entry.m);
    });
    skipped += !(n == 1 ? update_entry(work, neuron_at<float>(work, neuron), own_w, own_g, own_m)
                        : update_row(work, terms, neuron, own_w, own_g, own_m, n));
    at_each(t.shape->fan_in_loops, 0, n, [&](int64_t k, const Spot& entry) {
      put_rounded(w + entry.w, own_w[k], noise.bits(t.shape->offset + start.i + entry.i));
      if (m) put(m + entry.m, own_m[k]);
    });
  });
  return skipped;
}

}  // namespace
}  // namespace NERO_ISA
}  // namespace nero
