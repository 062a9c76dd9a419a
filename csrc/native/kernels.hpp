// The kernels of one instruction set, as a table of function pointers.
//
// Each target (baseline, avx2, avx512) compiles the same sources in its own namespace and hands out one table;
// the executor picks a table at load and never looks at the instruction set again.
#pragma once
#include <cstdint>

namespace fastmeta {

enum DType : int { F32 = 0, F64 = 1, I32 = 2, BOOL = 3 };

// One factor pair of a sum of products, A [M, K] times B [K, N].  Strides in elements.
struct Product {
  int64_t k, a_m, a_k, b_k, b_n;
};

constexpr int kMaxProducts = 4;

// What becomes of an element of C while it is in a register.
enum class After : int64_t { kNothing, kRelu, kGate, kHalfGate };
constexpr bool is_gate(After after) { return after == After::kGate || after == After::kHalfGate; }

// C [M, N] = after(alpha * sum_p A_p B_p (+ CIN)).  C has unit column stride, but where it is one row; CIN may be C itself.
// What of it is known before it runs:
template <class T>
struct GemmArgs {
  int64_t m, n;
  int64_t n_products;
  T alpha;
  int64_t cin_m = 0, cin_n = 0;
  int64_t c_m = 0, c_n = 1;
  After after = After::kNothing;
  int64_t gate_m = 0, gate_n = 1;
  int64_t rows = 0;  // of the whole product, where these are a part of it: may decide the order of sums, as m may not
  int64_t lanes = 1;  // more: each element is a row of so many numbers, of tasks side by side; C has any strides, and nothing follows
  Product products[kMaxProducts] = {};  // last: behind those that there are nobody looks
};
// And its memory:
template <class T>
struct GemmData {
  T* c;
  const T* cin;   // nullptr: nothing is added
  const T* gate;  // C is 0 where this is not above 0 (kHalfGate: halved where it is 0); unit column stride (unit row stride where C is one column)
  const T* factors[2 * kMaxProducts];  // A and B of each product in turn
};

// What a product comes to that needs no packing: calls of tiles of C, rows m0 .. m1 from column n0 on; of the last vector's
// columns there are `tail`.  Sizes and strides decide, so that they are found once, not at every run.
template <class T>
struct GemmTile {
  void (*run)(const GemmArgs<T>&, const GemmData<T>&, int64_t m0, int64_t m1, int64_t n0, int tail);
  int64_t m0, m1, n0;
  int tail;
};
template <class T>
struct GemmTiles {
  static constexpr int most = 8;
  int count;     // 0: more than fit in here, or not only tiles
  bool swapped;  // they compute C^T = B^T A^T
  GemmTile<T> tile[most];
  int64_t packed;  // bytes of panels that each thread keeps
};

// Sums over windows: all that a convolution and its two transposes come to, once their maps are padded.
//   y[y_at[m] + n] = start[y_at[m] + n] + sum over sources and elements k of x[x_at[m] + source.x + k * x_step] * source.b[k * b_step + n]
// Rows m are pixels, sources rows of taps and elements their columns and channels (kinds 0 and 1); or rows m are taps and
// channels, sources rows of pixels and elements pixels (kind 2).
template <class T>
struct ConvSource {
  int64_t x;
  const T* b;
};
template <class T>
struct ConvArgs {
  int64_t m, n;  // of them: M, N
  const T* x;
  const int64_t *x_at, *y_at;  // [m]
  const ConvSource<T>* sources;
  int64_t n_sources;
  int64_t elements, x_step, b_step;
  const T* start;  // nullptr: zeros; may be y
  T* y;
};

// Winograd's transforms: of each tile and channel a small square of numbers into another.
enum WinogradTransform {
  kWinogradMap,      // the pixels of a map that a tile reads
  kWinogradSum,      // products into the pixels of a tile
  kWinogradSpread,   // its transpose
  kWinogradWeights,  // 3 x 3 taps
  kWinogradTaps,     // its transpose
  kWinogradTransforms
};
struct WinogradArgs {
  int64_t tiles, channels;
  const float* x;
  const int64_t* x_at;  // [tiles]
  int64_t x_row, x_column;
  float* y;
  const int64_t* y_at;  // [tiles]
  int64_t y_row, y_column;
  const uint8_t* missing = nullptr;  // Sum and Spread: [tiles], bits 0, 1: rows of pixels that are outside of the map, at the end; bits 2, 3: columns
  const float* start = nullptr;      // Sum and Taps: added, laid out as y; nullptr: zeros; may be y
};

// out[i * out_x + j * out_y] = distance of row i of x from row j of y; features have unit stride.
enum Metric {
  kSquared,   // sum (x - y)^2
  kAbsolute,  // sum abs(x - y)
  kCosine,    // 1 - cos(x, y); 1 where a row is zeros
  kMetrics
};
constexpr int64_t kShortRowBytes = 512;  // of features: up to here rows are short
template <class T>
struct DistanceArgs {
  int64_t x_rows, y_rows, features;
  const T *x, *y;
  int64_t x_row, y_row;
  T* prepared;  // scratch() elements: what prepare() makes of y
  T* out;
  int64_t out_x, out_y;
  const T* centre;  // inside PROTO
  T* squares;       // of rows of x, where they are asked for
};
template <class T>
struct DistanceFns {
  int64_t (*scratch)(const DistanceArgs<T>&);  // by numbers of rows and features
  void (*prepare)(const DistanceArgs<T>&);     // once for all rows of x
  void (*run)(const DistanceArgs<T>&);
};
constexpr int64_t lines(int64_t elements, int64_t size) { return (elements * size + 63) / 64 * 64 / size; }
constexpr bool short_rows(int64_t features, int64_t size) { return features * size <= kShortRowBytes; }
// Rows in vectors, whose last rows may be missing.
constexpr int64_t packed_size(int64_t rows, int64_t features, int64_t size) { return lines((rows + 3) * ((features * size + 15) / 16 * 16 / size), size); }

// out[i] = sum over rows j of y of weight[i, j] times the derivative of their distance in row i of x; out_y[j] the same for
// the rows of y.
enum PullMetric {
  kPullSquared,
  kPullAbsolute,
  kPullProducts,  // kPullSquared by products of centred rows
  kPullMetrics
};
template <class T>
struct PullArgs {
  int64_t x_rows, y_rows, features;
  const T *x, *y, *weight;
  int64_t x_row, y_row, weight_x, weight_y;
  T *out, *out_y;
  int64_t out_row, out_y_row;
  const T *x_sum, *y_sum;  // kPullProducts: twice the sum of each row's weights
  bool streamed;           // out is larger than the caches keep
};
template <class T>
struct PullFns {
  void (*one)(const PullArgs<T>&);  // out alone, out_y is nullptr
  void (*both)(const PullArgs<T>&);
};

// The cross-entropy of labels under softmax(-factor * squared distance) over the rows of y, rows of x weighted by shares, and
// what of it is asked for: itself, the shares of rows whose label is the nearest, and its derivatives.
template <class T>
struct ProtoArgs {
  int64_t x_rows, y_rows, features;
  const T *x, *y;
  int64_t x_row, y_row;
  const int32_t* label;  // of each row of x, dense
  const T* share;
  const uint8_t* absent;  // of each row of y: infinitely far
  int64_t share_step, absent_step;
  T factor;
  T *loss, *right, *out, *out_y;  // or nullptr
  int64_t out_row, out_y_row;
  bool streamed;  // out is larger than the caches keep
  T* scratch;     // proto_scratch() elements
};
constexpr int64_t kProtoRows = 32;  // of x at a time
// Of scratch, in elements: whole lines, a line more where rows would otherwise fall into the same few sets of the cache.
constexpr int64_t proto_row(int64_t features, int64_t size) {
  const int64_t line = 64 / size, row = (features + line - 1) / line * line;
  return row * size % 1024 == 0 ? row + line : row;
}
constexpr int64_t proto_scratch(int64_t m, int64_t features, int64_t size) {
  const int64_t line = 64 / size, row = proto_row(features, size);
  const int64_t packed = short_rows(features, size) ? packed_size(m, features, size) + packed_size(1, features, size) : 0;
  return row * (1 + 2 * m) + m * (1 + line) + (m + 3) * kProtoRows + packed + 8 * line;
}

// The next rows of a matrix [n, n] that is being inverted where it stands: kInverseRows of them, or what is left.
constexpr int64_t kInverseRows = 8;
template <class T>
struct InverseArgs {
  int64_t n;
  T* matrix;
  int64_t row;
  const T* least;  // [n]: pivots that are not above it are rounding only, and make everything NaN
  T* pivots;       // [n]: gets them
  T* scratch;      // inverse_scratch() elements
};
constexpr int64_t inverse_scratch(int64_t n, int64_t size) { return 3 * kInverseRows * lines(n, size); }

// y[p] = sum over rows i and columns j of x[p * x_pixel + i * x_row + j * x_col] * w[i * w_row + j * w_col], elementwise over
// channels that lie side by side; p counts the pixels of a row.
template <class T>
struct DepthwiseArgs {
  int64_t pixels, channels, rows, cols;
  const T* x;
  int64_t x_pixel, x_row, x_col;
  const T* w;
  int64_t w_row, w_col;
  T* y;
  int64_t y_pixel;
};
// out[j] = sum over images n, rows r and pixels p of x[n, r, p + column j] * g[n, r, p]; channels of one vector at most.
template <class T>
struct DepthwiseWeightArgs {
  int64_t images, rows, pixels, channels, cols;
  const T* x;
  int64_t x_image, x_row, x_pixel, x_col;
  const T* g;
  int64_t g_image, g_row, g_pixel;
  T* out;
  int64_t out_col;
};

// One micro-op on a tile of `rows` x `cols`: dst(r, c) = op(x(r, c), y(r, c), z(r, c)).
// dst has unit column stride; each argument has column stride 1, or 0 where the variant says so.
struct TileArgs {
  void* dst;
  const void* x;
  const void* y;
  const void* z;
  int64_t dst_row, x_row, y_row, z_row;  // row strides, elements
  int64_t rows, cols;
};
using TileFn = void (*)(const TileArgs&);

// Variant of a micro-op: bit i set means argument i has column stride 0 (a value per row, spread over the columns).
constexpr int kVariants = 8;
constexpr int kMaxOps = 64;

// Reduces or stores a tile into a target whose strides may be 0.  `x` has unit column stride.
//   mode 1 sum, 2 max, 3 min (accumulating into dst, unless it is fresh); column stride of dst is 0 or 1, row stride is any.
struct ReduceArgs {
  void* dst;
  const void* x;
  int64_t dst_row, dst_col, x_row;
  int64_t rows, cols;
  bool fresh = false;  // dst holds nothing yet
};
using ReduceFn = void (*)(const ReduceArgs&);

// Rows of adjacent elements, picked from a table by indices or added to it; strides in bytes.  The result is how many indices
// there were before one outside 0..n-1.
struct RowsArgs {
  char* table;
  const char* index;  // int32
  char* rows;
  int64_t n, count, cols;
  int64_t table_row, index_step, row;
};
using RowsFn = int64_t (*)(const RowsArgs&);

constexpr int64_t kMostRanks = 512;  // keys whose places are counted, at most

struct Kernels {
  const char* name;    // "baseline", "avx2", "avx512", "avx512-halves"
  int64_t vector_bytes;
  void (*gemm_f32)(const GemmArgs<float>&, const GemmData<float>&);
  void (*gemm_f64)(const GemmArgs<double>&, const GemmData<double>&);
  GemmTiles<float> (*gemm_tiles_f32)(const GemmArgs<float>&);
  GemmTiles<double> (*gemm_tiles_f64)(const GemmArgs<double>&);
  void (*conv_f32)(const ConvArgs<float>&);
  void (*conv_f64)(const ConvArgs<double>&);
  void (*winograd2[kWinogradTransforms])(const WinogradArgs&);  // of tiles of 2 x 2 pixels
  void (*winograd4[kWinogradTransforms])(const WinogradArgs&);
  DistanceFns<float> distance_f32[kMetrics];
  DistanceFns<double> distance_f64[kMetrics];
  PullFns<float> pull_f32[kPullMetrics];
  PullFns<double> pull_f64[kPullMetrics];
  // Twice the sums of the rows and of the columns of weights.
  void (*sum_weights_f32)(const float* weight, int64_t row, int64_t col, int64_t rows, int64_t cols, float* row_sum, float* col_sum);
  void (*sum_weights_f64)(const double* weight, int64_t row, int64_t col, int64_t rows, int64_t cols, double* row_sum, double* col_sum);
  RowsFn gather_rows[2];   // of 4-byte and 8-byte elements
  RowsFn scatter_rows[3];  // [F32, F64, I32]
  void (*ranks4)(const int32_t* key, int64_t n, int32_t* at);  // ranks.hpp
  void (*ranks8)(const int64_t* key, int64_t n, int64_t* at);
  void (*proto_f32)(const ProtoArgs<float>&);
  void (*proto_f64)(const ProtoArgs<double>&);
  void (*inverse_f32)(const InverseArgs<float>&, int64_t from);
  void (*inverse_f64)(const InverseArgs<double>&, int64_t from);
  void (*depthwise_f32)(const DepthwiseArgs<float>&);
  void (*depthwise_f64)(const DepthwiseArgs<double>&);
  void (*depthwise_weight_f32)(const DepthwiseWeightArgs<float>&);
  void (*depthwise_weight_f64)(const DepthwiseWeightArgs<double>&);
  TileFn tile[kMaxOps][3][kVariants];  // [micro-op][F32, F64, I32][variant]; nullptr where the op has no such type
  TileFn cast[4][4];                   // [source dtype][target dtype], unit column strides
  ReduceFn reduce[4][3];               // [mode][F32, F64, I32]
  // dst[c * dst_col + r] = src[r * src_row + c] for 4-byte and 8-byte elements
  void (*transpose4)(const void* src, int64_t src_row, void* dst, int64_t dst_col, int64_t rows, int64_t cols);
  void (*transpose8)(const void* src, int64_t src_row, void* dst, int64_t dst_col, int64_t rows, int64_t cols);
};

const Kernels* kernels_baseline();
const Kernels* kernels_avx2();    // nullptr where this build or this processor lacks it
const Kernels* kernels_avx512();  // likewise

}  // namespace fastmeta
