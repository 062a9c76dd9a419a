#include "index.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

namespace fastmeta {

namespace {

constexpr int64_t kPollElements = 1 << 14;

template <class T>
T& at(char* p) { return *reinterpret_cast<T*>(p); }

template <class T>
T add(T x, T y) {
  if constexpr (std::is_same_v<T, int32_t>) return int32_t(uint32_t(x) + uint32_t(y));  // wraps
  else return x + y;
}

// Counts elements and looks whether to stop every kPollElements.
class Patience {
 public:
  explicit Patience(Worker& worker) : worker_(worker) {}
  bool ended(int64_t elements) {
    left_ -= elements;
    if (left_ > 0) return false;
    left_ = kPollElements;
    worker_.poll();
    return worker_.stopped();
  }

 private:
  Worker& worker_;
  int64_t left_ = kPollElements;
};

void record_bad(Worker& worker, int tag, int64_t index, int64_t bound) {
  worker.failed = true;
  worker.call->record({tag, worker.task, index, bound});
}

// Rows for all of `count` indices, stopping now and then to look whether to end; false where it ended.
bool all_rows(Worker& worker, int tag, RowsFn rows, RowsArgs args, int64_t count) {
  Patience patience(worker);
  const int64_t some = std::max<int64_t>(1, kPollElements / args.cols);
  for (int64_t first = 0; first < count; first += some) {
    args.count = std::min(some, count - first);
    const int64_t done = rows(args);
    args.index += done * args.index_step;
    args.rows += done * args.row;
    if (done < args.count) {
      int32_t n;
      std::memcpy(&n, args.index, sizeof n);
      record_bad(worker, tag, n, args.n);
      return false;
    }
    if (patience.ended(args.count * args.cols)) return false;
  }
  return true;
}

}  // namespace

Strided::Strided(const Operand& operand, int rank, const int64_t* dims) : base(operand.base), offset(operand.offset) {
  for (int d = 0; d < rank; ++d)  // a stride that is never taken may be anything
    stride[d] = dims[d] > 1 ? int64_t(uint64_t(operand.stride[d]) * uint64_t(item_size(operand.dtype))) : 0;
}

Gather::Gather(int tag, const GatherSpec& spec, const Kernels& kernels) : Instruction(tag), o_(spec.o), n_(spec.n), j_(spec.j), i_(spec.i), item_(item_size(spec.dtype)) {
  const int64_t whole[] = {o_, n_, i_}, picked[] = {o_, j_, i_};
  x_ = Strided(spec.x, 3, whole);
  index_ = Strided(spec.index, 3, picked);
  out_ = Strided(spec.out, 3, picked);
  if (i_ > 1 && index_.stride[2] == 0 && x_.stride[2] == item_ && out_.stride[2] == item_ && item_ > 1) rows_ = kernels.gather_rows[item_ == 8];
}

void Gather::run(Worker& worker) const {
  if (o_ == 0 || j_ == 0 || i_ == 0) return;
  if (rows_) {
    for (int64_t o = 0; o < o_; ++o) {
      const RowsArgs args{x_.at(worker) + o * x_.stride[0], index_.at(worker) + o * index_.stride[0], out_.at(worker) + o * out_.stride[0], n_, 0, i_, x_.stride[1], index_.stride[1], out_.stride[1]};
      if (!all_rows(worker, tag, rows_, args, j_)) return;
    }
    return;
  }
  if (item_ == 8) run_typed<uint64_t>(worker);
  else if (item_ == 4) run_typed<uint32_t>(worker);
  else run_typed<uint8_t>(worker);
}

template <class T>
void Gather::run_typed(Worker& worker) const {
  if (i_ == 1) return run_single<T>(worker);
  Patience patience(worker);
  const bool rows = sizeof(T) == 1 && index_.stride[2] == 0 && x_.stride[2] == 1 && out_.stride[2] == 1;  // of bools
  for (int64_t o = 0; o < o_; ++o)
    for (int64_t j = 0; j < j_; ++j) {
      const char* x = x_.at(worker) + o * x_.stride[0];
      const char* index = index_.at(worker) + o * index_.stride[0] + j * index_.stride[1];
      char* out = out_.at(worker) + o * out_.stride[0] + j * out_.stride[1];
      for (int64_t i = 0; i < (rows ? 1 : i_); ++i) {
        int32_t n;
        std::memcpy(&n, index + i * index_.stride[2], sizeof n);
        if (n < 0 || n >= n_) return record_bad(worker, tag, n, n_);
        std::memmove(out + i * out_.stride[2], x + n * x_.stride[1] + i * x_.stride[2], size_t(rows ? i_ : 1) * sizeof(T));
      }
      if (patience.ended(i_)) return;
    }
}

// Single elements, whose moving costs less than the bookkeeping above.
template <class T>
void Gather::run_single(Worker& worker) const {
  Patience patience(worker);
  for (int64_t o = 0; o < o_; ++o) {
    const char* x = x_.at(worker) + o * x_.stride[0];
    const char* index = index_.at(worker) + o * index_.stride[0];
    char* out = out_.at(worker) + o * out_.stride[0];
    for (int64_t first = 0; first < j_; first += kPollElements) {
      const int64_t last = std::min(j_, first + kPollElements);
      for (int64_t j = first; j < last; ++j, index += index_.stride[1], out += out_.stride[1]) {
        int32_t n;
        std::memcpy(&n, index, sizeof n);
        if (n < 0 || n >= n_) return record_bad(worker, tag, n, n_);
        std::memcpy(out, x + n * x_.stride[1], sizeof(T));
      }
      if (patience.ended(last - first)) return;
    }
  }
}

Scatter::Scatter(int tag, const ScatterSpec& spec, const Kernels& kernels) : Instruction(tag), dtype_(spec.dtype), o_(spec.o), n_(spec.n), j_(spec.j), i_(spec.i), item_(item_size(spec.dtype)), adds_(spec.adds) {
  const int64_t whole[] = {o_, n_, i_}, picked[] = {o_, j_, i_};
  ct_ = Strided(spec.ct, 3, picked);
  index_ = Strided(spec.index, 3, picked);
  out_ = Strided(spec.out, 3, whole);
  if (i_ > 1 && index_.stride[2] == 0 && ct_.stride[2] == item_ && out_.stride[2] == item_) rows_ = kernels.scatter_rows[dtype_];
}

// The result before anything is added; false where the call was stopped.
bool Scatter::zero(Worker& worker) const {
  Patience patience(worker);
  const bool dense = i_ == 1 || out_.stride[2] == item_;
  const int64_t some = dense && out_.stride[1] == i_ * item_ ? std::max<int64_t>(1, kPollElements / i_) : 1;  // rows that lie side by side
  for (int64_t o = 0; o < o_; ++o)
    for (int64_t n = 0; n < n_; n += some) {
      char* out = out_.at(worker) + o * out_.stride[0] + n * out_.stride[1];
      const int64_t elements = std::min(some, n_ - n) * i_;
      if (dense) std::memset(out, 0, size_t(elements * item_));
      else
        for (int64_t i = 0; i < i_; ++i) std::memset(out + i * out_.stride[2], 0, size_t(item_));
      if (patience.ended(elements)) return false;
    }
  return true;
}

void Scatter::run(Worker& worker) const {
  if (o_ == 0 || i_ == 0 || n_ == 0) {
    if (o_ > 0 && i_ > 0 && j_ > 0) {  // every index is wrong
      int32_t n;
      std::memcpy(&n, index_.at(worker), sizeof n);
      record_bad(worker, tag, n, 0);
    }
    return;
  }
  if (!adds_ && !zero(worker)) return;
  if (rows_) {
    for (int64_t o = 0; o < o_; ++o) {
      const RowsArgs args{out_.at(worker) + o * out_.stride[0], index_.at(worker) + o * index_.stride[0], ct_.at(worker) + o * ct_.stride[0], n_, 0, i_, out_.stride[1], index_.stride[1], ct_.stride[1]};
      if (!all_rows(worker, tag, rows_, args, j_)) return;
    }
    return;
  }
  if (dtype_ == F32) run_typed<float>(worker);
  else if (dtype_ == F64) run_typed<double>(worker);
  else run_typed<int32_t>(worker);
}

// Elements, each with an index of its own; or one axis of them, whose moving costs less than the bookkeeping for each.
template <class T>
void Scatter::run_typed(Worker& worker) const {
  Patience patience(worker);
  const int outer = i_ == 1 ? 2 : 1, inner = 3 - outer;
  const int64_t count[] = {o_, j_, i_}, row = out_.stride[1], out_step = inner == 2 ? out_.stride[2] : 0;
  for (int64_t o = 0; o < o_; ++o)
    for (int64_t k = 0; k < count[outer]; ++k) {
      char* out = out_.at(worker) + o * out_.stride[0];
      const char* index = index_.at(worker) + o * index_.stride[0] + k * index_.stride[outer];
      const char* ct = ct_.at(worker) + o * ct_.stride[0] + k * ct_.stride[outer];
      for (int64_t first = 0; first < count[inner]; first += kPollElements) {
        const int64_t last = std::min(count[inner], first + kPollElements);
        for (int64_t l = first; l < last; ++l, index += index_.stride[inner], ct += ct_.stride[inner], out += out_step) {
          int32_t n;
          std::memcpy(&n, index, sizeof n);
          if (n < 0 || n >= n_) return record_bad(worker, tag, n, n_);
          T& to = at<T>(out + n * row);
          to = add(to, *reinterpret_cast<const T*>(ct));
        }
        if (patience.ended(last - first)) return;
      }
    }
}

Cumsum::Cumsum(int tag, const CumsumSpec& spec) : Instruction(tag), dtype_(spec.dtype), o_(spec.o), n_(spec.n), i_(spec.i), reverse_(spec.reverse) {
  const int64_t dims[] = {o_, n_, i_};
  x_ = Strided(spec.x, 3, dims);
  out_ = Strided(spec.out, 3, dims);
}

void Cumsum::run(Worker& worker) const {
  if (o_ == 0 || n_ == 0 || i_ == 0) return;
  if (dtype_ == F32) run_typed<float>(worker);
  else if (dtype_ == F64) run_typed<double>(worker);
  else run_typed<int32_t>(worker);
}

// `Lines` sums of adjacent o, each in a register: they hide one another's latency.
template <class T, int Lines>
void Cumsum::run_lines(Worker& worker, int64_t o) const {
  const int64_t start = reverse_ ? n_ - 1 : 0, x_row = x_.stride[0], out_row = out_.stride[0];
  const int64_t x_step = reverse_ ? -x_.stride[1] : x_.stride[1], out_step = reverse_ ? -out_.stride[1] : out_.stride[1];
  char *x = x_.at(worker) + o * x_row + start * x_.stride[1], *out = out_.at(worker) + o * out_row + start * out_.stride[1];
  T sum[Lines];  // registers, since the loops over them vanish
#pragma GCC unroll 8
  for (int l = 0; l < Lines; ++l) at<T>(out + l * out_row) = sum[l] = at<T>(x + l * x_row);
  for (int64_t n = 1; n < n_; ++n) {
    x += x_step;
    out += out_step;
#pragma GCC unroll 8
    for (int l = 0; l < Lines; ++l) at<T>(out + l * out_row) = sum[l] = add(sum[l], at<T>(x + l * x_row));
  }
}

// Row by row of i: the sum so far is the row written last.
template <class T>
void Cumsum::run_typed(Worker& worker) const {
  Patience patience(worker);
  if (i_ == 1) {
    constexpr int some = 8;
    for (int64_t o = 0; o < o_;) {
      const int64_t lines = o_ - o < some ? 1 : some;
      if (lines == some) run_lines<T, some>(worker, o);
      else run_lines<T, 1>(worker, o);
      if (patience.ended(lines * n_)) return;
      o += lines;
    }
    return;
  }
  for (int64_t o = 0; o < o_; ++o)
    for (int64_t k = 0; k < n_; ++k) {
      const int64_t n = reverse_ ? n_ - 1 - k : k;
      char* x = x_.at(worker) + o * x_.stride[0] + n * x_.stride[1];
      char* out = out_.at(worker) + o * out_.stride[0] + n * out_.stride[1];
      const char* last = k == 0 ? nullptr : out + (reverse_ ? out_.stride[1] : -out_.stride[1]);
      for (int64_t i = 0; i < i_; ++i) {
        const T value = at<T>(x + i * x_.stride[2]);
        T sum = value;
        if (last) sum = add(*reinterpret_cast<const T*>(last + i * out_.stride[2]), value);
        at<T>(out + i * out_.stride[2]) = sum;
      }
      if (patience.ended(i_)) return;
    }
}

ArgReduce::ArgReduce(int tag, const ArgReduceSpec& spec) : Instruction(tag), dtype_(spec.dtype), o_(spec.o), n_(spec.n), i_(spec.i), smallest_(spec.smallest) {
  const int64_t dims[] = {o_, n_, i_}, outer[] = {o_, i_};
  x_ = Strided(spec.x, 3, dims);
  out_ = Strided(spec.out, 2, outer);
}

void ArgReduce::run(Worker& worker) const {
  if (o_ == 0 || i_ == 0) return;
  auto typed = [&](auto type) {
    using T = decltype(type);
    if (smallest_) run_typed<T, true>(worker);
    else run_typed<T, false>(worker);
  };
  if (dtype_ == F32) typed(float{});
  else if (dtype_ == F64) typed(double{});
  else typed(int32_t{});
}

template <class T, bool smallest>
void ArgReduce::run_typed(Worker& worker) const {
  Patience patience(worker);
  for (int64_t o = 0; o < o_; ++o)
    for (int64_t i = 0; i < i_; ++i) {
      char* x = x_.at(worker) + o * x_.stride[0] + i * x_.stride[2];
      T best = at<T>(x);
      int64_t where = 0;
      for (int64_t n = 1; n < n_ && best == best; ++n) {  // the first NaN ends it
        const T value = at<T>(x + n * x_.stride[1]);
        if (value != value || (smallest ? value < best : value > best)) best = value, where = n;
      }
      at<int32_t>(out_.at(worker) + o * out_.stride[0] + i * out_.stride[1]) = int32_t(where);
      if (patience.ended(n_)) return;
    }
}

Order::Order(int tag, const OrderSpec& spec, const Kernels& kernels)
    : Instruction(tag), kernels_(kernels), dtype_(spec.dtype), o_(spec.o), n_(spec.n), k_(spec.k), i_(spec.i), descending_(spec.descending) {
  const int64_t dims[] = {o_, n_, i_}, first[] = {o_, k_, i_};
  x_ = Strided(spec.x, 3, dims);
  out_ = Strided(spec.out, 3, first);
  // Counting compares all with all, a vector at a time; a heap of few costs hardly more than a look at each value.
  const int64_t lanes = kernels.vector_bytes / (dtype_ == F64 ? 8 : 4);
  counted_ = n_ <= 4 * lanes || (n_ <= kMostRanks && n_ <= 32 * lanes && k_ * 8 >= n_);
  // Rows are independent; shares of less than 50 us are not worth a team.
  parts_ = std::clamp<int64_t>(int64_t(double(o_) * double(n_) * double(i_) / 4e4), 1, std::max<int64_t>(1, std::min<int64_t>(o_ * i_, 16)));
}

void Order::run(Worker& worker) const {
  if (k_ == 0) return;
  run_parts(worker, parts_, [](const void* self, Worker& w, int64_t part) { static_cast<const Order*>(self)->run_part(w, part); }, this);
}

void Order::run_part(Worker& worker, int64_t part) const {
  const int64_t all = o_ * i_, first = all * part / parts_, last = all * (part + 1) / parts_;
  auto typed = [&](auto type) {
    using T = decltype(type);
    if (counted_) descending_ ? by_counting<T, true>(worker, first, last) : by_counting<T, false>(worker, first, last);
    else descending_ ? by_heap<T, true>(worker, first, last) : by_heap<T, false>(worker, first, last);
  };
  if (dtype_ == F32) typed(float{});
  else if (dtype_ == F64) typed(double{});
  else typed(int32_t{});
}

// A heap of the first k indices so far, the last of them on top, stands where the result goes: no other memory, and a value
// that comes after all of them, as most do when k is small, costs one comparison.  Taking the top away k times sorts it.
template <class T, bool descending>
void Order::by_heap(Worker& worker, int64_t first, int64_t last) const {
  Patience patience(worker);
  for (int64_t row = first; row < last; ++row) {
    const int64_t o = row / i_, i = row % i_;
    const char* x = x_.at(worker) + o * x_.stride[0] + i * x_.stride[2];
    char* out = out_.at(worker) + o * out_.stride[0] + i * out_.stride[2];
    auto index = [&](int64_t k) -> int32_t& { return at<int32_t>(out + k * out_.stride[1]); };
    auto value = [&](int64_t n) { return *reinterpret_cast<const T*>(x + n * x_.stride[1]); };
    auto before = [&](int32_t a, int32_t b) {
      const T va = value(a), vb = value(b);
      if (va == vb || (va != va && vb != vb)) return a < b;
      if (va != va || vb != vb) return vb != vb;  // NaN comes last
      return descending ? va > vb : va < vb;
    };
    auto sift = [&](int64_t at, int64_t size, int32_t entering) {  // into the heap at a place whose children are heaps
      for (int64_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && before(index(child), index(child + 1))) ++child;
        if (!before(entering, index(child))) break;
        index(at) = index(child);
      }
      index(at) = entering;
    };
    for (int64_t k = 0; k < k_; ++k) index(k) = int32_t(k);
    for (int64_t k = k_ / 2 - 1; k >= 0; --k) {
      sift(k, k_, index(k));
      if (patience.ended(1)) return;
    }
    T top = value(index(0));
    for (int64_t n = k_; n < n_;) {
      const int64_t end = std::min(n_, n + kPollElements);
      for (; n < end; ++n) {
        const T v = value(n);
        if (v != v || (top == top && !(descending ? v > top : v < top))) continue;  // of equal ones the first stays
        sift(0, k_, int32_t(n));
        top = value(index(0));
      }
      if (patience.ended(kPollElements)) return;
    }
    for (int64_t k = k_ - 1; k > 0; --k) {
      const int32_t largest = index(0), moved = index(k);
      sift(0, k, moved);
      index(k) = largest;
      if (patience.ended(1)) return;
    }
  }
}

