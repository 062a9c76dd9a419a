// Single kernels of a table behind C functions, for tests/test_vmath.py.
#include "../../csrc/native/kernels.hpp"

using fastmeta::Kernels;

extern "C" {
// strides: the row strides of dst, x, y, z.  1 where the kernel does not exist.
int run_tile(const Kernels* table, int op, int type, int variant, void* dst, const void* x, const void* y, const void* z, const int64_t* strides,
             int64_t rows, int64_t cols) {
  fastmeta::TileFn fn = table->tile[op][type][variant];
  if (!fn) return 1;
  fn({dst, x, y, z, strides[0], strides[1], strides[2], strides[3], rows, cols});
  return 0;
}
int run_cast(const Kernels* table, int from, int to, void* dst, const void* x, int64_t dst_row, int64_t x_row, int64_t rows, int64_t cols) {
  fastmeta::TileFn fn = table->cast[from][to];
  if (!fn) return 1;
  fn({dst, x, nullptr, nullptr, dst_row, x_row, 0, 0, rows, cols});
  return 0;
}
int run_reduce(const Kernels* table, int mode, int type, void* dst, const void* x, int64_t dst_row, int64_t dst_col, int64_t x_row,
               int64_t rows, int64_t cols) {
  fastmeta::ReduceFn fn = table->reduce[mode][type];
  if (!fn) return 1;
  fn({dst, x, dst_row, dst_col, x_row, rows, cols});
  return 0;
}
void run_transpose(const Kernels* table, int bytes, const void* src, int64_t src_row, void* dst, int64_t dst_col, int64_t rows, int64_t cols) {
  (bytes == 4 ? table->transpose4 : table->transpose8)(src, src_row, dst, dst_col, rows, cols);
}
}
