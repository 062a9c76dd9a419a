#include "depthwise.hpp"

#include <algorithm>

namespace fastmeta {

namespace {

constexpr double kPartWork = 1e6;  // multiply-adds: less is not worth a part of a team's work, nor a look whether to stop

}  // namespace

template <class T>
Depthwise<T>::Depthwise(int tag, const DepthwiseSpec& spec, const Kernels& kernels) : Instruction(tag), spec_(spec), lanes_(kernels.vector_bytes / int64_t(sizeof(T))) {
  if constexpr (sizeof(T) == 4) row_ = kernels.depthwise_f32, taps_ = kernels.depthwise_weight_f32;
  else row_ = kernels.depthwise_f64, taps_ = kernels.depthwise_weight_f64;
  units_ = spec.weight ? (spec.c + lanes_ - 1) / lanes_ * spec.taps[0] : spec.n * spec.out[0];
  const double work = double(spec.n) * double(spec.out[0] * spec.out[1]) * double(spec.taps[0] * spec.taps[1]) * double(spec.c);
  parts_ = std::clamp<int64_t>(int64_t(work / kPartWork), 1, units_);
}

template <class T>
void Depthwise<T>::row(Worker& worker, int64_t unit) const {
  const DepthwiseSpec& s = spec_;
  const int64_t n = unit / s.out[0], p = unit % s.out[0];
  DepthwiseArgs<T> a;
  a.pixels = s.out[1], a.channels = s.c, a.rows = s.taps[0], a.cols = s.taps[1];
  a.x = worker.at<const T>(s.x) + n * s.x.stride[0] + p * s.stride[0] * s.x.stride[1];
  a.x_pixel = s.stride[1] * s.x.stride[2], a.x_row = s.dilation[0] * s.x.stride[1], a.x_col = s.dilation[1] * s.x.stride[2];
  a.w = worker.at<const T>(s.other), a.w_row = s.other.stride[0], a.w_col = s.other.stride[1];
  a.y = worker.at<T>(s.target) + n * s.target.stride[0] + p * s.target.stride[1], a.y_pixel = s.target.stride[2];
  row_(a);
}

template <class T>
void Depthwise<T>::taps(Worker& worker, int64_t unit) const {
  const DepthwiseSpec& s = spec_;
  const int64_t i = unit % s.taps[0], c = unit / s.taps[0] * lanes_;
  DepthwiseWeightArgs<T> a;
  a.images = s.n, a.rows = s.out[0], a.pixels = s.out[1], a.channels = std::min(lanes_, s.c - c), a.cols = s.taps[1];
  a.x = worker.at<const T>(s.x) + i * s.dilation[0] * s.x.stride[1] + c;
  a.x_image = s.x.stride[0], a.x_row = s.stride[0] * s.x.stride[1], a.x_pixel = s.stride[1] * s.x.stride[2], a.x_col = s.dilation[1] * s.x.stride[2];
  a.g = worker.at<const T>(s.other) + c, a.g_image = s.other.stride[0], a.g_row = s.other.stride[1], a.g_pixel = s.other.stride[2];
  a.out = worker.at<T>(s.target) + i * s.target.stride[0] + c, a.out_col = s.target.stride[1];
  taps_(a);
}

template <class T>
void Depthwise<T>::run(Worker& worker) const {
  run_parts(worker, parts_, [](const void* argument, Worker& w, int64_t part) {
    const Depthwise& self = *static_cast<const Depthwise*>(argument);
    const int64_t first = self.units_ * part / self.parts_, last = self.units_ * (part + 1) / self.parts_;
    for (int64_t unit = first; unit < last && !w.stopped(); ++unit) self.spec_.weight ? self.taps(w, unit) : self.row(w, unit);
    if (self.parts_ > 1) w.poll();
  }, this);
}

template class Depthwise<float>;
template class Depthwise<double>;

}  // namespace fastmeta
