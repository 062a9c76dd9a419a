#include "inverse.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace fastmeta {

namespace {

constexpr double kPartWork = 2e6;  // multiply-adds: less is not worth a part of a team's work, nor a look whether to stop

}  // namespace

template <class T>
Inverse<T>::Inverse(int tag, const InverseSpec& spec, const Kernels& kernels) : Instruction(tag), spec_(spec) {
  if constexpr (sizeof(T) == 4) block_ = kernels.inverse_f32;
  else block_ = kernels.inverse_f64;
  const double n = double(spec.n), work = n * n * n;
  long_ = work / n * kInverseRows > kPartWork;
  const auto some = int64_t(std::max(1.0, kPartWork / std::max(1.0, work)));  // matrices of a part
  parts_ = (spec.count + some - 1) / some;
}

template <class T>
int64_t Inverse<T>::scratch_bytes() const {
  return (inverse_scratch(spec_.n, sizeof(T)) + 2 * lines(spec_.n, sizeof(T))) * int64_t(sizeof(T));
}

template <class T>
void Inverse<T>::invert(Worker& worker, const T* x, T* out, T* pivots) const {
  const int64_t n = spec_.n, row = spec_.out.stride[1], x_row = spec_.x.stride[1], x_column = spec_.x.stride[2];
  T* const scratch = reinterpret_cast<T*>(worker.scratch);
  T *const least = scratch + inverse_scratch(n, sizeof(T)), *const found = least + lines(n, sizeof(T));
  const T rounding = T(double(n) * double(std::numeric_limits<T>::epsilon()));
  for (int64_t i = 0; i < n; ++i) {
    if (x_column == 1) std::memcpy(out + i * row, x + i * x_row, size_t(n) * sizeof(T));
    else
      for (int64_t k = 0; k < n; ++k) out[i * row + k] = x[i * x_row + k * x_column];
    least[i] = std::abs(out[i * row + i]) * rounding;
  }
  const InverseArgs<T> args{n, out, row, least, found, scratch};
  for (int64_t from = 0; from < n; from += kInverseRows) {
    block_(args, from);
    if (long_) worker.poll();
    if (worker.stopped()) return;
  }
  for (int64_t i = 0; pivots && i < n; ++i) pivots[i * spec_.pivots.stride[1]] = found[i];
}

template <class T>
void Inverse<T>::run(Worker& worker) const {
  run_parts(worker, parts_, [](const void* argument, Worker& w, int64_t part) {
    const Inverse& self = *static_cast<const Inverse*>(argument);
    const int64_t first = self.spec_.count * part / self.parts_, last = self.spec_.count * (part + 1) / self.parts_;
    const T* const x = w.at<const T>(self.spec_.x);
    T* const out = w.at<T>(self.spec_.out);
    T* const pivots = self.spec_.has_pivots ? w.at<T>(self.spec_.pivots) : nullptr;
    for (int64_t k = first; k < last && !w.stopped(); ++k)
      self.invert(w, x + k * self.spec_.x.stride[0], out + k * self.spec_.out.stride[0], pivots ? pivots + k * self.spec_.pivots.stride[0] : nullptr);
  }, this);
}

template class Inverse<float>;
template class Inverse<double>;

}  // namespace fastmeta
