// PASS: phases over elements. Micro-operations are interpreted; a lane looks at each once for kBatch elements.
//
// A phase is walked once for each store that reduces, then once for all plain stores: so nothing that is read is written
// over before. A reduction with few results is cut into interleaved segments whose number depends on shapes only; their
// results meet in order.
#pragma once
#include "elementwise.cuh"
#include "words.cuh"

namespace fastmeta {
namespace device {

constexpr int kBatch = 4;
constexpr int64_t kUnitElements = kTeamLanes * kBatch;
constexpr int64_t kSegmentLeast = 16;  // elements of a segment that is worth being one
constexpr int kMostRegisters = 32, kMostStores = 32, kMostOps = 256;

union Word {
  float f;
  double d;
  int32_t i;
};

struct PhaseWords {
  const int64_t *dims, *loads, *ops, *stores, *end;
  int rank, n_loads, n_ops, n_stores, stride;  // stride: words of an operand

  FM_BOTH explicit PhaseWords(const int64_t* at) {
    rank = int(at[1]);
    stride = 3 + rank;
    dims = at + 2;
    n_loads = int(dims[rank]);
    loads = dims + rank + 1;
    const int64_t* next = loads + n_loads * stride;
    n_ops = int(next[0]);
    ops = ++next;
    for (int k = 0; k < n_ops; ++k) next += 4 + next[3];
    n_stores = int(next[0]);
    stores = next + 1;
    end = stores + n_stores * (2 + stride);
  }
  FM_BOTH const int64_t* store(int s) const { return stores + s * (2 + stride); }
  FM_BOTH int64_t mode(int s) const { return store(s)[1]; }
  FM_BOTH const int64_t* target(int s) const { return store(s) + 2; }
  FM_BOTH const int64_t* operand(int k) const { return k < n_loads ? loads + k * stride : target(k - n_loads); }
};

// The dims of a phase without those of length 1, neighbours merged where every operand allows it.
struct Space {
  int rank = 0;
  int64_t size[kMostDims];
  int dim[kMostDims];  // whose stride counts

  FM_BOTH explicit Space(const PhaseWords& p) {
    for (int d = 0; d < p.rank; ++d) {
      if (p.dims[d] == 1) continue;
      if (rank > 0 && one(p, dim[rank - 1], d)) {
        size[rank - 1] *= p.dims[d];
        dim[rank - 1] = d;
      } else {
        size[rank] = p.dims[d];
        dim[rank++] = d;
      }
    }
  }
  FM_BOTH static bool one(const PhaseWords& p, int outer, int inner) {
    for (int k = 0; k < p.n_loads + p.n_stores; ++k) {
      const int64_t* strides = p.operand(k) + 3;
      if (strides[outer] != strides[inner] * p.dims[inner]) return false;
    }
    return true;
  }
  FM_BOTH int64_t elements() const {
    int64_t n = 1;
    for (int d = 0; d < rank; ++d) n *= size[d];
    return n;
  }
};

// What a reducing store makes of a space: results, elements of each, segments that these are cut into.
struct Reduction {
  int64_t kept = 1, reduced = 1, segments = 1;
  bool inner = false;  // the last dim is reduced

