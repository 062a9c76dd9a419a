// The kernels of DISTANCE, by the length of rows.
//
// Included INSIDE the target's namespace, after distance_tiles.hpp, distance_panels.hpp, long_cosines.hpp and packed_distances.hpp.
#pragma once

// Whether transposing rows of x costs more than what sums of packed rows of y leave to add: with many registers, of long rows, and
// enough of them that lengths count for little.
template <class T>
constexpr bool kPacks = FASTMETA_LANES_BYTES == 64 && sizeof(T) == 4;
template <class T, template <class> class Metric>
FASTMETA_INLINE bool packs(const DistanceArgs<T>& g) {
  return short_rows(g.features, sizeof(T)) && g.features >= 48 && (g.y_rows >= 8 || Metric<T>::absolute);
}
template <class T, template <class> class Metric>
FASTMETA_INLINE bool takes_lengths(const DistanceArgs<T>& g) {
  return Metric<T>::scaled || (!Metric<T>::absolute && short_rows(g.features, sizeof(T)));
}

template <class T, template <class> class Metric>
int64_t distance_scratch(const DistanceArgs<T>& g) {
  if constexpr (kPacks<T>)
    if (packs<T, Metric>(g)) return PackedDistances<T, Metric>::scratch(g);
  return takes_lengths<T, Metric>(g) ? g.y_rows : 0;
}
template <class T, template <class> class Metric>
void prepare_distances(const DistanceArgs<T>& g) {
  if (takes_lengths<T, Metric>(g))
    for (int64_t j = 0; j < g.y_rows; j++) {
      const T* const row = g.y + j * g.y_row;
      g.prepared[j] = Metric<T>::scaled ? inverse_length(row, g.features) : squared_length(row, g.features, T(1));
    }
  if constexpr (kPacks<T>)
    if (packs<T, Metric>(g)) PackedDistances<T, Metric>::prepare(g);
}
template <class T, template <class> class Metric>
void distances(const DistanceArgs<T>& g) {
  if constexpr (kPacks<T>)
    if (packs<T, Metric>(g)) return PackedDistances<T, Metric>(g).run();
  if (short_rows(g.features, sizeof(T))) return PanelDistances<T, Metric>(g).run();
  if constexpr (Metric<T>::scaled)
    if (g.y_rows >= LongCosines<T>::fewest) return LongCosines<T>(g).run();
  distances_of_long_rows<T, Metric>(g);
}
template <class T, template <class> class Metric>
constexpr DistanceFns<T> kDistances = {distance_scratch<T, Metric>, prepare_distances<T, Metric>, distances<T, Metric>};

constexpr void fill_distances(Kernels& k) {
  k.distance_f32[kSquared] = kDistances<float, SquaredDifference>;
  k.distance_f32[kAbsolute] = kDistances<float, AbsoluteDifference>;
  k.distance_f32[kCosine] = kDistances<float, DirectionDifference>;
  k.distance_f64[kSquared] = kDistances<double, SquaredDifference>;
  k.distance_f64[kAbsolute] = kDistances<double, AbsoluteDifference>;
  k.distance_f64[kCosine] = kDistances<double, DirectionDifference>;
}
