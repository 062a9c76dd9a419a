#include "distance.hpp"

#include <algorithm>

namespace fastmeta {

namespace {

constexpr int64_t kUnitRows = 32;      // of x, at least: what the kernel takes at a time
constexpr double kUnitWork = 4e5;      // features of pairs: less is not worth a part of a team's work
constexpr int64_t kUnitFeatures = 64;  // at least

}  // namespace

template <class T>
Distance<T>::Distance(int tag, const DistanceSpec& spec, const Kernels& kernels) : Instruction(tag), x_(spec.x), y_(spec.y), out_(spec.out) {
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
  if constexpr (sizeof(T) == 4) kernel_ = kernels.distance_f32[spec.metric];
  else kernel_ = kernels.distance_f64[spec.metric];
  const double row = std::max(1.0, double(m) * double(spec.features));
  long_ = row * double(n) > 4 * kUnitWork;
  unit_rows_ = long_ ? std::clamp(int64_t(kUnitWork / row) / kUnitRows * kUnitRows, kUnitRows, std::max(n, kUnitRows)) : n;
  units_ = (n + unit_rows_ - 1) / unit_rows_;
}

template <class T>
int64_t Distance<T>::scratch_bytes() const {
  return (kernel_.scratch(args_) * int64_t(sizeof(T)) + 63) / 64 * 64;
}

template <class T>
void Distance<T>::run_unit(Worker& worker, T* prepared, int64_t unit) const {
  DistanceArgs<T> args = args_;
  const int64_t first = unit * unit_rows_;
  args.x_rows = std::min(unit_rows_, args_.x_rows - first);
  args.x = worker.at<T>(x_) + first * args.x_row;
  args.y = worker.at<T>(y_);
  args.out = worker.at<T>(out_) + first * args.out_x;
  args.prepared = prepared;
  kernel_.run(args);
  if (long_) worker.poll();
}

template <class T>
void Distance<T>::run(Worker& worker) const {
  struct Context {
    const Distance* self;
    T* prepared;
  } context{this, reinterpret_cast<T*>(worker.scratch)};
  DistanceArgs<T> args = args_;
  args.y = worker.at<T>(y_);
  args.prepared = context.prepared;
  kernel_.prepare(args);
  run_parts(worker, units_, [](const void* argument, Worker& w, int64_t unit) {
    const Context& c = *static_cast<const Context*>(argument);
    c.self->run_unit(w, c.prepared, unit);
  }, &context);
}

template <class T>
Pull<T>::Pull(int tag, const PullSpec& spec, const Kernels& kernels, const PlanSpec& plan)
    : Instruction(tag), x_(spec.x), y_(spec.y), weight_(spec.weight), out_(spec.out_x), out_y_(spec.out_y), both_(spec.has_x && spec.has_y), products_(spec.metric == kPullProducts) {
  int64_t n = spec.n, m = spec.m;
  if (both_ ? n < m : !spec.has_x) {  // the derivative is the same from both sides; the longer one passes by
    std::swap(n, m);
    std::swap(x_, y_);
    std::swap(weight_.stride[0], weight_.stride[1]);
    std::swap(out_, out_y_);
  }
  auto choose = [&](const PullFns<T>& fns) { kernel_ = both_ ? fns.both : fns.one; };
  if constexpr (sizeof(T) == 4) choose(kernels.pull_f32[spec.metric]), sum_weights_ = kernels.sum_weights_f32;
  else choose(kernels.pull_f64[spec.metric]), sum_weights_ = kernels.sum_weights_f64;
  args_.x_rows = n;
  args_.y_rows = m;
  args_.features = spec.features;
  args_.x_row = x_.stride[0];
  args_.y_row = y_.stride[0];
  args_.weight_x = weight_.stride[0];
  args_.weight_y = weight_.stride[1];
  if (both_) streamed_ = Streamed(plan, out_);
  args_.out_row = out_.stride[0];
  args_.out_y_row = out_y_.stride[0];
  by_rows_ = !both_ && n >= spec.features / kUnitFeatures;
  const int64_t all = by_rows_ ? n : spec.features, least = by_rows_ ? kUnitRows : kUnitFeatures;
  const double work = double(n) * double(m) * double(spec.features);
  long_ = work > 4 * kUnitWork;
  unit_ = long_ ? std::clamp(int64_t(kUnitWork / work * double(all)) / least * least, least, std::max(all, least)) : all;
  units_ = (all + unit_ - 1) / unit_;
}

template <class T>
struct Pull<T>::Shared {
  const T *weight, *x_sum, *y_sum;
};

template <class T>
int64_t Pull<T>::scratch_bytes() const {
  return !products_ ? 0 : ((args_.x_rows + args_.y_rows) * int64_t(sizeof(T)) + 63) / 64 * 64;
}

template <class T>
void Pull<T>::run_unit(Worker& worker, const Shared& shared, int64_t unit) const {
  PullArgs<T> args = args_;
  const int64_t first = unit * unit_;
  args.x = worker.at<T>(x_);
  args.y = worker.at<T>(y_);
  args.weight = shared.weight;
  args.x_sum = shared.x_sum;
  args.y_sum = shared.y_sum;
  args.out = worker.at<T>(out_);
  if (both_) args.out_y = worker.at<T>(out_y_);
  args.streamed = streamed_.in(*worker.call);
  if (by_rows_) {
    args.x_rows = std::min(unit_, args_.x_rows - first);
    args.x += first * args.x_row;
    args.weight += first * args.weight_x;
    if (products_) args.x_sum += first;
    args.out += first * args.out_row;
  } else {
    args.features = std::min(unit_, args_.features - first);
    args.x += first;
    args.y += first;
    args.out += first;
    if (both_) args.out_y += first;
  }
  kernel_(args);
  if (long_) worker.poll();
}

template <class T>
void Pull<T>::run(Worker& worker) const {
  T* const scratch = reinterpret_cast<T*>(worker.scratch);
  Shared shared{worker.at<T>(weight_), nullptr, nullptr};
  if (products_) {
    sum_weights_(shared.weight, args_.weight_x, args_.weight_y, args_.x_rows, args_.y_rows, scratch, scratch + args_.x_rows);
    shared.x_sum = scratch;
    shared.y_sum = scratch + args_.x_rows;
  }
  struct Context {
    const Pull* self;
    const Shared* shared;
  } context{this, &shared};
  run_parts(worker, units_, [](const void* argument, Worker& w, int64_t unit) {
    const Context& c = *static_cast<const Context*>(argument);
    c.self->run_unit(w, *c.shared, unit);
  }, &context);
}

template class Pull<float>;
template class Pull<double>;
template class Distance<float>;
template class Distance<double>;

}  // namespace fastmeta
