// Which memory each base of a plan reaches, where it may be used, and who may write it.
#pragma once
#include <string>
#include <vector>

#include "plan.hpp"

namespace fastmeta {

[[noreturn]] void refuse(const std::string& where, const std::string& expected, const std::string& got);
std::string range_text(int64_t low, int64_t high);

enum class Access { Read, Write, Accumulate };  // only Accumulate may go to one place many times (stride 0)

// Blocks form a tree (each is named by one loop, of a lower block); a base that a loop binds is usable below that loop.
class Scope {
 public:
  explicit Scope(const PlanSpec& plan);

  // The block of `loop` becomes a child of `block`, and the loop's bases become usable in it.
  void bind_loop(const LoopSpec& loop, int block, const std::string& where);
  // Every byte that `operand` reaches over `dims` lies within its base, is aligned, typed and, for a write, writable.
  void check(const Operand& operand, int rank, const int64_t* dims, Access access, int block, const std::string& where) const;
  // The same for `bytes` bytes at `offset`.
  void check_span(int base, DType dtype, int64_t offset, int64_t low, int64_t high, Access access, int block,
                  const std::string& where) const;
  void check_base(int base, const std::string& where) const;
  bool is_owned(int block) const { return block == 0 || blocks_[block].parent >= 0; }
  bool in_parallel(int block) const { return blocks_[block].in_parallel; }

 private:
  static constexpr int kUnbound = -1, kAnyType = -1, kMaxDepth = 32;
  struct Reach {  // of one base: bytes [low, high) about its pointer
    int64_t low = 0, high = 0;
    int64_t align = 64;
    int dtype = kAnyType;    // memory of an array holds one type
    bool writable = false;   // for bases that a loop binds; the others depend on the block
    int block = kUnbound;    // usable in this block and below
  };
  struct Place {
    int parent = -1;
    int depth = 0;
    bool in_parallel = false;
  };
  bool usable(int base, int block) const;
  bool writable(int base, int block) const;
  Reach reach_of_slice(const Base& base, const LoopSpec& loop, int block, const std::string& where) const;
  Reach reach_of_carry(const Base& base, int block, const std::string& where) const;
  void claim(int base, BaseKind kind, const std::string& where) const;

  const PlanSpec& plan_;
  std::vector<Reach> reach_;
  std::vector<Place> blocks_;
};

}  // namespace fastmeta
