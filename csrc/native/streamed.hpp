// Whether a result goes past the caches.
#pragma once
#include "worker.hpp"

namespace fastmeta {

// Of a call's large outputs little is left in the caches when it ends, and a plain store reads a line before it is overwritten.
class Streamed {
 public:
  Streamed() = default;
  Streamed(const PlanSpec& plan, const Operand& out) {
    const Base* base = &plan.bases[size_t(out.base)];
    while (base->kind == BaseKind::Slice) base = &plan.bases[size_t(base->a)];
    if (base->kind != BaseKind::Output) return;
    const ArraySpec& array = plan.outputs[size_t(base->a)];
    (array.per_task ? of_task_ : of_call_) = array.bytes;
  }
  bool in(const Call& call) const { return of_call_ + of_task_ * call.length >= kLeast; }

 private:
  static constexpr int64_t kLeast = 8 << 20;  // a core's part of the last cache is seldom more
  int64_t of_call_ = 0, of_task_ = 0;  // bytes
};

}  // namespace fastmeta
