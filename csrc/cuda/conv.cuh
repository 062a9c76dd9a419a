// CONV and its two transposes as products whose factors are read through windows; nothing is unfolded in memory.
#pragma once
#include "product.cuh"

namespace fastmeta {
namespace device {

struct ConvWords {
  int type, kind, n_products;
  int64_t n, h, w, c, kh, kw, o, oh, ow, stride_h, stride_w, pad_h, pad_w;
  const int64_t *products, *out, *cin, *phases;
  static constexpr int kOperand = 3 + 4;

  FM_BOTH explicit ConvWords(const int64_t* instr) {
    type = int(instr[3]);
    kind = int(instr[4]);
    const int64_t* d = instr + 5;
    n = d[0], h = d[1], w = d[2], c = d[3], kh = d[4], kw = d[5], o = d[6], oh = d[7], ow = d[8];
    stride_h = d[9], stride_w = d[10], pad_h = d[11], pad_w = d[12];
    n_products = int(d[13]);
    products = d + 14;
    out = products + n_products * 2 * kOperand;
    const int64_t* next = out + kOperand;
    cin = *next++ ? next : nullptr;
    phases = cin ? cin + kOperand : next;
  }
  FM_BOTH int64_t rows() const { return kind == 0 ? n * oh * ow : kind == 1 ? n * h * w : kh * kw * c; }
  FM_BOTH int64_t cols() const { return kind == 1 ? c : o; }
  FM_BOTH int64_t depth() const { return kind == 0 ? kh * kw * c : kind == 1 ? kh * kw * o : n * oh * ow; }
  FM_BOTH int64_t units() const { return tiles_of(rows(), cols()); }
};

// A map [images, rows, columns, channels] with any strides but unit channels.
template <class T> struct Map {
  const T* at;
  int64_t image, row, col;
  FM_DEVICE Map() {}
  FM_DEVICE Map(const Frame& frame, const int64_t* operand)
      : at(reinterpret_cast<const T*>(address(frame, operand))), image(operand[3]), row(operand[4]), col(operand[5]) {}
  FM_DEVICE const T* pixel(int64_t n, int64_t y, int64_t x) const { return at + n * image + y * row + x * col; }
};

template <class T, int Kind> struct ConvFactors {
  // kinds 0 and 1: a pixel of the result, as a row; kind 2: a tap and its channel
  struct Place {
    int64_t n, y, x, c;
  };
  const ConvWords& s;
  int64_t rows, cols, terms;
  int n_products;
  Map<T> maps[4], others[4];  // others: maps in kind 2
  const T* weights[4];
  T* out;
  const T* cin;

  FM_DEVICE ConvFactors(const Frame& frame, const ConvWords& words) : s(words), rows(words.rows()), cols(words.cols()), terms(words.depth()), n_products(words.n_products) {
    for (int p = 0; p < n_products; ++p) {
      const int64_t *a = s.products + p * 2 * ConvWords::kOperand, *b = a + ConvWords::kOperand;
      maps[p] = Map<T>(frame, a);
      if (Kind == 2) others[p] = Map<T>(frame, b);
      else weights[p] = reinterpret_cast<const T*>(address(frame, b));
    }
    out = reinterpret_cast<T*>(address(frame, s.out));
    cin = s.cin ? reinterpret_cast<const T*>(address(frame, s.cin)) : nullptr;
  }
  FM_DEVICE int64_t depth(int) const { return terms; }
  FM_DEVICE bool a_by_depth(int) const { return Kind != 2; }
  FM_DEVICE bool b_by_depth(int) const { return Kind == 1; }
  FM_DEVICE Place row(int, int64_t m) const {
    Place at{};
    if (Kind == 2) {
      at.c = split(m, s.c);
      at.x = split(m, s.kw);
      at.y = m;
    } else {
      at.x = split(m, Kind == 0 ? s.ow : s.w);
      at.y = split(m, Kind == 0 ? s.oh : s.h);
      at.n = m;
    }
    return at;
  }
  FM_DEVICE int64_t col(int, int64_t n) const { return n; }
  // x of image n under tap (i, j) of window (p, q), 0 outside the map
  FM_DEVICE T under(const Map<T>& map, int64_t n, int64_t p, int64_t q, int64_t i, int64_t j, int64_t c) const {
    const int64_t y = p * s.stride_h + i - s.pad_h, x = q * s.stride_w + j - s.pad_w;
    return y >= 0 && y < s.h && x >= 0 && x < s.w ? map.pixel(n, y, x)[c] : T(0);
  }
  FM_DEVICE T a(int p, const Place& at, int64_t k) const {
    if (Kind == 0) {
      const int64_t c = split(k, s.c), j = split(k, s.kw);
      return under(maps[p], at.n, at.y, at.x, k, j, c);
    }
    if (Kind == 1) {  // the window that has pixel (y, x) under tap (i, j), where there is one
      const int64_t o = split(k, s.o), j = split(k, s.kw);
      int64_t y = at.y + s.pad_h - k, x = at.x + s.pad_w - j;
      if (y < 0 || x < 0 || split(y, s.stride_h) != 0 || split(x, s.stride_w) != 0 || y >= s.oh || x >= s.ow) return T(0);
      return maps[p].pixel(at.n, y, x)[o];
    }
    const int64_t q = split(k, s.ow), r = split(k, s.oh);
    return under(maps[p], k, r, q, at.y, at.x, at.c);
  }
  FM_DEVICE T b(int p, int64_t n, int64_t k) const {
    if (Kind == 0) return weights[p][k * s.o + n];
    if (Kind == 1) {  // k = (tap, o), n = c
      const int64_t o = split(k, s.o);
      return weights[p][(k * s.c + n) * s.o + o];
    }
    const int64_t q = split(k, s.ow), r = split(k, s.oh);
    return others[p].pixel(k, r, q)[n];
  }
  FM_DEVICE void write(int64_t m, int64_t n, T sum) const {
    const int64_t at = m * cols + n;  // every target is dense
    out[at] = cin ? sum + cin[at] : sum;
  }
};

template <class T> FM_NOINLINE void conv_unit(const Team& team, const Frame& frame, const int64_t* instr, int64_t unit) {
  const ConvWords s(instr);
  if (s.kind == 0) product_unit<T>(team, ConvFactors<T, 0>(frame, s), unit);
  else if (s.kind == 1) product_unit<T>(team, ConvFactors<T, 1>(frame, s), unit);
  else product_unit<T>(team, ConvFactors<T, 2>(frame, s), unit);
}

}  // namespace device
}  // namespace fastmeta
