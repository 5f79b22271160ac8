// As many float32 at a time as the processor has in a register, in plain C++17 with the vectors of GCC and Clang.
#pragma once

#include <cstdint>
#include <cstring>

namespace edgeseg {

#if defined(__AVX512F__)
constexpr long LANES = 16;
#elif defined(__AVX2__)
constexpr long LANES = 8;
#else
constexpr long LANES = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Vec fill(float x) { return Vec{} + x; }
inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }
inline Vec choose(Int where, Vec yes, Vec no) { return where ? yes : no; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }  // b where one is NaN
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }

struct half {  // IEEE float16, as bits
  uint16_t bits;
};
struct bfloat {  // the upper half of a float32
  uint16_t bits;
};

inline Vec widen(Halves h, half) {
  const Int x = __builtin_convertvector(h, Int);
  const Int sign = (x & 0x8000) << 16, rest = x & 0x7fff;
  const Vec scaled = (Vec)(rest << 13) * 0x1p112f;  // subnormals come right too
  return (Vec)(sign | (rest >= 0x7c00 ? (rest << 13) | 0x7f800000 : (Int)scaled));
}
inline Vec widen(Halves h, bfloat) { return (Vec)(__builtin_convertvector(h, Int) << 16); }

inline Halves narrow(Vec v, bfloat) {
  const Int x = (Int)v;
  const Int even = x + 0x7fff + ((x >> 16) & 1);
  return __builtin_convertvector((v != v ? (x | 0x00400000) : even) >> 16, Halves);
}
inline Halves narrow(Vec v, half) {
  const Int x = (Int)v, sign = (x >> 16) & 0x8000, rest = x & 0x7fffffff;
  const Int even = rest + 0xfff + ((rest >> 13) & 1) - 0x38000000;
  const Int tiny = (Int)((Vec)rest + 0.5f) - 0x3f000000;  // below 2^-14: the sum rounds at the last bit of a subnormal
  Int small = rest < 0x38800000 ? tiny : even >> 13;
  small = rest >= 0x477ff000 ? Int{} + 0x7c00 : small;
  small = rest > 0x7f800000 ? Int{} + 0x7e00 : small;
  return __builtin_convertvector(small | sign, Halves);
}

inline Vec load_as(const float* from, long count) {
  if (count >= LANES) return load(from);
  float padded[LANES] = {};
  std::memcpy(padded, from, count * sizeof(float));
  return load(padded);
}
template <class T>
inline Vec load_as(const T* from, long count) {
  Halves bits = {};
  std::memcpy(&bits, from, (count < LANES ? count : LANES) * sizeof(T));
  return widen(bits, T{});
}
inline float read(const float* from) { return *from; }
template <class T>
inline float read(const T* from) {
  return load_as(from, 1)[0];
}
inline void store_as(float* to, Vec v, long count) { std::memcpy(to, &v, (count < LANES ? count : LANES) * sizeof(float)); }
template <class T>
inline void store_as(T* to, Vec v, long count) {
  const Halves bits = narrow(v, T{});
  std::memcpy(to, &bits, (count < LANES ? count : LANES) * sizeof(T));
}

// Where it is known that there are LANES of them, the compiler leaves out the question.
template <bool FULL, class T>
inline Vec load_as(const T* from, long count) {
  return load_as(from, FULL ? LANES : count);
}
template <bool FULL, class T>
inline void store_as(T* to, Vec v, long count) {
  store_as(to, v, FULL ? LANES : count);
}

// 2^x to 2e-7, for x from -126 on, and 2^-126 below; NaN stays NaN. Beyond 127 there is no telling what comes out.
inline Vec exp2_small(Vec x) {
  const Vec in = max(fill(-126.0f), x);
  const Vec shifted = in + 12582912.0f;  // 1.5 * 2^23: the integer is then in the low bits
  const Vec f = in - (shifted - 12582912.0f);
  Vec p = fill(1.3264707522e-3f);  // least largest relative error of degree 5 on -1/2..1/2: 9e-8
  p = p * f + 9.6715074033e-3f;
  p = p * f + 5.5507335812e-2f;
  p = p * f + 2.4022242427e-1f;
  p = p * f + 6.9314700365e-1f;
  p = p * f + 1.0f;
  return (Vec)((Int)p + ((Int)shifted << 23));
}

inline Vec exp2(Vec x) { return exp2_small(min(fill(127.0f), x)); }

// 2^x for whole numbers x; smaller than 2^-126 is 0.
inline Vec power(Vec x) {
  const Vec in = x < -126.0f ? fill(-127.0f) : x;
  const Vec top = in > 127.0f ? fill(127.0f) : in;
  return (Vec)((__builtin_convertvector(top, Int) + 127) << 23);
}

// The exponent of positive x, so that 2^-exponent brings it into 1..2.
inline Vec exponent(Vec x) { return __builtin_convertvector((((Int)x >> 23) & 255) - 127, Vec); }

inline Vec whole(Vec x) { return (x + 12582912.0f) - 12582912.0f; }  // the nearest whole number, up to 2^22

inline float sum(Vec x) {
  float total = 0;
  for (long i = 0; i < LANES; ++i) total += x[i];
  return total;
}

}  // namespace edgeseg
