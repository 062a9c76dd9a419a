// Small instructions as a list of kernel calls that lie one after another in memory.
//
// A program of many small instructions waits for its own text more than for anything else: as objects they are a kilobyte
// each, in several places, and together they leave the first-level cache. A call on the tape is a kernel, its sizes, and
// its pointers as bases and offsets; it is read once and in order, as processors like to fetch.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "strided.hpp"
#include "worker.hpp"

namespace fastmeta {

// A base and a byte offset in one word. Offsets may be negative: from a slice or a carry back into what it is a part of.
class Spot {
 public:
  Spot() = default;
  Spot(int base, int64_t offset) : word_(uint64_t(offset) << kBaseBits | uint64_t(base)) {}
  char* in(char* const* bases) const { return bases[word_ & ((1 << kBaseBits) - 1)] + (int64_t(word_) >> kBaseBits); }

 private:
  static constexpr int kBaseBits = 17;  // a plan has at most 2^16 bases, and the scratch comes on top
  uint64_t word_ = 0;
};

// Pointers of the arguments below are not looked at: each comes as a spot.
class Tape {
 public:
  Tape(const Kernels& kernels, int scratch_base) : kernels_(&kernels), scratch_base_(scratch_base) {}

  Spot scratch(int64_t offset) const { return Spot(scratch_base_, offset); }

  // cin: nullptr where nothing is added; gate: any unless is_gate(args.after); factors: of A and B of each product in turn
  template <class T>
  void product(const GemmArgs<T>& args, const GemmTiles<T>& tiles, Spot c, const Spot* cin, Spot gate, const Spot* factors);
  void tile(TileFn fn, const TileArgs& args, Spot dst, Spot x, Spot y, Spot z);
  void reduce(ReduceFn fn, const ReduceArgs& args, Spot dst, Spot x);
  void copy(const PlaneCopy& copy, Spot dst, Spot src);

  size_t end() const { return bytes_.size(); }
  void run(Worker& worker, size_t from, size_t to) const;

 private:
  enum class Kind : int64_t { Product32, Product64, Tile, Reduce, Copy };
  class Reader;
  template <class U> void put(const U* values, int64_t count);
  template <class U> void put(const U& value) { put(&value, 1); }
  template <class T> static void run_product(Reader& from, char* const* bases);

  const Kernels* kernels_;
  int scratch_base_;
  std::vector<char> bytes_;
};

}  // namespace fastmeta
