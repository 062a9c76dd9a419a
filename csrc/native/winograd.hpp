// The CONV instruction for windows of 3 x 3 by Winograd's F(2x2, 3x3), 16 multiplications in the place of 36, or F(4x4, 3x3),
// 36 in the place of 144.
//
// Reference: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (arXiv 1509.09308). A map is cut into
// tiles of 2 x 2 pixels (or 4 x 4). The 4 x 4 pixels that such a tile reads, and the 3 x 3 taps, become 4 x 4 numbers each; their
// products by place, summed over channels, are one matrix product per place, and become the tile. The weight gradient is
// the transpose: the sum is over tiles.
#pragma once
#include "maps.hpp"

namespace fastmeta {

class Winograd final : public Instruction {
 public:
  // Of the tiles with which it is fastest; 0 where it is not allowed, or the sum over windows is faster. A function of shapes.
  static int64_t side(const ConvSpec& spec);
  Winograd(int tag, const ConvSpec& spec, const Kernels& kernels, int64_t side);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override { return scratch_.end; }

 private:
  // A matrix for each place in a tile; a row has the channels of a tile, or of a row of weights.
  struct Planes {
    int64_t count = 0, row = 0, plane = 0;  // matrices, elements from row to row, and from matrix to matrix
    Planes() = default;
    Planes(int64_t count, int64_t rows, int64_t channels);
    int64_t size() const { return count * plane; }
  };
  struct Range {
    int64_t first, count;
  };
  struct Scratch {  // of a worker, byte offsets; the phases' tiles come first
    int64_t x_at = 0, y_at = 0, missing = 0, copy = 0, read = 0, other = 0, weights = 0, taps = 0, joints = 0, end = 0;
  };

  void copy_tiles(Worker& worker, const Operand& map, const Unit& unit, int64_t first, int64_t channels, float* to) const;
  int64_t find_tiles(Worker& worker, const Unit& unit, const Operand& map, int64_t row) const;
  void turn_weights(Worker& worker, Range rows, Range columns, float* to) const;
  void sum_tiles(Worker& worker, const Unit& unit, const float* read, const float* weights, int64_t first, int64_t channels) const;
  void run_unit(Worker& worker, const float* weights, int64_t number, char* joints) const;
  void spread_tiles(Worker& worker, const Unit& unit, float* spread) const;
  void sum_taps(Worker& worker, int64_t first, int64_t last, const float* spread) const;
  int64_t share(const Worker& worker, int64_t rows) const;
  template <class U>
  U* scratch(Worker& worker, int64_t offset) const { return reinterpret_cast<U*>(worker.scratch + offset); }

  ConvSpec spec_;
  const Kernels* kernels_;
  void (*const* transforms_)(const WinogradArgs&);
  int64_t side_, edge_, places_;  // pixels of a tile and of what it reads, down and across, and all of the latter
  int64_t maps_[2];         // rows and columns that are cut into tiles: of the target, or of y in kind 2
  int64_t tiles_[2];        // down and across
  int64_t depth_, width_;   // channels of the map that is read in windows, and of the one in tiles
  int64_t block_;           // channels, of the target or in kind 2 of x, whose weights are in work at a time
  PaddedCopy copy_;
  Units units_;             // rows of tiles
  Planes read_, other_, weights_;  // of the windows, the tiles, the taps
  // Kind 1: the taps are transposed before they become matrices, or the rows of these are of channels of the target.
  bool turned_ = false, by_rows_ = false;
  int64_t parts_ = 1;       // of the units, for a team
  bool long_ = false;
  UnitPhases phases_;
  Scratch scratch_;
};

}  // namespace fastmeta
