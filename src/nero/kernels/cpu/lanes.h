// Blocks of lanes in one instruction set: vectors, loads and stores of every dtype, sums of lanes.
#pragma once
#include "kernel.h"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#ifndef NERO_ISA
#define NERO_ISA baseline
#endif
#ifndef __has_builtin
#define __has_builtin(x) 0
#endif
// What lies between a row's last load and its first store has to stay in registers.
#define NERO_INLINE inline __attribute__((always_inline))
#if defined(__AVX512F__)
#include <immintrin.h>
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

// Rows of bfloat16 are loaded a whole vector at a time: entries 2i and 2i + 1 are the two
// halves of word i. A shift and a mask part them, which is cheaper than widening each entry.
inline Floats even_of(Words pairs) { return (Floats)(pairs << 16); }
inline Floats odd_of(Words pairs) { return (Floats)(pairs & 0xffff0000u); }

// The same rounding as `store`, for numbers that come of finite ones: what NaN there is among them
// is the processor's own, which the addition leaves a NaN.
inline Words pairs_of(Floats even, Floats odd) {
  Words e = (Words)even, o = (Words)odd;
  e = (e + (((e >> 16) & 1u) + 0x7fffu)) >> 16;
  o = (o + (((o >> 16) & 1u) + 0x7fffu)) & 0xffff0000u;
  return e | o;
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
    store(padded, x - typename Lanes<S>::Vector{});  // adding to zero would lose the sign of -0
    std::memcpy(p, padded, sizeof(S));
  } else {
    std::memcpy(p, &x, sizeof x);
  }
}

// The last entries of a neuron, fewer than a block, with zeros after them.
template <class S, int64_t BLOCK_SIZE> struct Tail {
  S entries[BLOCK_SIZE] = {};
  Tail(const S* p, int64_t n) { std::memcpy((void*)entries, (const void*)p, n * sizeof(S)); }
};

// ---- sums of lanes, in double and in a fixed order: entry i and entry i + half, halving ------

typedef double Quads __attribute__((vector_size(32)));
typedef double Pairs __attribute__((vector_size(16)));
typedef float HalfFloats __attribute__((vector_size(VECTOR / 2)));

// Entries of a vector from `FROM` on. A shuffle stays in registers, where a copy does not.
template <class Half, size_t FROM, class V, size_t... I>
inline Half part(const V& x, std::index_sequence<I...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(x, x, (FROM + I)...);
#else
  return Half{x[FROM + I]...};
#endif
}

template <class Half> constexpr size_t COUNT = sizeof(Half) / sizeof(Half{}[0]);

template <class Half, class V> inline Half low(const V& x) {
  return part<Half, 0>(x, std::make_index_sequence<COUNT<Half>>());
}

template <class Half, class V> inline Half high(const V& x) {
  return part<Half, COUNT<Half>>(x, std::make_index_sequence<COUNT<Half>>());
}

NERO_INLINE Doubles widened(HalfFloats x) {
#if defined(__AVX512F__)
  return (Doubles)_mm512_cvtps_pd((__m256)x);  // GCC 12 makes five instructions of what follows
#else
  return __builtin_convertvector(x, Doubles);
#endif
}

// Lanes in double, folded to eight.
constexpr int FOLDED = 8;

NERO_INLINE void fold(const Doubles (&lanes)[PARTS], Doubles (&out)[PARTS]) {
  for (int k = 0; k < PARTS; ++k) out[k] = lanes[k];
}

NERO_INLINE void fold(const Floats (&lanes)[PARTS], Doubles (&out)[PARTS]) {
  Doubles wide[2 * PARTS];
  for (int k = 0; k < PARTS; ++k) {
    wide[2 * k] = widened(low<HalfFloats>(lanes[k]));
    wide[2 * k + 1] = widened(high<HalfFloats>(lanes[k]));
  }
  for (int k = 0; k < PARTS; ++k) out[k] = wide[k] + wide[k + PARTS];
}

NERO_INLINE double across(Pairs x) { return x[0] + x[1]; }
#if defined(__AVX2__)
NERO_INLINE double across(Quads x) { return across(low<Pairs>(x) + high<Pairs>(x)); }
#endif
#if defined(__AVX512F__)
NERO_INLINE double across(Doubles x) { return across(low<Quads>(x) + high<Quads>(x)); }
#endif

template <class V> NERO_INLINE double total(const V (&lanes)[PARTS]) {
  Doubles sums[PARTS];
  fold(lanes, sums);
  for (int half = PARTS / 2; half; half /= 2)
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  return across(sums[0]);
}

typedef double Octet __attribute__((vector_size(64)));

#if __has_builtin(__builtin_shufflevector)
#define NERO_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int64_t OctetIndex __attribute__((vector_size(64)));
#define NERO_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, OctetIndex{__VA_ARGS__})
#endif

// The totals of eight folded sums at once, each added up as `total` does.
inline void totals(const double (&folded)[8][FOLDED], double* out) {
  Octet fours[4], twos[2];
  for (int k = 0; k < 4; ++k) {
    Octet a = bits_as<Octet>(folded[2 * k]), b = bits_as<Octet>(folded[2 * k + 1]);
    fours[k] = NERO_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
               NERO_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int k = 0; k < 2; ++k) {
    Octet a = fours[2 * k], b = fours[2 * k + 1];
    twos[k] = NERO_SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13) +
              NERO_SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
  }
  Octet ones = NERO_SHUFFLE(twos[0], twos[1], 0, 2, 4, 6, 8, 10, 12, 14) +
               NERO_SHUFFLE(twos[0], twos[1], 1, 3, 5, 7, 9, 11, 13, 15);
  std::memcpy(out, &ones, sizeof ones);
}

}  // namespace
}  // namespace NERO_ISA
}  // namespace nero
