#include "distance.hpp"

#include <algorithm>

namespace fastmeta {

namespace {

constexpr int64_t kUnitRows = 32;      // of x, at least: what the kernel takes at a time
constexpr double kUnitWork = 4e5;      // features of pairs: less is not worth a part of a team's work

}  // namespace

template <class T>
Distance<T>::Distance(int tag, const DistanceSpec& spec, const Kernels& kernels) : Instruction(tag), metric_(Metric(spec.metric)), x_(spec.x), y_(spec.y), out_(spec.out) {
  int64_t n = spec.n, m = spec.m, out_x = spec.out.stride[0], out_y = spec.out.stride[1];
  if (n < m) {  // a distance is the same from both sides; units are of the longer one
    std::swap(n, m);
    std::swap(x_, y_);
    std::swap(out_x, out_y);
  }
  args_.x_rows = n;
  args_.y_rows = m;
  args_.features = spec.features;
  args_.x_row = x_.stride[0];
  args_.y_row = y_.stride[0];
  args_.out_x = out_x;
  args_.out_y = out_y;
  if constexpr (sizeof(T) == 4) kernel_ = kernels.distance_f32[metric_], row_norms_ = kernels.row_norms_f32;
  else kernel_ = kernels.distance_f64[metric_], row_norms_ = kernels.row_norms_f64;
  const double row = std::max(1.0, double(m) * double(spec.features));
  unit_rows_ = std::clamp(int64_t(kUnitWork / row) / kUnitRows * kUnitRows, kUnitRows, std::max(n, kUnitRows));
  units_ = m == 0 ? 0 : (n + unit_rows_ - 1) / unit_rows_;
  long_ = row * double(n) > 4 * kUnitWork;
}

template <class T>
int64_t Distance<T>::scratch_bytes() const {
  return metric_ == kAbsolute ? 0 : (args_.y_rows * int64_t(sizeof(T)) + 63) / 64 * 64;
}

template <class T>
void Distance<T>::run_unit(Worker& worker, const T* y_norm, int64_t unit) const {
  DistanceArgs<T> args = args_;
  const int64_t first = unit * unit_rows_;
  args.x_rows = std::min(unit_rows_, args_.x_rows - first);
  args.x = at(worker, x_) + first * args.x_row;
  args.y = at(worker, y_);
  args.out = at(worker, out_) + first * args.out_x;
  args.y_norm = y_norm;
  kernel_(args);
  if (long_) worker.poll();
}

template <class T>
void Distance<T>::run(Worker& worker) const {
  struct Context {
    const Distance* self;
    const T* y_norm;
  } context{this, reinterpret_cast<const T*>(worker.scratch)};
  if (metric_ != kAbsolute) row_norms_(metric_, at(worker, y_), args_.y_row, args_.y_rows, args_.features, reinterpret_cast<T*>(worker.scratch));
  auto part = [](const void* argument, Worker& w, int64_t unit) {
    const Context& c = *static_cast<const Context*>(argument);
    c.self->run_unit(w, c.y_norm, unit);
  };
  if (long_) return run_parts(worker, units_, part, &context);
  for (int64_t unit = 0; unit < units_; ++unit) run_unit(worker, context.y_norm, unit);
}

template class Distance<float>;
template class Distance<double>;

}  // namespace fastmeta
