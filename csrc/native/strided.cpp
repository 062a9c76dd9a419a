#include "strided.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace fastmeta {

namespace {

// Column strides that are known where this is inlined make vectors of the loop.  By value: a store through a char pointer
// could otherwise change what the loop goes by.
template <class T>
inline __attribute__((always_inline)) void copy_row(char* dst, const char* src, int64_t dst_col, int64_t src_col, int64_t cols) {
  for (int64_t k = 0; k < cols; ++k) {
    T value;
    std::memcpy(&value, src + k * src_col, sizeof value);
    std::memcpy(dst + k * dst_col, &value, sizeof value);
  }
}

template <class T>
void copy_elements(PlaneCopy c) {
  constexpr int64_t item = sizeof(T);
  for (; c.rows > 0; --c.rows, c.dst += c.dst_row, c.src += c.src_row) {
    if (c.dst_col != item) copy_row<T>(c.dst, c.src, c.dst_col, c.src_col, c.cols);
    else if (c.src_col == 0) copy_row<T>(c.dst, c.src, item, 0, c.cols);
    else if (c.src_col == -item) copy_row<T>(c.dst, c.src, item, -item, c.cols);
    else copy_row<T>(c.dst, c.src, item, c.src_col, c.cols);
  }
}

template <class T>
void fill_elements(char* target, int64_t stride, int64_t n, T value) {
  if (stride == int64_t(sizeof(T))) {
    T* to = reinterpret_cast<T*>(target);
    std::fill_n(to, n, value);
  } else {
    for (int64_t k = 0; k < n; ++k) std::memcpy(target + k * stride, &value, sizeof value);
  }
}

uint64_t bits_of(double x) { uint64_t out; std::memcpy(&out, &x, sizeof out); return out; }
uint32_t bits_of(float x) { uint32_t out; std::memcpy(&out, &x, sizeof out); return out; }

uint64_t start_value(int mode, DType dtype) {
  if (mode == kSum) return 0;
  const double infinity = mode == kMax ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  if (dtype == F64) return bits_of(infinity);
  if (dtype == F32) return bits_of(float(infinity));
  return uint32_t(mode == kMax ? INT32_MIN : INT32_MAX);
}

}  // namespace

void copy_plane(const Kernels& kernels, const PlaneCopy& c) {
  const int64_t item = c.item;
  const bool dense_dst = c.dst_col == item || c.cols == 1, dense_src = c.src_col == item || c.cols == 1;
  if (dense_dst && dense_src) {
    const int64_t row = c.cols * item;
    if (c.rows == 1 || (c.dst_row == row && c.src_row == row)) {
      std::memmove(c.dst, c.src, size_t(c.rows * row));  // moved, not copied: plans are checked for extents, not for overlap
    } else if (c.cols == 1) {
      // One column of rows: as one row of columns below.
      copy_plane(kernels, {c.dst, c.src, 0, c.dst_row, 0, c.src_row, 1, c.rows, item});
    } else {
      for (int64_t r = 0; r < c.rows; ++r) std::memmove(c.dst + r * c.dst_row, c.src + r * c.src_row, size_t(row));
    }
    return;
  }
  if (item > 1 && c.rows > 1 && c.cols > 1) {
    auto transpose = item == 4 ? kernels.transpose4 : kernels.transpose8;
    if (c.src_col == item && c.dst_row == item && c.dst_col != 0) {  // dst[c * dst_col + r] = src[r * src_row + c]
      transpose(c.src, c.src_row / item, c.dst, c.dst_col / item, c.rows, c.cols);
      return;
    }
    if (c.src_row == item && c.dst_col == item && c.src_col != 0) {  // the same with rows and columns exchanged
      transpose(c.src, c.src_col / item, c.dst, c.dst_row / item, c.cols, c.rows);
      return;
    }
  }
  if (item == 8) copy_elements<uint64_t>(c);
  else if (item == 4) copy_elements<uint32_t>(c);
  else copy_elements<uint8_t>(c);
}

namespace {
bool elements_touched(const int64_t* dims, int rank) { return std::all_of(dims, dims + rank, [](int64_t n) { return n > 0; }); }
}  // namespace

void Nest::add(const Operand& operand) {
  std::array<int64_t, kMaxRank> bytes{};
  // A stride that is never taken is not held to anything by the check: it counts as 0.
  if (elements_touched(dims, rank))
    for (int d = 0; d < rank; ++d)
      if (dims[d] > 1) bytes[d] = operand.stride[d] * item_size(operand.dtype);
  strides.push_back(bytes);
}

void Nest::drop_ones() {
  int kept = 0;
  for (int d = 0; d < rank; ++d) {
    if (dims[d] == 1) continue;
    dims[kept] = dims[d];
    for (auto& s : strides) s[kept] = s[d];
    ++kept;
  }
  rank = kept;
}

void Nest::exchange(int d, int e) {
  std::swap(dims[d], dims[e]);
  for (auto& s : strides) std::swap(s[d], s[e]);
}

void Nest::sort() {
  auto outer_wrong = [&](int d) {  // would dim d + 1 better stand before dim d?
    int votes = 0;
    for (const auto& s : strides) {
      const int64_t x = std::abs(s[d]), y = std::abs(s[d + 1]);
      if (x != 0 && y != 0) votes += (x < y) - (x > y);
    }
    return votes > 0;
  };
  for (int d = 1; d < rank; ++d)
    for (int e = d - 1; e >= 0 && outer_wrong(e); --e) exchange(e, e + 1);
}

void Nest::merge() {
  for (int d = rank - 2; d >= 0; --d) {
    const bool one = std::all_of(strides.begin(), strides.end(), [&](const auto& s) { return s[d] == s[d + 1] * dims[d + 1]; });
    if (!one) continue;
    dims[d] *= dims[d + 1];
    for (auto& s : strides) s[d] = s[d + 1];
    for (int e = d + 1; e < rank - 1; ++e) {
      dims[e] = dims[e + 1];
      for (auto& s : strides) s[e] = s[e + 1];
    }
    --rank;
  }
}

Fill::Fill(int mode, const Phase& phase, const Operand& target) : item_(item_size(target.dtype)), pattern_(start_value(mode, target.dtype)) {
  nest_.rank = phase.rank;
  for (int d = 0; d < phase.rank; ++d) nest_.dims[d] = target.stride[d] == 0 ? 1 : phase.dims[d];
  nest_.add(target);
  nest_.drop_ones();
  nest_.sort();
  nest_.merge();
  if (nest_.rank == 0) run_length_ = 1;
  else if (nest_.rank == 1 && nest_.strides[0][0] == item_) run_length_ = nest_.dims[0];
}

void Fill::run(char* target) const {
  auto row = [&](char* at, int64_t stride, int64_t n) {
    if (item_ == 8) fill_elements<uint64_t>(at, stride, n, pattern_);
    else fill_elements<uint32_t>(at, stride, n, uint32_t(pattern_));
  };
  if (run_length_ > 0) return row(target, item_, run_length_);
  const int last = nest_.rank - 1;
  if (nest_.elements() == 0) return;
  int64_t offset = 0;
  for_each_outer(nest_, last, &offset, [&] { row(target + offset, nest_.strides[0][last], nest_.dims[last]); return true; });
}

}  // namespace fastmeta
