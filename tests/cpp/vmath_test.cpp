// The tile kernels of one target behind C functions, for tests/test_vmath.py.  Compiled like csrc/native/kernels.cpp,
// without the matrix products.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../../csrc/native/kernels.hpp"

namespace fastmeta {
namespace FASTMETA_TARGET {
#include "../../csrc/native/simd.hpp"

#include "../../csrc/native/vmath.hpp"

#include "../../csrc/native/tiles.hpp"

#include "../../csrc/generated/elementwise.hpp"

static constexpr Kernels table = [] {
  Kernels k{};
  fill_elementwise(k);
  fill_tiles(k);
  return k;
}();
}  // namespace FASTMETA_TARGET
}  // namespace fastmeta

using fastmeta::FASTMETA_TARGET::table;

extern "C" {
// rows: the row strides of dst, x, y, z.  1 where the kernel does not exist.
int run_tile(int op, int type, int variant, void* dst, const void* x, const void* y, const void* z, const int64_t* strides,
             int64_t rows, int64_t cols) {
  fastmeta::TileFn fn = table.tile[op][type][variant];
  if (!fn) return 1;
  fn({dst, x, y, z, strides[0], strides[1], strides[2], strides[3], rows, cols});
  return 0;
}
int run_cast(int from, int to, void* dst, const void* x, int64_t dst_row, int64_t x_row, int64_t rows, int64_t cols) {
  fastmeta::TileFn fn = table.cast[from][to];
  if (!fn) return 1;
  fn({dst, x, nullptr, nullptr, dst_row, x_row, 0, 0, rows, cols});
  return 0;
}
int run_reduce(int mode, int type, void* dst, const void* x, int64_t dst_row, int64_t dst_col, int64_t x_row, int64_t rows,
               int64_t cols) {
  fastmeta::ReduceFn fn = table.reduce[mode][type];
  if (!fn) return 1;
  fn({dst, x, dst_row, dst_col, x_row, rows, cols});
  return 0;
}
void run_transpose(int bytes, const void* src, int64_t src_row, void* dst, int64_t dst_col, int64_t rows, int64_t cols) {
  (bytes == 4 ? table.transpose4 : table.transpose8)(src, src_row, dst, dst_col, rows, cols);
}
}
