// GEMM: C = alpha * sum_p A_p B_p (+ CIN), any strides, over batches. A unit is a tile of one batch element.
#pragma once
#include "product.cuh"

namespace fastmeta {
namespace device {

struct GemmWords {
  int type, batch_rank, stride, n_products;
  const int64_t *dims, *products, *c, *cin, *phases;  // phases: their number, then they
  double alpha;

  FM_BOTH explicit GemmWords(const int64_t* instr) {
    type = int(instr[3]);
    batch_rank = int(instr[4]);
    stride = 3 + batch_rank + 2;
    dims = instr + 5;
    const int64_t* next = dims + batch_rank + 2;
    union {
      int64_t bits;
      double value;
    } real;
    real.bits = next[0];
    alpha = real.value;
    n_products = int(next[1]);
    products = next + 2;
    c = products + n_products * (1 + 2 * stride);
    next = c + stride;
    cin = *next++ ? next : nullptr;
    phases = cin ? cin + stride : next;
  }
  FM_BOTH int64_t rows() const { return dims[batch_rank]; }
  FM_BOTH int64_t cols() const { return dims[batch_rank + 1]; }
  FM_BOTH int64_t units() const {
    int64_t n = tiles_of(rows(), cols());
    for (int d = 0; d < batch_rank; ++d) n *= dims[d];
    return n;
  }
};

template <class T> struct GemmFactors {
  struct Matrix {
    T* at;
    int64_t row, col;
  };
  int64_t rows, cols;
  int n_products;
  int64_t k[4];
  Matrix as[4], bs[4], c, cin;
  T alpha;

  FM_DEVICE GemmFactors(const Frame& frame, const GemmWords& g, int64_t batch) {
    rows = g.rows(), cols = g.cols();
    n_products = g.n_products;
    alpha = T(g.alpha);
    int64_t index[kMostDims];
    for (int d = g.batch_rank - 1; d >= 0; --d) index[d] = split(batch, g.dims[d]);
    auto matrix = [&](const int64_t* operand) {
      int64_t offset = 0;
      for (int d = 0; d < g.batch_rank; ++d) offset += index[d] * operand[3 + d];
      return Matrix{reinterpret_cast<T*>(address(frame, operand)) + offset, operand[3 + g.batch_rank], operand[4 + g.batch_rank]};
    };
    for (int p = 0; p < n_products; ++p) {
      const int64_t* words = g.products + p * (1 + 2 * g.stride);
      k[p] = words[0];
      as[p] = matrix(words + 1);
      bs[p] = matrix(words + 1 + g.stride);
    }
    c = matrix(g.c);
    cin = g.cin ? matrix(g.cin) : Matrix{nullptr, 0, 0};
  }
  FM_DEVICE int64_t depth(int p) const { return k[p]; }
  FM_DEVICE bool a_by_depth(int p) const { return as[p].row != 1; }
  FM_DEVICE bool b_by_depth(int p) const { return bs[p].row == 1 && bs[p].col != 1; }
  FM_DEVICE const T* row(int p, int64_t m) const { return as[p].at + m * as[p].row; }
  FM_DEVICE const T* col(int p, int64_t n) const { return bs[p].at + n * bs[p].col; }
  FM_DEVICE T a(int p, const T* row, int64_t k) const { return row[k * as[p].col]; }
  FM_DEVICE T b(int p, const T* col, int64_t k) const { return col[k * bs[p].row]; }
  FM_DEVICE void write(int64_t m, int64_t n, T sum) const {
    sum *= alpha;
    if (cin.at) sum += cin.at[m * cin.row + n * cin.col];
    c.at[m * c.row + n * c.col] = sum;
  }
};

template <class T> FM_NOINLINE void gemm_unit(const Team& team, const Frame& frame, const int64_t* instr, int64_t unit) {
  const GemmWords g(instr);
  const int64_t tile = split(unit, tiles_of(g.rows(), g.cols()));
  product_unit<T>(team, GemmFactors<T>(frame, g, unit), tile);
}

}  // namespace device
}  // namespace fastmeta
