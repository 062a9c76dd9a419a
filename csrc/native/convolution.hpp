// The CONV instruction: maps padded into scratch a unit at a time, sums over windows, and the phases that follow.
#pragma once
#include "maps.hpp"

namespace fastmeta {

template <class T>
class Convolution final : public Instruction {
 public:
  Convolution(int tag, const ConvSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override { return scratch_.end; }

 private:
  // Kind 1 splits the pixels by their place within a stride: those of one class see the same taps.
  struct Class {
    int64_t taps[2];      // number of them
    int64_t residue[2];   // the first
    int64_t weights = 0;  // where its own begin, elements
  };
  struct Scratch {  // of a worker, byte offsets; the phases' tiles come first
    int64_t x_at = 0, y_at = 0, sources = 0, maps = 0, weights = 0, joints = 0, end = 0;
  };

  void lay_out_scratch();
  int64_t copied_rows(int64_t rows) const;
  void pad_maps(Worker& worker, const Unit& unit) const;
  void turn_weights(Worker& worker) const;
  void run_unit(Worker& worker, const T* weights, int64_t number, char* joints) const;
  void sum_pixels(Worker& worker, const T* weights, const Unit& unit, const Class& one) const;
  void sum_taps(Worker& worker, int64_t first, int64_t last) const;
  template <class U>
  U* scratch(Worker& worker, int64_t offset) const { return reinterpret_cast<U*>(worker.scratch + offset); }

  ConvSpec spec_;
  void (*kernel_)(const ConvArgs<T>&);
  void (*transpose_)(const void*, int64_t, void*, int64_t, int64_t, int64_t);
  int64_t maps_[2];               // rows and columns that units are made of
  int64_t depth_, width_;         // channels of what is read, and of the target
  PaddedCopy copy_;
  Units units_;
  bool single_;                   // few elements follow each other in a row of taps: each is a source of its own
  int64_t row_size_, image_size_, map_size_;  // of the padded copy: elements of a row, an image, all images of a unit
  std::vector<Class> classes_;    // those that pixels are in: not all, where a map is smaller than the stride
  int64_t turned_size_ = 0;       // of a product's turned weights
  int64_t parts_ = 1;             // of the units, for a team
  bool long_ = false;
  UnitPhases phases_;
  Scratch scratch_;
};

}  // namespace fastmeta
