// One tile of a sum of matrix products, whatever its factors are read from: GEMM and CONV hand in how a row and a column
// look. Every element is one chain of multiply-adds over k, in order, whatever the tile.
#pragma once
#include "pass.cuh"

namespace fastmeta {
namespace device {

constexpr int kTileSide = 16;  // lanes of a team as a square; each takes R x R elements, kTileSide apart

// The widest tile that does not waste more than a third.
FM_BOTH int tile_ratio(int64_t m, int64_t n) {
  for (int r = 4; r > 1; r /= 2) {
    const int64_t side = r * kTileSide;
    if (3 * parts_of(m, side) * parts_of(n, side) * side * side <= 4 * m * n) return r;
  }
  return 1;
}

FM_BOTH int64_t tiles_of(int64_t m, int64_t n) {
  const int64_t side = tile_ratio(m, n) * kTileSide;
  return parts_of(m, side) * parts_of(n, side);
}

// Factors has: rows, cols, n_products; depth(p); a_by_depth(p), b_by_depth(p): neighbours in k are neighbours in memory;
// Row row(p, m), Col col(p, n): what is common to a row or a column; a(p, row, k), b(p, col, k); write(m, n, sum).
template <class T, int R, class Factors> FM_DEVICE void product_tile(const Team& team, const Factors& f, int64_t tile) {
  constexpr int side = R * kTileSide, lanes = kTileSide * kTileSide, shares = (lanes + kFewestLanes - 1) / kFewestLanes;
  T* a = reinterpret_cast<T*>(team.stage);
  T* b = a + kTileDepth * kTileWidth;
  const int64_t n0 = split(tile, parts_of(f.cols, side)) * side, m0 = tile * side;
  T sum[shares][R][R] = {};
  for (int p = 0; p < f.n_products; ++p) {
    const int64_t depth = f.depth(p);
    const bool a_deep = f.a_by_depth(p), b_deep = f.b_by_depth(p);
    for (int64_t k0 = 0; k0 < depth; k0 += kTileDepth) {
      team.sync();  // the last tile has been used
      FM_NO_UNROLL for (int i = team.lane; i < side * kTileDepth; i += team.lanes) {
        const int k = a_deep ? i % kTileDepth : i / side, m = a_deep ? i / kTileDepth : i % side;
        a[k * kTileWidth + m] = k0 + k < depth && m0 + m < f.rows ? f.a(p, f.row(p, m0 + m), k0 + k) : T(0);
      }
      FM_NO_UNROLL for (int i = team.lane; i < side * kTileDepth; i += team.lanes) {
        const int k = b_deep ? i % kTileDepth : i / side, n = b_deep ? i / kTileDepth : i % side;
        b[k * kTileWidth + n] = k0 + k < depth && n0 + n < f.cols ? f.b(p, f.col(p, n0 + n), k0 + k) : T(0);
      }
      team.sync();
      const int steps = int(least(kTileDepth, depth - k0));
      FM_UNROLL for (int s = 0; s < shares; ++s) {
        const int lane = team.lane + s * team.lanes;
        if (lane >= lanes) break;
        const T *x = a + lane / kTileSide, *y = b + lane % kTileSide;
        FM_UNROLL_BY(4) for (int k = 0; k < steps; ++k, x += kTileWidth, y += kTileWidth) {
          T xs[R], ys[R];
          FM_UNROLL for (int i = 0; i < R; ++i) xs[i] = x[i * kTileSide], ys[i] = y[i * kTileSide];
          FM_UNROLL for (int i = 0; i < R; ++i)
            FM_UNROLL for (int j = 0; j < R; ++j) sum[s][i][j] += xs[i] * ys[j];
        }
      }
    }
  }
  // C may be CIN, but nothing else that is read: no barrier is needed before it is written.
  FM_UNROLL for (int s = 0; s < shares; ++s) {
    const int lane = team.lane + s * team.lanes;
    if (lane >= lanes) break;
    FM_UNROLL for (int i = 0; i < R; ++i)
      FM_UNROLL for (int j = 0; j < R; ++j) {
        const int64_t m = m0 + lane / kTileSide + i * kTileSide, n = n0 + lane % kTileSide + j * kTileSide;
        if (m < f.rows && n < f.cols) f.write(m, n, sum[s][i][j]);
      }
  }
}

template <class T, class Factors> FM_DEVICE void product_unit(const Team& team, const Factors& f, int64_t tile) {
  const int r = tile_ratio(f.rows, f.cols);
  if (r == 4) product_tile<T, 4>(team, f, tile);
  else if (r == 2) product_tile<T, 2>(team, f, tile);
  else product_tile<T, 1>(team, f, tile);
}

}  // namespace device
}  // namespace fastmeta
