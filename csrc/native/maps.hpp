// What the kinds of convolution share: units of a map, padded copies of maps, and the phases that follow.
#pragma once
#include <algorithm>
#include <vector>

#include "pass.hpp"
#include "worker.hpp"

namespace fastmeta {

constexpr double kSplitWork = 2e6;  // multiply-adds, about 20 us: less is not worth a team
constexpr int64_t kMostParts = 16;

inline int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
inline int64_t round_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

inline double multiply_adds(const ConvSpec& spec) {
  return double(spec.n) * double(spec.out[0] * spec.out[1]) * double(spec.taps[0] * spec.taps[1]) * double(spec.c) * double(spec.o) * double(spec.products.size());
}

// Images x rows of a map.
struct Unit {
  int64_t image, images, row, rows;
};

// Maps cut into units of about so many pixels: several images, or a band of rows of one.
struct Units {
  int64_t n = 0, height = 0;      // of all maps
  int64_t images = 1, rows = 1;   // of a unit, at most
  int64_t bands = 1, count = 1;

  Units() = default;
  // fewest: if there are so many images, at least so many units, for a team.
  Units(int64_t n, const int64_t (&map)[2], int64_t pixels, int64_t fewest);
  Unit operator[](int64_t number) const;
};

// A dim of the map that is read, and of its padded copy: place `at` of the copy holds place source(at) of the map.
// Where windows do not overlap, what lies between them is left out of the copy.
struct Axis {
  int64_t size;        // of the map
  int64_t step, kept;  // from window to window, in the map and in the copy
  int64_t pad;
  int64_t source(int64_t at) const { return at / kept * step + at % kept - pad; }
};

struct PaddedCopy {
  Axis down, across;
  int64_t columns;  // of the copy
  int64_t pixel;    // bytes
  // Rows first .. first + rows of the copy of one image, whose rows and columns are so many bytes apart.
  void copy(const char* from, int64_t row_step, int64_t column_step, char* to, int64_t first, int64_t rows) const;
};

// The phases after a convolution: by units as long as they can, then whole.
class UnitPhases {
 public:
  UnitPhases() = default;
  UnitPhases(const std::vector<Phase>& phases, const Kernels& kernels, bool by_units);
  int64_t scratch_bytes() const { return scratch_bytes_; }
  // In how many parts may a team run so many units? Each has joints of its own (see BoundPhase).
  int64_t parts(int64_t units) const { return !joinable_ ? 1 : joint_bytes_ > 0 ? std::min(units, kMostParts) : units; }
  int64_t joint_bytes() const { return joint_bytes_; }  // of a part

  void fill(Worker& worker) const;  // once, before the units
  // unit(worker, number, joints) for all units, `parts` of them at the same time; joints: room for that many.
  template <class Fn>
  void each(Worker& worker, int64_t units, int64_t parts, char* joints, Fn unit) const;
  void after(Worker& worker, const Unit& unit, const int64_t (&map)[2], char* joints) const;
  void finish(Worker& worker) const;

 private:
  struct Following {
    bool by_units;
    int rank;  // 2: images, rows and columns are one dim; 3: rows and columns
    int64_t joints;  // byte offset of its own
    BoundPhase phase;
  };
  void begin(char* joints) const;
  void join(Worker& worker, const char* joints) const;

  std::vector<Following> phases_;
  bool joinable_ = true;
  int64_t joint_bytes_ = 0, scratch_bytes_ = 0;
};

template <class Fn>
void UnitPhases::each(Worker& worker, int64_t units, int64_t parts, char* joints, Fn unit) const {
  struct Context {
    const UnitPhases* self;
    Fn& unit;
    int64_t units, parts;
    char* joints;
  } context{this, unit, units, parts, parts > 1 && joint_bytes_ > 0 ? joints : nullptr};
  run_parts(worker, parts, [](const void* argument, Worker& w, int64_t part) {
    const Context& c = *static_cast<const Context*>(argument);
    char* const own = c.joints ? c.joints + part * c.self->joint_bytes_ : nullptr;
    if (own) c.self->begin(own);
    for (int64_t k = c.units * part / c.parts; k < c.units * (part + 1) / c.parts && !w.stopped(); ++k) c.unit(w, k, own);
  }, &context);
  if (context.joints && !worker.stopped())
    for (int64_t part = 0; part < parts; ++part) join(worker, joints + part * joint_bytes_);
}

}  // namespace fastmeta
