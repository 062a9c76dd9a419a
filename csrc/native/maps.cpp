#include "maps.hpp"

#include <algorithm>
#include <cstring>

namespace fastmeta {

namespace {

// The phase with dims d and d + 1 as one; false where some operand does not walk them so.
bool merge(Phase& phase, int d) {
  auto one = [&](Operand& operand) {
    int64_t& outer = operand.stride[d];
    int64_t& inner = operand.stride[d + 1];
    if (phase.dims[d] == 1) outer = inner * phase.dims[d + 1];
    else if (phase.dims[d + 1] == 1) inner = outer;
    if (outer != inner * phase.dims[d + 1]) return false;
    std::copy(operand.stride + d + 1, operand.stride + phase.rank, operand.stride + d);
    return true;
  };
  for (Operand& load : phase.loads)
    if (!one(load)) return false;
  for (Store& store : phase.stores)
    if (!one(store.target)) return false;
  phase.dims[d] *= phase.dims[d + 1];
  std::copy(phase.dims + d + 2, phase.dims + phase.rank, phase.dims + d + 1);
  --phase.rank;
  return true;
}

}  // namespace

Units::Units(int64_t n, const int64_t (&map)[2], int64_t pixels, int64_t fewest) : n(n), height(map[0]), rows(map[0]) {
  const int64_t per_image = map[0] * map[1];
  if (per_image <= pixels) {
    images = std::min(pixels / per_image, ceil_div(n, fewest));
  } else {
    bands = ceil_div(height, std::max<int64_t>(1, pixels / map[1]));
    rows = ceil_div(height, bands);
    bands = ceil_div(height, rows);
  }
  count = ceil_div(n, images) * bands;
}

Unit Units::operator[](int64_t number) const {
  const int64_t image = number / bands * images, row = number % bands * rows;
  return {image, std::min(images, n - image), row, std::min(rows, height - row)};
}

void PaddedCopy::copy(const char* from, int64_t row_step, int64_t column_step, char* to, int64_t first_row, int64_t rows) const {
  // Columns first .. last of the copy are in the map, at one run of places where no column is left out.
  const bool run = across.kept == across.step;
  const int64_t first = std::clamp<int64_t>(across.pad, 0, columns), last = std::clamp<int64_t>(across.pad + across.size, first, columns);
  for (int64_t r = 0; r < rows; ++r, to += columns * pixel) {
    const int64_t h = down.source(first_row + r);
    if (h < 0 || h >= down.size) {
      std::memset(to, 0, size_t(columns * pixel));
      continue;
    }
    const char* row = from + h * row_step;
    if (!run) {
      for (int64_t q = 0; q < columns; ++q) {
        const int64_t w = across.source(q);
        if (w < 0 || w >= across.size) std::memset(to + q * pixel, 0, size_t(pixel));
        else std::memcpy(to + q * pixel, row + w * column_step, size_t(pixel));
      }
      continue;
    }
    row += across.source(first) * column_step;
    std::memset(to, 0, size_t(first * pixel));
    if (column_step == pixel) std::memcpy(to + first * pixel, row, size_t((last - first) * pixel));
    else
      for (int64_t q = first; q < last; ++q, row += column_step) std::memcpy(to + q * pixel, row, size_t(pixel));
    std::memset(to + last * pixel, 0, size_t((columns - last) * pixel));
  }
}

UnitPhases::UnitPhases(const std::vector<Phase>& phases, const Kernels& kernels, bool by_units) {
  // After one unit the phases are free to choose their own layout; what follows a phase that runs at the end waits for it.
  for (const Phase& phase : phases) {
    Phase merged = phase;
    int rank = 4;
    if (by_units && phase.rowwise && merge(merged, 1)) {
      Phase more = merged;
      rank = 3;
      if (merge(more, 0)) merged = more, rank = 2;
    }
    by_units = rank < 4;
    phases_.push_back({by_units, rank, joint_bytes_, BoundPhase(by_units ? merged : phase, kernels, by_units)});
    const BoundPhase& bound = phases_.back().phase;
    if (by_units) {
      joinable_ = joinable_ && bound.joinable();
      joint_bytes_ += bound.joint_bytes();
    }
    scratch_bytes_ = std::max(scratch_bytes_, round_up(bound.scratch_bytes()));
  }
}

void UnitPhases::fill(Worker& worker) const {
  for (const Following& f : phases_)
    if (f.by_units) f.phase.fill(worker);
}

void UnitPhases::begin(char* joints) const {
  for (const Following& f : phases_)
    if (f.by_units) f.phase.begin(joints + f.joints);
}

void UnitPhases::join(Worker& worker, const char* joints) const {
  for (const Following& f : phases_)
    if (f.by_units) f.phase.join(worker, joints + f.joints);
}

void UnitPhases::after(Worker& worker, const Unit& unit, const int64_t (&map)[2], char* joints) const {
  const int64_t per_image = map[0] * map[1], first = unit.row * map[1], last = (unit.row + unit.rows) * map[1];
  for (const Following& f : phases_) {
    if (!f.by_units) continue;
    char* const own = joints ? joints + f.joints : nullptr;
    if (f.rank == 2) f.phase.run_rows(worker, nullptr, unit.image * per_image + first, (unit.image + unit.images - 1) * per_image + last, own);
    else
      for (int64_t image = unit.image; image < unit.image + unit.images; ++image) f.phase.run_rows(worker, &image, first, last, own);
  }
}

void UnitPhases::finish(Worker& worker) const {
  for (const Following& f : phases_)
    if (!f.by_units) f.phase.run(worker);
}

}  // namespace fastmeta
