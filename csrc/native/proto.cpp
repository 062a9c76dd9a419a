#include "proto.hpp"

#include <algorithm>

namespace fastmeta {

template <class T>
Proto<T>::Proto(int tag, const ProtoSpec& spec, const Kernels& kernels, const PlanSpec& plan) : Instruction(tag), spec_(spec) {
  if (spec.has_x) streamed_ = Streamed(plan, spec.out_x);
  if constexpr (sizeof(T) == 4) kernel_ = kernels.proto_f32;
  else kernel_ = kernels.proto_f64;
  args_.x_rows = spec.n;
  args_.y_rows = spec.m;
  args_.features = spec.features;
  args_.x_row = spec.x.stride[0];
  args_.y_row = spec.y.stride[0];
  args_.share_step = spec.share.stride[0];
  args_.absent_step = spec.absent.stride[0];
  args_.factor = T(spec.factor);
  args_.out_row = spec.out_x.stride[0];
  args_.out_y_row = spec.out_y.stride[0];
}

template <class T>
int64_t Proto<T>::scratch_bytes() const {
  return (proto_scratch(spec_.m, spec_.features, sizeof(T)) * int64_t(sizeof(T)) + spec_.n * int64_t(sizeof(int32_t)) + 63) / 64 * 64;
}

template <class T>
void Proto<T>::run(Worker& worker) const {
  ProtoArgs<T> args = args_;
  args.scratch = reinterpret_cast<T*>(worker.scratch);
  // A copy, since what is checked must not change before it is used.
  const int32_t* label = worker.at<const int32_t>(spec_.label);
  int32_t* const checked = reinterpret_cast<int32_t*>(args.scratch + proto_scratch(spec_.m, spec_.features, sizeof(T)));
  const int64_t step = spec_.label.stride[0];
  const auto is_row = [last = uint32_t(std::min<int64_t>(spec_.m - 1, INT32_MAX))](int32_t i) { return uint32_t(i) <= last; };  // in 32 bits: vectors
  bool good = true;
  for (int64_t i = 0; i < spec_.n; ++i) {
    checked[i] = label[i * step];
    good &= is_row(checked[i]);
  }
  if (!good) {
    worker.failed = true;
    return worker.call->record({tag, worker.task, *std::find_if_not(checked, checked + spec_.n, is_row), spec_.m});
  }
  args.label = checked;
  args.streamed = streamed_.in(*worker.call);
  args.x = worker.at<const T>(spec_.x);
  args.y = worker.at<const T>(spec_.y);
  args.share = worker.at<const T>(spec_.share);
  args.absent = worker.at<const uint8_t>(spec_.absent);
  if (spec_.has_loss) args.loss = worker.at<T>(spec_.loss);
  if (spec_.has_right) args.right = worker.at<T>(spec_.right);
  if (spec_.has_x) args.out = worker.at<T>(spec_.out_x);
  if (spec_.has_y) args.out_y = worker.at<T>(spec_.out_y);
  kernel_(args);
}

template class Proto<float>;
template class Proto<double>;

}  // namespace fastmeta
