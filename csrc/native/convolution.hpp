// The CONV instruction: a convolution, its transpose in x or in w, and the phases that follow.
#pragma once
#include <vector>

#include "pass.hpp"
#include "worker.hpp"

namespace fastmeta {

template <class T>
class Convolution final : public Instruction {
 public:
  Convolution(int tag, const ConvSpec& spec, const Kernels& kernels);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override { return phase_scratch_; }

 private:
  void multiply(Worker& worker) const;

  ConvSpec spec_;
  int64_t phase_scratch_ = 0;
  std::vector<BoundPhase> phases_;
};

}  // namespace fastmeta
