/* Vectors of LANES floats for one processor family, and the two functions that the scan needs of them.
 *
 * GCC's and Clang's vector extensions write x * y for 4, 8 or 16 floats alike; with LANES 1 a vector is a float, and
 * any C compiler will do.
 */
#include <stdint.h>
#include <string.h>

#if LANES > 1 && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>
#endif

#ifdef TARGET  /* the processor's features, for all functions from here to the end of the file */
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define ENABLE(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#else
#define ENABLE(features) PRAGMA(GCC target(features))
#endif
ENABLE(TARGET)
#endif

#ifdef VECTORS
#define INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline
#endif

#if LANES > 1
typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t vi __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
INLINE vi bits(vf x) { return (vi)x; }
INLINE vf floats(vi x) { return (vf)x; }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf where(vi mask, vf x, vf y) { return (vf)((mask & (vi)x) | (~mask & (vi)y)); }
#else
typedef float vf;
typedef uint32_t vi;
INLINE vi bits(vf x) { vi i; memcpy(&i, &x, sizeof i); return i; }
INLINE vf floats(vi x) { vf f; memcpy(&f, &x, sizeof f); return f; }
INLINE vf splat(float x) { return x; }
INLINE vf where(vi mask, vf x, vf y) { return mask ? x : y; }
#endif

/* The first `width` lanes; the others are 0. */
INLINE vf load(const float *from, int64_t width) {
  if (width == LANES) return *(const vf *)from;
  float lane[LANES] = {0};
  for (int64_t i = 0; i < width; i++) lane[i] = from[i];
  return *(vf *)lane;
}

INLINE void store(float *to, vf x, int64_t width) {
  if (width == LANES) *(vf *)to = x;
  else for (int64_t i = 0; i < width; i++) to[i] = ((float *)&x)[i];
}

/* The sum over the lanes, halving. */
INLINE float total(vf x) {
#if LANES == 1
  return x;
#else
  typedef float quad __attribute__((vector_size(16)));
  quad part[LANES / 4];
  memcpy(part, &x, sizeof x);
  for (int half = LANES / 8; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
#endif
}

/* 2^x for x in [-.5, .5], minimax; relative error 2e-7. */
#define POLYNOMIAL(x) \
  (((((splat(0.001326472731307149f) * x + 0.009671512991189957f) * x + 0.05550733581185341f) * x \
     + 0.24022242426872253f) * x + 0.6931470036506653f) * x + 1.0f)

/* 2^x: NaN for NaN, infinity from 128 on, 2^-126 or 0 below -126. */
INLINE vf exp2_of(vf x) {
#ifdef AVX512
  __m512 fraction = _mm512_reduce_ps((__m512)x, 0);  /* x - round(x) */
  __m512 whole = _mm512_sub_ps((__m512)x, fraction);
  vf power = POLYNOMIAL((vf)fraction);
  return (vf)_mm512_scalef_ps((__m512)power, whole);
#else
#if LANES == 8  /* x last: the one that comes out where it is NaN */
  x = (vf)_mm256_min_ps((__m256)splat(128.0f), _mm256_max_ps((__m256)splat(-126.0f), (__m256)x));
#elif LANES == 4 && defined(__SSE__)
  x = (vf)_mm_min_ps((__m128)splat(128.0f), _mm_max_ps((__m128)splat(-126.0f), (__m128)x));
#else
  x = where((vi)(x < splat(-126.0f)), splat(-126.0f), x);
  x = where((vi)(x > splat(128.0f)), splat(128.0f), x);
#endif
  const float shift = 12582912.0f;  /* 1.5 2^23: what is added to it is rounded, and stands in the lowest bits */
  vf shifted = x + shift;
  vf fraction = x - (shifted - shift);
  vf power = POLYNOMIAL(fraction);
  return floats(bits(power) + (bits(shifted) << 23));  /* into the exponent */
#endif
}

/* log(1 + e^x) and its slope 1 / (1 + e^-x), with one exponential: softplus(x) = max(x, 0) + log(1 + e^-|x|). */
INLINE vf softplus(vf x, vf *slope) {
  const vi negative = (vi)(x < splat(0.0f));
  vf t = exp2_of(floats(bits(x) & 0x7fffffff) * -1.44269504088896f);  /* e^-|x|, in (0, 1] */
  vf inverse = 1.0f / (1.0f + t);
  *slope = where(negative, t * inverse, inverse);
  vf s = t / (2.0f + t), q = s * s;  /* log(1 + t) = 2 artanh(s), s in (0, 1/3] */
  vf series = splat(0.0667f) * q + 0.0769230769f;
  series = series * q + 0.0909090909f;
  series = series * q + 0.111111111f;
  series = series * q + 0.142857142f;
  series = series * q + 0.2f;
  series = series * q + 0.333333333f;
  series = series * q + 1.0f;
  return where(negative, splat(0.0f), x) + 2.0f * s * series;
}
