// GATHER, SCATTER, CUMSUM, ARGREDUCE and ORDER. Indices are all looked at before any is used.
#pragma once
#include "math.cuh"
#include "words.cuh"

namespace fastmeta {
namespace device {

constexpr int64_t kIndexUnit = kTeamLanes;
constexpr int64_t kFewColumns = 64, kSmallScan = int64_t{1} << 22;

// GATHER and SCATTER: dtype, O, N, J, I, then three operands of rank 3, and SCATTER's flag; CUMSUM and ARGREDUCE: dtype, O, N, I, flag, operands.
struct IndexWords {
  int type;
  int64_t o, n, j, i;
  bool flag;  // reverse, or the smallest, or to add to what is there
  const int64_t *first, *second, *third;

  FM_BOTH explicit IndexWords(const int64_t* instr) {
    const bool indexed = instr[0] == kGather || instr[0] == kScatter;
    type = int(instr[3]);
    o = instr[4], n = instr[5];
    j = indexed ? instr[6] : 1;
    i = indexed ? instr[7] : instr[6];
    first = instr + 8;
    second = first + 6;
    third = second + 6;
    flag = instr[0] == kScatter ? third[6] != 0 : !indexed && instr[7] != 0;
  }
  FM_BOTH int64_t indices() const { return o * j * i; }
  FM_BOTH int64_t columns() const { return o * i; }
  // Few columns: every target looks through all indices for its own, instead of one lane going down each column.
  FM_BOTH bool by_target() const { return columns() < kFewColumns && n * j <= kSmallScan; }
};

template <class T = char> FM_DEVICE T* at3(const Frame& frame, const int64_t* operand, int64_t x, int64_t y, int64_t z) {
  return reinterpret_cast<T*>(address(frame, operand) + (x * operand[3] + y * operand[4] + z * operand[5]) * item_bytes(operand[2]));
}

FM_DEVICE int32_t index_at(const Frame& frame, const IndexWords& w, int64_t o, int64_t j, int64_t i) { return *at3<const int32_t>(frame, w.second, o, j, i); }

FM_NOINLINE void check_unit(const Team& team, const Frame& frame, const int64_t* instr, int64_t unit) {
  const IndexWords w(instr);
  const int64_t end = least(w.indices(), (unit + 1) * kIndexUnit);
  for (int64_t flat = unit * kIndexUnit + team.lane; flat < end; flat += team.lanes) {
    int64_t o = flat;
    const int64_t i = split(o, w.i), j = split(o, w.j);
    const int32_t n = index_at(frame, w, o, j, i);
    if (n < 0 || n >= w.n) atomic_most(&frame.status->first, ~(unsigned long long)flat);
  }
}

// The first bad index ends the task; of all tasks that this frame ran the smallest is told.
FM_DEVICE void end_at_bad_index(const Team& team, const Frame& frame, const int64_t* instr) {
  Status& status = *frame.status;
  if (team.lane != 0 || status.first == 0) return;
  const IndexWords w(instr);
  int64_t o = int64_t(~status.first);
  const int64_t i = split(o, w.i), j = split(o, w.j);
  status.first = 0;
  status.ended = 1;
  if (status.recorded && status.task <= frame.task) return;
  status.recorded = 1;
  status.tag = instr[2];
  status.task = frame.task;
  status.index = index_at(frame, w, o, j, i);
  status.bound = w.n;
}

FM_NOINLINE void gather_unit(const Team& team, const Frame& frame, const int64_t* instr, int64_t unit) {
  const IndexWords w(instr);
  const int64_t end = least(w.indices(), (unit + 1) * kIndexUnit);
  for (int64_t flat = unit * kIndexUnit + team.lane; flat < end; flat += team.lanes) {
    int64_t o = flat;
    const int64_t i = split(o, w.i), j = split(o, w.j);
    const char* from = at3(frame, w.first, o, index_at(frame, w, o, j, i), i);
    char* to = at3(frame, w.third, o, j, i);
    if (w.type == kF64) *reinterpret_cast<uint64_t*>(to) = *reinterpret_cast<const uint64_t*>(from);
    else if (w.type == kBool) *reinterpret_cast<uint8_t*>(to) = *reinterpret_cast<const uint8_t*>(from);
    else *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
  }
}

template <class T> FM_DEVICE void scatter_target(const Frame& frame, const IndexWords& w, int64_t flat) {
  int64_t o = flat;
  const int64_t i = split(o, w.i), n = split(o, w.n);
  T sum = w.flag ? *at3<T>(frame, w.third, o, n, i) : T(0);
  for (int64_t j = 0; j < w.j; ++j)
    if (index_at(frame, w, o, j, i) == n) sum = add(sum, *at3<const T>(frame, w.first, o, j, i));
  *at3<T>(frame, w.third, o, n, i) = sum;
}

template <class T> FM_DEVICE void scatter_column(const Frame& frame, const IndexWords& w, int64_t flat) {
  int64_t o = flat;
  const int64_t i = split(o, w.i);
  for (int64_t n = 0; n < w.n && !w.flag; ++n) *at3<T>(frame, w.third, o, n, i) = T(0);
  for (int64_t j = 0; j < w.j; ++j) {
    T* to = at3<T>(frame, w.third, o, index_at(frame, w, o, j, i), i);
    *to = add(*to, *at3<const T>(frame, w.first, o, j, i));
  }
}

template <class T> FM_DEVICE void cumsum_column(const Frame& frame, const IndexWords& w, int64_t flat) {
  int64_t o = flat;
  const int64_t i = split(o, w.i);
  T sum = T(0);
  for (int64_t k = 0; k < w.n; ++k) {
    const int64_t n = w.flag ? w.n - 1 - k : k;
    const T x = *at3<const T>(frame, w.first, o, n, i);
    sum = k == 0 ? x : add(sum, x);
    *at3<T>(frame, w.second, o, n, i) = sum;
  }
}

template <class T> FM_DEVICE void argreduce_column(const Frame& frame, const IndexWords& w, int64_t flat) {
  int64_t o = flat;
  const int64_t i = split(o, w.i);
  T best = *at3<const T>(frame, w.first, o, 0, i);
  int32_t where = 0;
  for (int64_t n = 1; n < w.n && best == best; ++n) {  // the first NaN ends it
    const T x = *at3<const T>(frame, w.first, o, n, i);
    if (x != x || (w.flag ? x < best : x > best)) best = x, where = int32_t(n);
  }
  *reinterpret_cast<int32_t*>(address(frame, w.second) + (o * w.second[3] + i * w.second[4]) * 4) = where;
}

template <class T> FM_DEVICE void column(const Frame& frame, const int64_t* instr, const IndexWords& w, int64_t flat) {
  if (instr[0] == kCumsum) cumsum_column<T>(frame, w, flat);
  else if (instr[0] == kArgReduce) argreduce_column<T>(frame, w, flat);
  else if (w.by_target()) scatter_target<T>(frame, w, flat);
  else scatter_column<T>(frame, w, flat);
}

FM_BOTH int64_t column_count(const int64_t* instr) {
  const IndexWords w(instr);
  return instr[0] == kScatter && w.by_target() ? w.o * w.n * w.i : w.columns();
}

// SCATTER, CUMSUM and ARGREDUCE: kIndexUnit columns, or targets.
FM_NOINLINE void column_unit(const Team& team, const Frame& frame, const int64_t* instr, int64_t unit) {
  const IndexWords w(instr);
  const int64_t end = least(column_count(instr), (unit + 1) * kIndexUnit);
  for (int64_t flat = unit * kIndexUnit + team.lane; flat < end; flat += team.lanes) {
    if (w.type == kF32) column<float>(frame, instr, w, flat);
    else if (w.type == kF64) column<double>(frame, instr, w, flat);
    else column<int32_t>(frame, instr, w, flat);
  }
}

// ORDER: dtype, O, N, I, K, descending, X, OUT
struct OrderWords {
  int type;
  int64_t o, n, i, k;
  bool descending;
  const int64_t *x, *out;
  FM_BOTH explicit OrderWords(const int64_t* instr)
      : type(int(instr[3])), o(instr[4]), n(instr[5]), i(instr[6]), k(instr[7]), descending(instr[8] != 0), x(instr + 9), out(instr + 15) {}
  FM_BOTH int64_t elements() const { return k > 0 ? o * n * i : 0; }
};

// Whether x at index m stands before y at index n: NaN is last, of equal values the first index is first.
template <class T> FM_DEVICE bool before(T x, int64_t m, T y, int64_t n, bool descending) {
  if (x != x || y != y) return x == x || (y != y && m < n);
  return x == y ? m < n : descending ? x > y : x < y;
}

// Every element counts those before it, and so knows its place: no lane waits for another.
template <class T> FM_DEVICE void place_in_order(const Frame& frame, const OrderWords& w, int64_t flat) {
  int64_t o = flat, rank = 0;
  const int64_t i = split(o, w.i), n = split(o, w.n);
  const T x = *at3<const T>(frame, w.x, o, n, i);
  for (int64_t m = 0; m < w.n && rank < w.k; ++m) rank += before(*at3<const T>(frame, w.x, o, m, i), m, x, n, w.descending);
  if (rank < w.k) *at3<int32_t>(frame, w.out, o, rank, i) = int32_t(n);
}

FM_NOINLINE void order_unit(const Team& team, const Frame& frame, const int64_t* instr, int64_t unit) {
  const OrderWords w(instr);
  const int64_t end = least(w.elements(), (unit + 1) * kIndexUnit);
  for (int64_t flat = unit * kIndexUnit + team.lane; flat < end; flat += team.lanes) {
    if (w.type == kF32) place_in_order<float>(frame, w, flat);
    else if (w.type == kF64) place_in_order<double>(frame, w, flat);
    else place_in_order<int32_t>(frame, w, flat);
  }
}

}  // namespace device
}  // namespace fastmeta
