// Large products by a library, whose matrices are given by arrays of addresses: the kernels that prepare a call.
#pragma once
#include "kernels.cuh"

namespace fastmeta {
namespace device {

// Where the matrices of the GEMM at `at` begin, for every batch element of every slot: a row of addresses for each factor,
// then one for C.
struct AddressesKernel {
  Program program;
  int64_t at, batch;
  Slots slots;
  char** addresses;

  template <class T> FM_DEVICE void put(const Frame& frame, const GemmWords& g, int64_t k, int64_t place, int64_t row) const {
    const GemmFactors<T> f(frame, g, k);
    for (int p = 0; p < f.n_products; ++p) {
      addresses[2 * p * row + place] = reinterpret_cast<char*>(f.as[p].at);
      addresses[(2 * p + 1) * row + place] = reinterpret_cast<char*>(f.bs[p].at);
    }
    addresses[2 * f.n_products * row + place] = reinterpret_cast<char*>(f.c.at);
  }
  FM_DEVICE void operator()(const Team& team, const Grid& grid, char*) const {
    const Frame frame = frame_of(program, slots, grid.y, -1);
    const GemmWords g(program.words + at);
    for (int64_t k = grid.x * team.lanes + team.lane; k < batch; k += grid.width * team.lanes) {
      const int64_t place = grid.y * batch + k, row = grid.height * batch;
      if (g.type == kF32) put<float>(frame, g, k, place, row);
      else put<double>(frame, g, k, place, row);
    }
  }
};

// C = CIN, to which products are then added.
struct StartKernel {
  Program program;
  int64_t at, batch;
  Slots slots;

  template <class T> FM_DEVICE void copy(const Team& team, const Grid& grid, const Frame& frame, const GemmWords& g) const {
    const int64_t rows = g.rows(), cols = g.cols();
    for (int64_t flat = grid.x * team.lanes + team.lane; flat < batch * rows * cols; flat += grid.width * team.lanes) {
      int64_t k = flat;
      const int64_t n = split(k, cols), m = split(k, rows);
      const GemmFactors<T> f(frame, g, k);
      f.c.at[m * f.c.row + n * f.c.col] = f.cin.at[m * f.cin.row + n * f.cin.col];
    }
  }
  FM_DEVICE void operator()(const Team& team, const Grid& grid, char*) const {
    const Frame frame = frame_of(program, slots, grid.y, -1);
    const GemmWords g(program.words + at);
    if (g.type == kF32) copy<float>(team, grid, frame, g);
    else copy<double>(team, grid, frame, g);
  }
};

}  // namespace device
}  // namespace fastmeta
