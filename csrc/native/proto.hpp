// PROTO: the loss of a prototypical network and its derivatives in the rows of both sides.
#pragma once
#include "kernels.hpp"
#include "streamed.hpp"

namespace fastmeta {

template <class T>
class Proto final : public Instruction {
 public:
  Proto(int tag, const ProtoSpec& spec, const Kernels& kernels, const PlanSpec& plan);
  void run(Worker& worker) const override;
  int64_t scratch_bytes() const override;

 private:
  ProtoSpec spec_;
  ProtoArgs<T> args_{};  // pointers left out
  void (*kernel_)(const ProtoArgs<T>&);
  Streamed streamed_;  // of the derivative in x
};

}  // namespace fastmeta
