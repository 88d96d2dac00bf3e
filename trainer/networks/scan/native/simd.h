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

#ifdef VECTORS
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
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

#if LANES > 1
typedef float quad __attribute__((vector_size(16)));

/* The sum over the lanes, halving down to four. */
INLINE quad fold(vf x) {
  quad part[LANES / 4];
  memcpy(part, &x, sizeof x);
  for (int half = LANES / 8; half; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
}
#endif

/* The sum over the lanes. */
INLINE float total(vf x) {
#if LANES == 1
  return x;
#else
  const quad four = fold(x);
  return (four[0] + four[2]) + (four[1] + four[3]);
#endif
}

/* The sums over the lanes of so many vectors. */
INLINE void totals(float *to, const vf *x, int64_t count) {
  int64_t i = 0;
#if LANES > 1 && defined(__SSE__)
  for (; i + 4 <= count; i += 4) {
    __m128 a = (__m128)fold(x[i]), b = (__m128)fold(x[i + 1]), c = (__m128)fold(x[i + 2]), d = (__m128)fold(x[i + 3]);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to + i, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
  }
#endif
  for (; i < count; i++) to[i] = total(x[i]);
}

/* Polynomials and what is made of them come for up to MANY vectors at once, step by step: each step of one vector has
 * to wait for the one before, and meanwhile the others go on. */
#define MANY 16
#define EACH UNROLL for (int i = 0; i < width; i++)

/* y = c[0] x^(terms - 1) + ... + c[terms - 1]. */
INLINE void polynomial(vf *y, const vf *x, const float *c, const int terms, const int width) {
  EACH y[i] = splat(c[0]) * x[i] + c[1];
  UNROLL for (int k = 2; k < terms; k++) EACH y[i] = y[i] * x[i] + c[k];
}

/* 2^x for x in [-.5, .5], minimax; relative error 2e-7. */
static const float EXP2[] = {
    0.001326472731307149f, 0.009671512991189957f, 0.05550733581185341f, 0.24022242426872253f, 0.6931470036506653f, 1.0f};

/* x becomes 2^x: NaN for NaN, infinity from 128 on, 2^-126 or 0 below -126. */
INLINE void exp2_each(vf *x, const int width) {
  vf fraction[MANY], power[MANY];
#ifdef AVX512
  EACH fraction[i] = (vf)_mm512_reduce_ps((__m512)x[i], 0);  /* x - round(x) */
  EACH x[i] -= fraction[i];
  polynomial(power, fraction, EXP2, 6, width);
  EACH x[i] = (vf)_mm512_scalef_ps((__m512)power[i], (__m512)x[i]);
#else
#if LANES == 8  /* x last: the one that comes out where it is NaN */
  EACH x[i] = (vf)_mm256_min_ps((__m256)splat(128.0f), _mm256_max_ps((__m256)splat(-126.0f), (__m256)x[i]));
#elif LANES == 4 && defined(__SSE__)
  EACH x[i] = (vf)_mm_min_ps((__m128)splat(128.0f), _mm_max_ps((__m128)splat(-126.0f), (__m128)x[i]));
#else
  EACH x[i] = where((vi)(x[i] < splat(-126.0f)), splat(-126.0f), x[i]);
  EACH x[i] = where((vi)(x[i] > splat(128.0f)), splat(128.0f), x[i]);
#endif
  const float shift = 12582912.0f;  /* 1.5 2^23: what is added to it is rounded, and stands in the lowest bits */
  vf shifted[MANY];
  EACH shifted[i] = x[i] + shift;
  EACH fraction[i] = x[i] - (shifted[i] - shift);
  polynomial(power, fraction, EXP2, 6, width);
  EACH x[i] = floats(bits(power[i]) + (bits(shifted[i]) << 23));  /* into the exponent */
#endif
}

INLINE vf exp2_of(vf x) {
  exp2_each(&x, 1);
  return x;
}

/* 1 / x for x in [1, 2], without the division that some processors are slow at: relative error 2e-7. */
INLINE vf inverse(vf x) {
#ifdef AVX512
  vf guess = (vf)_mm512_rcp14_ps((__m512)x);
#elif LANES == 8
  vf guess = (vf)_mm256_rcp_ps((__m256)x);
#elif LANES == 4 && defined(__SSE__)
  vf guess = (vf)_mm_rcp_ps((__m128)x);
#else
  return 1.0f / x;
#endif
#if LANES > 1 && defined(__SSE__)
  return guess + guess * (1.0f - x * guess);  /* Newton: twice the digits */
#endif
}

/* log(1 + t) / t for t in [0, 1], minimax; relative error 3e-8. */
static const float LOG1P[] = {
    0.005232694f, -0.02950524f, 0.078225955f, -0.13663246f, 0.19106007f, -0.24842982f, 0.33319098f, -0.49999493f,
    0.99999994f};

/* x becomes log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), with one exponential; its slope is 1 / (1 + e^-x). */
INLINE void softplus_each(vf *x, vf *slope, const int width) {
  vf t[MANY], series[MANY];
  EACH t[i] = floats(bits(x[i]) | 0x80000000) * 1.44269504088896f;
  exp2_each(t, width);  /* e^-|x|, in (0, 1] */
  EACH slope[i] = where((vi)(x[i] < splat(0.0f)), t[i], splat(1.0f)) * inverse(1.0f + t[i]);
  polynomial(series, t, LOG1P, 9, width);
  EACH x[i] = where((vi)(x[i] < splat(0.0f)), splat(0.0f), x[i]) + t[i] * series[i];
}