  FM_BOTH Reduction(const Space& space, const int64_t* target) {
    for (int d = 0; d < space.rank; ++d) {
      inner = target[3 + space.dim[d]] == 0;
      (inner ? reduced : kept) *= space.size[d];
    }
    if (kept > 0) segments = most(1, least(kPartials / kept, parts_of(reduced, kSegmentLeast)));
  }
};

struct Point {
  int64_t at[kBatch][kMostDims];
};

// Where element `flat`, counted over all dims, stands.
FM_DEVICE void locate(const Space& space, int64_t flat, int64_t* at) {
  for (int d = space.rank - 1; d > 0; --d) at[d] = split(flat, space.size[d]);
  at[0] = flat;
}

// The same for number `kept` of the dims that `target` keeps and `reduced` of the others.
FM_DEVICE void locate(const Space& space, const int64_t* target, int64_t kept, int64_t reduced, int64_t* at) {
  for (int d = space.rank - 1; d >= 0; --d) at[d] = split(target[3 + space.dim[d]] == 0 ? reduced : kept, most(1, space.size[d]));  // an empty dim is reduced
}

FM_DEVICE char* element(const Frame& frame, const Space& space, const int64_t* operand, const int64_t* at) {
  int64_t offset = 0;
  for (int d = 0; d < space.rank; ++d) offset += at[d] * operand[3 + space.dim[d]];
  return address(frame, operand) + offset * item_bytes(operand[2]);
}

FM_DEVICE Word read_word(const char* from, int64_t type) {
  Word w;
  if (type == kF32) w.f = *reinterpret_cast<const float*>(from);
  else if (type == kF64) w.d = *reinterpret_cast<const double*>(from);
  else if (type == kI32) w.i = *reinterpret_cast<const int32_t*>(from);
  else w.i = *reinterpret_cast<const uint8_t*>(from);
  return w;
}

FM_DEVICE void write_word(char* to, int64_t type, Word w) {
  if (type == kF32) *reinterpret_cast<float*>(to) = w.f;
  else if (type == kF64) *reinterpret_cast<double*>(to) = w.d;
  else if (type == kI32) *reinterpret_cast<int32_t*>(to) = w.i;
  else *reinterpret_cast<uint8_t*>(to) = uint8_t(w.i);
}

// Numbers to integers are cut off, anything to bool is != 0.
FM_DEVICE Word cast_word(Word x, int64_t from, int64_t to) {
  Word out;
  if (to == kBool) out.i = from == kF32 ? x.f != 0 : from == kF64 ? x.d != 0 : x.i != 0;
  else if (to == kF32) out.f = from == kF32 ? x.f : from == kF64 ? float(x.d) : float(x.i);
  else if (to == kF64) out.d = from == kF32 ? double(x.f) : from == kF64 ? x.d : double(x.i);
  else out.i = from == kF32 ? int32_t(x.f) : from == kF64 ? int32_t(x.d) : x.i;
  return out;
}

template <class T> FM_DEVICE T& as(Word& w);
template <> FM_DEVICE float& as<float>(Word& w) { return w.f; }
template <> FM_DEVICE double& as<double>(Word& w) { return w.d; }
template <> FM_DEVICE int32_t& as<int32_t>(Word& w) { return w.i; }

template <class T> FM_NOINLINE void apply_op(int op, Word (&out)[kBatch], Word (&x)[kBatch], Word (&y)[kBatch], Word (&z)[kBatch]) {
  T a[kBatch], b[kBatch], c[kBatch], o[kBatch];
  FM_UNROLL for (int e = 0; e < kBatch; ++e) a[e] = as<T>(x[e]), b[e] = as<T>(y[e]), c[e] = as<T>(z[e]);
  micro_op<T, kBatch>(op, o, a, b, c);
  FM_UNROLL for (int e = 0; e < kBatch; ++e) as<T>(out[e]) = o[e];
}

// The values of a phase at the elements of one lane.
struct Values {
  Word value[kMostRegisters + kMostStores][kBatch];  // by register; then what goes straight to a store
  uint8_t slot[kMostOps];                            // by micro-op

