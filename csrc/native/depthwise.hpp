// DEPTHWISE: each channel of maps under a kernel of its own, or the gradient of the kernels.
#pragma once
#include "kernels.hpp"
#include "worker.hpp"

namespace fastmeta {

template <class T>
class Depthwise final : public Instruction {
 public:
  Depthwise(int tag, const DepthwiseSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;

 private:
  void row(Worker& worker, int64_t unit) const;   // of pixels of an image
  void taps(Worker& worker, int64_t unit) const;  // a row of them, of a vector's channels
  DepthwiseSpec spec_;
  void (*row_)(const DepthwiseArgs<T>&);
  void (*taps_)(const DepthwiseWeightArgs<T>&);
  int64_t lanes_, units_, parts_;
};

}  // namespace fastmeta
