#include "scope.hpp"

#include <algorithm>

#include "checked.hpp"

namespace fastmeta {

namespace {

const char* const kKindNames[] = {"INPUT", "OUTPUT", "CONST", "SHARED", "ARENA", "SLICE", "SUM", "CARRY"};
const char* const kTypeNames[] = {"f32", "f64", "i32", "bool"};
constexpr int64_t kEverything = int64_t{1} << 61;  // reach of a base that is never used, as its loop has no iterations

int64_t alignment_of(int64_t x) {
  const uint64_t bits = uint64_t(x) | 64;
  return int64_t(bits & (0 - bits));  // the lowest bit set
}

}  // namespace

void refuse(const std::string& where, const std::string& expected, const std::string& got) {
  throw PlanError("[plan] " + where + ": expected " + expected + ", got " + got);
}

std::string range_text(int64_t low, int64_t high) { return std::to_string(low) + ".." + std::to_string(high); }

Scope::Scope(const PlanSpec& plan) : plan_(plan), reach_(plan.bases.size()), blocks_(plan.blocks.size()) {
  for (size_t k = 0; k < plan.bases.size(); ++k) {
    const Base& base = plan.bases[k];
    Reach& reach = reach_[k];
    const std::string where = "base " + std::to_string(k);
    auto root = [&](int64_t bytes) {
      reach.high = bytes;
      reach.block = 0;
    };
    switch (base.kind) {
      case BaseKind::Input:
      case BaseKind::Output: {
        const auto& arrays = base.kind == BaseKind::Input ? plan.inputs : plan.outputs;
        if (base.a < 0 || base.a >= int64_t(arrays.size()))
          refuse(where, "an array number below " + std::to_string(arrays.size()), std::to_string(base.a));
        root(arrays[base.a].bytes);  // of the first task where the array is per task: T may be 1
        reach.align = item_size(arrays[base.a].dtype);
        reach.dtype = arrays[base.a].dtype;
        break;
      }
      case BaseKind::Const: root(plan.const_bytes); break;
      case BaseKind::Shared: root(plan.shared_bytes); break;
      case BaseKind::Arena: root(plan.arena_bytes); break;
      case BaseKind::Sum:
        if (base.a < 0 || base.a > kMaxMemory || base.b < 0 || base.b > kMaxMemory)
          refuse(where, "offset and bytes within " + range_text(0, kMaxMemory), std::to_string(base.a) + " and " + std::to_string(base.b));
        break;
      case BaseKind::Slice:
      case BaseKind::Carry: break;  // their loop says
    }
  }
}

bool Scope::usable(int base, int block) const {
  if (plan_.bases[base].kind == BaseKind::Arena) return blocks_[block].in_parallel;
  const int home = reach_[base].block;
  if (home == kUnbound) return false;
  while (block > home) block = blocks_[block].parent;  // parents have lower numbers
  return block == home;
}

bool Scope::writable(int base, int block) const {
  switch (plan_.bases[base].kind) {
    case BaseKind::Output:
    case BaseKind::Shared: return !blocks_[block].in_parallel;  // tasks would write over each other
    case BaseKind::Arena:
    case BaseKind::Sum: return true;
    case BaseKind::Slice:
    case BaseKind::Carry: return reach_[base].writable;
    default: return false;
  }
}

void Scope::check_base(int base, const std::string& where) const {
  if (base < 0 || base >= int(reach_.size()))
    refuse(where, "a base below " + std::to_string(reach_.size()), std::to_string(base));
}

void Scope::check(const Operand& operand, int rank, const int64_t* dims, Access access, int block, const std::string& where) const {
  Checked low = 0, high = item_size(operand.dtype);
  for (int d = 0; d < rank; ++d) {
    if (access == Access::Accumulate && operand.stride[d] == 0) continue;  // filled even where there is nothing to add
    if (dims[d] == 0) {  // touches nothing
      low = high = 0;
      break;
    }
    const Checked extent = Checked(operand.stride[d]) * (dims[d] - 1) * item_size(operand.dtype);
    if (!extent.ok()) refuse(where, "strides within the address space", std::to_string(operand.stride[d]));
    if (extent.value() < 0) low = low + extent;
    else high = high + extent;
    if (access == Access::Write && operand.stride[d] == 0 && dims[d] > 1) refuse(where, "a target without broadcast dims", "stride 0 in dim " + std::to_string(d));
  }
  if (!low.ok() || !high.ok()) refuse(where, "an extent within the address space", "an overflow");
  check_span(operand.base, operand.dtype, operand.offset, low.value(), high.value(), access, block, where);
}

void Scope::check_span(int base, DType dtype, int64_t offset, int64_t low, int64_t high, Access access, int block,
                       const std::string& where) const {
  check_base(base, where);
  const std::string name = std::string(kKindNames[int(plan_.bases[base].kind)]) + " base " + std::to_string(base);
  if (!usable(base, block)) refuse(where, "a base usable in block " + std::to_string(block), name);
  if (access != Access::Read && !writable(base, block)) refuse(where, "a base writable in block " + std::to_string(block), name);
  const Reach& reach = reach_[base];
  if (reach.dtype != kAnyType && reach.dtype != dtype)
    refuse(where, std::string("dtype ") + kTypeNames[reach.dtype] + " of " + name, kTypeNames[dtype]);
  if (reach.align % item_size(dtype) != 0 || offset % item_size(dtype) != 0)
    refuse(where, "alignment to " + std::to_string(item_size(dtype)) + " bytes", "offset " + std::to_string(offset) + " in " + name);
  const Checked first = Checked(offset) + low, last = Checked(offset) + high;
  if (!first.ok() || !last.ok() || (low != high && (first.value() < reach.low || last.value() > reach.high)))
    refuse(where, "bytes " + range_text(reach.low, reach.high) + " of " + name,
           first.ok() && last.ok() ? range_text(first.value(), last.value()) : "an overflow");
}

void Scope::claim(int base, BaseKind kind, const std::string& where) const {
  check_base(base, where);
  if (plan_.bases[base].kind != kind)
    refuse(where, std::string("a ") + kKindNames[int(kind)] + " base", std::string(kKindNames[int(plan_.bases[base].kind)]) + " base " + std::to_string(base));
  if (reach_[base].block != kUnbound) refuse(where, "a base of no other loop", "base " + std::to_string(base));
}

Scope::Reach Scope::reach_of_slice(const Base& base, const LoopSpec& loop, int block, const std::string& where) const {
  check_base(int(std::clamp<int64_t>(base.a, -1, reach_.size())), where);
  const int parent = int(base.a);
  if (!usable(parent, block)) refuse(where, "a parent usable in block " + std::to_string(block), "base " + std::to_string(parent));
  const Reach& from = reach_[parent];
  const int64_t offset = base.b, step = base.c;
  Reach reach;
  reach.dtype = from.dtype;
  reach.writable = writable(parent, block);
  reach.align = std::min({from.align, alignment_of(offset), alignment_of(step)});
  if (loop.length == 0) {
    reach.low = -kEverything, reach.high = kEverything;
    return reach;
  }
  if (loop.length == kRuntimeLength) {
    const Base& root = plan_.bases[parent];
    const bool array = root.kind == BaseKind::Input || root.kind == BaseKind::Output;
    const ArraySpec* spec = !array ? nullptr : root.kind == BaseKind::Input ? &plan_.inputs[root.a] : &plan_.outputs[root.a];
    if (!spec || !spec->per_task) refuse(where, "a parent array whose dim 0 is -1", "base " + std::to_string(parent));
    if (step != spec->bytes) refuse(where, "a step of one row, " + std::to_string(spec->bytes) + " bytes", std::to_string(step));
    if (offset < 0 || offset > spec->bytes) refuse(where, "an offset within one row", std::to_string(offset));
    reach.low = -offset, reach.high = spec->bytes - offset;
    return reach;
  }
  const Checked last = Checked(step) * (loop.length - 1) + offset;
  if (!last.within(-kEverything, kEverything) || offset < -kEverything || offset > kEverything || step < -kEverything || step > kEverything)
    refuse(where, "slices within the address space", std::to_string(offset) + " + i * " + std::to_string(step));
  reach.low = std::max(from.low - std::min(offset, last.value()), -kEverything);
  reach.high = std::min(from.high - std::max(offset, last.value()), kEverything);
  if (loop.parallel && reach.writable) {  // tasks write disjoint slices: none of slices without a step
    reach.low = std::max<int64_t>(reach.low, 0);
    reach.high = std::min<int64_t>(reach.high, step < 0 ? -step : step);
  }
  return reach;
}

Scope::Reach Scope::reach_of_carry(const Base& base, int block, const std::string& where) const {
  check_base(int(std::clamp<int64_t>(base.a, -1, reach_.size())), where);
  const int parent = int(base.a);
  if (!usable(parent, block)) refuse(where, "a parent usable in block " + std::to_string(block), "base " + std::to_string(parent));
  const Reach& from = reach_[parent];
  const Checked end = Checked(base.b) + base.c;
  if (base.c < 0 || !end.ok() || base.b < from.low || end.value() > from.high)
    refuse(where, "bytes within " + range_text(from.low, from.high) + " of base " + std::to_string(parent),
           std::to_string(base.c) + " bytes at " + std::to_string(base.b));
  Reach reach;
  reach.high = base.c;
  reach.dtype = from.dtype;
  reach.writable = writable(parent, block);
  reach.align = std::min(from.align, alignment_of(base.b));
  return reach;
}

void Scope::bind_loop(const LoopSpec& loop, int block, const std::string& where) {
  Place& place = blocks_[loop.block];
  if (place.parent >= 0) refuse(where, "a block of no other loop", std::to_string(loop.block));
  // All reaches first: a loop's base may not stand on another base of the same loop, whose pointer moves.
  std::vector<std::pair<int, Reach>> bound;
  for (int slice : loop.slices) {
    claim(slice, BaseKind::Slice, where);
    bound.emplace_back(slice, reach_of_slice(plan_.bases[slice], loop, block, where + ", slice"));
  }
  for (auto [x, y] : loop.swaps) {
    claim(x, BaseKind::Carry, where);
    claim(y, BaseKind::Carry, where);
    Reach rx = reach_of_carry(plan_.bases[x], block, where + ", carry"), ry = reach_of_carry(plan_.bases[y], block, where + ", carry");
    if (rx.high != ry.high) refuse(where, "carry pairs of one size", std::to_string(rx.high) + " and " + std::to_string(ry.high) + " bytes");
    if (rx.dtype != kAnyType && ry.dtype != kAnyType && rx.dtype != ry.dtype) refuse(where, "carry pairs of one dtype", "two");
    // They take turns at each other's memory, so each is held to what both allow.
    rx.align = ry.align = std::min(rx.align, ry.align);
    rx.writable = ry.writable = rx.writable && ry.writable;
    rx.dtype = ry.dtype = std::max(rx.dtype, ry.dtype);
    bound.emplace_back(x, rx);
    bound.emplace_back(y, ry);
  }
  for (const SumSpec& sum : loop.sums) {
    claim(sum.base, BaseKind::Sum, where);
    const Base& base = plan_.bases[sum.base];
    const Checked bytes = Checked(sum.count) * item_size(sum.dtype);
    // Exactly, for the first of all groups adds to the target itself.
    if (!bytes.within(base.b, base.b)) refuse(where, "a sum of " + std::to_string(base.b) + " bytes", std::to_string(sum.count) + " elements");
    check_span(sum.target, sum.dtype, sum.target_offset, 0, bytes.value(), Access::Write, block, where + ", sum target");
    Reach reach;
    reach.high = base.b;
    reach.dtype = sum.dtype;
    reach.align = alignment_of(base.a);
    if (reach.align < item_size(sum.dtype)) refuse(where, "an aligned sum", "offset " + std::to_string(base.a));
    bound.emplace_back(sum.base, reach);
  }
  place.parent = block;
  place.depth = blocks_[block].depth + 1;
  if (place.depth > kMaxDepth) refuse(where, "loops at most " + std::to_string(kMaxDepth) + " deep", std::to_string(place.depth));
  place.in_parallel = blocks_[block].in_parallel || loop.parallel;
  for (auto& [base, reach] : bound) {
    if (reach_[base].block != kUnbound) refuse(where, "each base once", "base " + std::to_string(base));
    reach_[base] = reach;
    reach_[base].block = loop.block;
  }
}

}  // namespace fastmeta