namespace {

// An integer that is less than another's where the value comes before its: NaN after all, zeros alike.
template <bool descending>
int32_t key_of(int32_t v) { return descending ? ~v : v; }
template <bool descending, class T>
auto key_of(T v) {
  using Key = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr Key most = std::numeric_limits<Key>::max();
  const T same = v == 0 ? T(0) : v;
  Key key;
  std::memcpy(&key, &same, sizeof key);
  key ^= (key >> (8 * sizeof key - 1)) & most;  // of negative numbers the larger has the lower bits
  return v != v ? most : descending ? ~key : key;
}

}  // namespace

template <class T, bool descending>
void Order::by_counting(Worker& worker, int64_t first, int64_t last) const {
  using Key = decltype(key_of<descending>(T{}));
  alignas(64) Key key[kMostRanks] = {}, place[kMostRanks];
  int32_t order[kMostRanks];
  Patience patience(worker);
  for (int64_t row = first; row < last; ++row) {
    const int64_t o = row / i_, i = row % i_;
    const char* x = x_.at(worker) + o * x_.stride[0] + i * x_.stride[2];
    char* out = out_.at(worker) + o * out_.stride[0] + i * out_.stride[2];
    for (int64_t n = 0; n < n_; ++n) key[n] = key_of<descending>(*reinterpret_cast<const T*>(x + n * x_.stride[1]));
    ranks(key, place);
    for (int64_t n = 0; n < n_; ++n) order[place[n]] = int32_t(n);
    for (int64_t k = 0; k < k_; ++k) at<int32_t>(out + k * out_.stride[1]) = order[k];
    if (patience.ended(n_)) return;
  }
}

}  // namespace fastmeta
