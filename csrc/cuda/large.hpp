// Which products a library takes, and how they look to it: it counts columns first, as BLAS does.
#pragma once
#include <algorithm>
#include <climits>
#include <optional>
#include <vector>

#include "large.cuh"

namespace fastmeta {

// result[i] = alpha * left[i] right[i] (+ result[i]) for `count` matrices of m x n, column by column; ld: from one column to the next.
struct Multiplication {
  struct Factor {
    bool transposed;
    int ld;
    char** at;
  };
  bool wide;  // float64
  int m, n, k, count;
  double alpha;
  bool add;
  Factor left, right;
  char** result;
  int ld;
};

// A GEMM all of whose matrices have neighbours in one direction.
struct LargeProduct {
  int64_t batch = 1;
  bool turned = false;                // the calls' results are C transposed, B^T A^T
  bool copy_first = false;            // CIN is elsewhere
  std::vector<Multiplication> calls;  // one for each product, but for count and addresses
  static constexpr int64_t kMostBatch = 1 << 14;
  int64_t addresses() const { return int64_t(2 * calls.size() + 1) * batch; }

  // Nothing where a length is below `least`, or matrices are not of that kind.
  static std::optional<LargeProduct> of(const int64_t* instr, int64_t least) {
    const device::GemmWords g(instr);
    LargeProduct out;
    for (int d = 0; d < g.batch_rank; ++d) out.batch *= g.dims[d];
    const bool cin_is_c = g.cin && std::equal(g.cin, g.cin + g.stride, g.c);
    out.copy_first = g.cin && !cin_is_c;
    const auto strides = [&](const int64_t* operand) { return Strides{operand[3 + g.batch_rank], operand[4 + g.batch_rank]}; };
    const Strides c = strides(g.c);
    const bool by_rows = out.turned = c.col == 1;
    const int64_t m = by_rows ? g.cols() : g.rows(), n = by_rows ? g.rows() : g.cols(), ld = by_rows ? c.row : c.col;
    if (out.batch > kMostBatch || (!by_rows && c.row != 1) || m < least || n < least || ld < m || ld > INT_MAX || n > INT_MAX) return {};
    for (int p = 0; p < g.n_products; ++p) {
      const int64_t* words = g.products + p * (1 + 2 * g.stride);
      const int64_t k = words[0];
      const Strides a = strides(words + 1), b = strides(words + 1 + g.stride);
      const auto left = by_rows ? factor(b.col, b.row, m, k) : factor(a.row, a.col, m, k);
      const auto right = by_rows ? factor(a.col, a.row, k, n) : factor(b.row, b.col, k, n);
      if (k < least || k > INT_MAX || !left || !right) return {};
      out.calls.push_back({g.type == device::kF64, int(m), int(n), int(k), 0, g.alpha, p > 0 || g.cin != nullptr, *left, *right, nullptr, int(ld)});
    }
    if (out.calls.empty()) return {};
    return out;
  }

 private:
  struct Strides {
    int64_t row, col;
  };
  // A matrix of rows x cols with these steps from row to row and from column to column.
  static std::optional<Multiplication::Factor> factor(int64_t row, int64_t col, int64_t rows, int64_t cols) {
    if (row == 1 && col >= rows && col <= INT_MAX) return Multiplication::Factor{false, int(col), nullptr};
    if (col == 1 && row >= cols && row <= INT_MAX) return Multiplication::Factor{true, int(row), nullptr};
    return {};
  }
};

}  // namespace fastmeta
