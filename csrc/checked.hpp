// int64 arithmetic that notices overflow: the check of a plan must hold for any words whatever.
#pragma once
#include <cstdint>

namespace fastmeta {

// `ok` turns false at the first overflow and stays so; read it once at the end of a computation.
class Checked {
 public:
  Checked(int64_t value = 0) : value_(value) {}  // NOLINT: an int64 is a Checked
  Checked operator+(Checked other) const {
    Checked out;
    out.ok_ = !__builtin_add_overflow(value_, other.value_, &out.value_) && ok_ && other.ok_;
    return out;
  }
  Checked operator*(Checked other) const {
    Checked out;
    out.ok_ = !__builtin_mul_overflow(value_, other.value_, &out.value_) && ok_ && other.ok_;
    return out;
  }
  bool ok() const { return ok_; }
  int64_t value() const { return value_; }
  bool within(int64_t low, int64_t high) const { return ok_ && low <= value_ && value_ <= high; }

 private:
  int64_t value_;
  bool ok_ = true;
};

}  // namespace fastmeta