  FM_DEVICE void get(const Frame& frame, const PhaseWords& p, const Space& space, const Point& point, int64_t id, Word (&out)[kBatch]) const {
    if (id >= p.n_loads) {
      const Word* from = value[slot[id - p.n_loads]];
      FM_UNROLL for (int e = 0; e < kBatch; ++e) out[e] = from[e];
    } else {
      const int64_t* operand = p.loads + id * p.stride;
      FM_UNROLL for (int e = 0; e < kBatch; ++e) out[e] = read_word(element(frame, space, operand, point.at[e]), operand[2]);
    }
  }
  FM_NOINLINE void compute(const Frame& frame, const PhaseWords& p, const Space& space, const Point& point) {
    const int64_t* op = p.ops;
    for (int k = 0; k < p.n_ops; ++k, op += 4 + op[3]) {
      Word x[kBatch] = {}, y[kBatch] = {}, z[kBatch] = {};
      const int to = int(op[2] >= 0 ? op[2] : kMostRegisters - 1 - op[2]);
      get(frame, p, space, point, op[4], x);
      if (op[0] == kCastOp) {
        FM_UNROLL for (int e = 0; e < kBatch; ++e) value[to][e] = cast_word(x[e], op[5], op[1]);
      } else {
        if (op[3] > 1) get(frame, p, space, point, op[5], y);
        if (op[3] > 2) get(frame, p, space, point, op[6], z);
        if (op[1] == kF32) apply_op<float>(int(op[0]), value[to], x, y, z);
        else if (op[1] == kF64) apply_op<double>(int(op[0]), value[to], x, y, z);
        else apply_op<int32_t>(int(op[0]), value[to], x, y, z);
      }
      slot[k] = uint8_t(to);
    }
  }
};

template <class T> FM_DEVICE T combine(int64_t mode, T x, T y) { return mode == kMaxMode ? max(x, y) : mode == kMinMode ? min(x, y) : add(x, y); }

FM_DEVICE Word combine_words(int64_t mode, int64_t type, Word x, Word y) {
  if (type == kF32) x.f = combine(mode, x.f, y.f);
  else if (type == kF64) x.d = combine(mode, x.d, y.d);
  else x.i = combine(mode, x.i, y.i);
  return x;
}

FM_DEVICE Word identity(int64_t mode, int64_t type) {
  Word w;
  w.d = 0;
  if (mode != kMaxMode && mode != kMinMode) return w;
  const double infinity = 1e308 * 10;
  if (type == kF32) w.f = float(mode == kMaxMode ? -infinity : infinity);
  else if (type == kF64) w.d = mode == kMaxMode ? -infinity : infinity;
  else w.i = mode == kMaxMode ? -2147483647 - 1 : 2147483647;
  return w;
}

// Plain stores of kUnitElements elements.
FM_NOINLINE void store_unit(const Team& team, const Frame& frame, const int64_t* words, int64_t unit) {
  const PhaseWords p(words);
  const Space space(p);
  const int64_t total = space.elements(), first = unit * kUnitElements, end = least(total, first + kUnitElements);
  for (int64_t start = first + team.lane; start < end; start += int64_t(kBatch) * team.lanes) {
    Point point;
    int n = 0;
    for (int e = 0; e < kBatch; ++e) {
      const int64_t flat = start + int64_t(e) * team.lanes;
      locate(space, flat < end ? flat : start, point.at[e]);
      n += flat < end;
    }
    Values values;
    values.compute(frame, p, space, point);
    for (int s = 0; s < p.n_stores; ++s) {
      if (p.mode(s) != kStoreMode) continue;
      const int64_t* target = p.target(s);
      Word out[kBatch];
      values.get(frame, p, space, point, p.store(s)[0], out);
      for (int e = 0; e < n; ++e) write_word(element(frame, space, target, point.at[e]), target[2], out[e]);
    }
  }
}

// Sums of floats are held as doubles: a long chain of float additions would lose digits.
FM_DEVICE int64_t held_type(int64_t mode, int64_t type) { return type == kF32 && mode != kMaxMode && mode != kMinMode ? int64_t(kF64) : type; }

FM_DEVICE void settle(const Frame& frame, const Space& space, const int64_t* target, int64_t mode, int64_t kept, Word value) {
  int64_t at[kMostDims];
  locate(space, target, kept, 0, at);
  char* to = element(frame, space, target, at);
  value = cast_word(value, held_type(mode, target[2]), target[2]);
  if (mode == kAccumulateMode) value = combine_words(kSumMode, target[2], read_word(to, target[2]), value);
  write_word(to, target[2], value);
}

// Segments of the results of one reducing store: kTeamLanes of them.
FM_NOINLINE void reduce_unit(const Team& team, const Frame& frame, const int64_t* words, int store, int64_t unit) {
  const PhaseWords p(words);
  const Space space(p);
  const int64_t *target = p.target(store), mode = p.mode(store), held = held_type(mode, target[2]);
  const Reduction r(space, target);
  const int64_t end = least(r.kept * r.segments, (unit + 1) * kTeamLanes);
  for (int64_t id = unit * kTeamLanes + team.lane; id < end; id += team.lanes) {
    // Neighbouring lanes read neighbouring memory: along the segments where the last dim is reduced.
    int64_t kept = id, segment;
    if (r.inner) segment = split(kept, r.segments);
    else {
      segment = id;
      kept = split(segment, r.kept);
    }
    Word sum = identity(mode, held);
    for (int64_t k = segment; k < r.reduced; k += kBatch * r.segments) {
      Point point;
      int n = 0;
      for (int e = 0; e < kBatch; ++e) {
        const int64_t at = k + e * r.segments;
        locate(space, target, kept, at < r.reduced ? at : k, point.at[e]);
        n += at < r.reduced;
      }
      Values values;
      values.compute(frame, p, space, point);
      Word x[kBatch];
      values.get(frame, p, space, point, p.store(store)[0], x);
      for (int e = 0; e < n; ++e) sum = combine_words(mode, held, sum, cast_word(x[e], target[2], held));
    }
    if (r.segments == 1) settle(frame, space, target, mode, kept, sum);
    else reinterpret_cast<Word*>(frame.partials)[segment * r.kept + kept] = sum;
  }
}

FM_NOINLINE void combine_unit(const Team& team, const Frame& frame, const int64_t* words, int store, int64_t unit) {
  const PhaseWords p(words);
  const Space space(p);
  const int64_t *target = p.target(store), mode = p.mode(store), held = held_type(mode, target[2]);
  const Reduction r(space, target);
  const int64_t end = least(r.kept, (unit + 1) * kTeamLanes);
  for (int64_t kept = unit * kTeamLanes + team.lane; kept < end; kept += team.lanes) {
    const Word* from = reinterpret_cast<const Word*>(frame.partials) + kept;
    Word sum = from[0];
    for (int64_t s = 1; s < r.segments; ++s) sum = combine_words(mode, held, sum, from[s * r.kept]);
    settle(frame, space, target, mode, kept, sum);
  }
}

}  // namespace device
}  // namespace fastmeta
