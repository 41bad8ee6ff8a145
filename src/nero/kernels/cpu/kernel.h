// What Python hands to the CPU kernel, and what its two halves (kernel.cpp: tensors and threads;
// rows.cpp: arithmetic) share. Every field is 8 bytes, in the order of step.py.
#pragma once
#include <cstdint>

namespace nero {

constexpr int MAX_DIMS = 3;

enum Dtype : int64_t { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
enum Flag : int64_t { CENTER = 1, NORMALIZE = 2, INITIAL = 4, STOCHASTIC = 8 };
enum Nonfinite : int64_t { SKIP, PROPAGATE };

// One nested loop: sizes, and strides in entries of the weight, the gradient and its average; and
// under STOCHASTIC of the entry's row-major index in the parameter, else 0.
struct Loops {
  int64_t count;
  int64_t size[MAX_DIMS], w[MAX_DIMS], g[MAX_DIMS], m[MAX_DIMS], i[MAX_DIMS];
};

// What the kernel needs to know of a tensor but where it lies: tensors that are alike share one.
struct Shape {
  int64_t dtype, flags;
  int64_t offset;       // index of the first entry in the parameter, for its noise
  int64_t neuron_count, fan_in;
  Loops neurons, fan_in_loops;
};

// A parameter, its gradient and its state. State is float (double for double).
struct Tensor {
  const Shape* shape;
  void* w;
  const void* g;
  void* m;              // the running average of the gradient, or null
  void* rms;            // one per neuron, contiguous in the order of `neurons`
  float* step;          // the parameter's own count of steps; incremented
  const void* scale;    // what stands for the radius where a neuron has none
  const void* radius;   // one per neuron, under INITIAL
  const int64_t* seed;  // of the noise, under STOCHASTIC
};
constexpr int64_t FIELDS = sizeof(Tensor) / sizeof(uint64_t);

// The hyperparameters of a group.
struct Group {
  double lr;  // negative to ascend
  double beta, momentum, radius;
  int64_t nonfinite;
  double max_turn;  // in multiples of lr; infinite for no cap
};

// Some neurons of one tensor, at one step.
struct Work {
  const Tensor* tensor;
  const Group* group;
  void* w;
  const void* g;
  double root_beta, root_rest;     // sqrt(beta), sqrt(1 - beta)
  double debias_m;                 // 1 - momentum^t
  double rate;                     // lr sqrt(1 - beta^t) / (1 - momentum^t)
  double limit;                    // the longest step of a neuron of norm 1; infinite for no cap
  void* scratch;                   // gathered neurons, see scratch_row
  int64_t scratch_neurons;         // how many fit into it; 0 where neurons are rows in memory
};

// Updates neurons begin to end; returns how many were skipped because of their gradient.
using Update = int64_t (*)(const Work&, int64_t begin, int64_t end);

#define NERO_INSTRUCTION_SETS(X) X(baseline) X(avx2) X(avx512)
#define NERO_DECLARE(name) \
  namespace name { int64_t update(const Work&, int64_t begin, int64_t end); }
NERO_INSTRUCTION_SETS(NERO_DECLARE)
#undef NERO_DECLARE

// A scratch row is a little longer than a neuron, so that rows of 2^k entries do not share the
// same few cache lines.
inline int64_t scratch_row(int64_t fan_in) { return (fan_in + 31) / 16 * 16 + 16; }

}  // namespace nero
