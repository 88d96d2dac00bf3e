/* Nothing but multiply-adds in registers: how many a second a processor can do, which no scan can exceed. */
#include "scan.h"

enum { CHAINS = 12 };  /* independent: more than the units of a processor times the cycles that each takes */

#ifdef VECTORS
#define PEAK(lanes, attributes) \
  attributes static float peak_##lanes(int64_t rounds) { \
    typedef float vector __attribute__((vector_size(4 * lanes))); \
    const vector zero = {0}, factor = zero + 0.999f, term = zero + 0.001f; \
    vector v[CHAINS], sum = zero; \
    for (int i = 0; i < CHAINS; i++) v[i] = zero + (float)(rounds + i); \
    while (rounds--) \
      for (int i = 0; i < CHAINS; i++) v[i] = v[i] * factor + term; \
    for (int i = 0; i < CHAINS; i++) sum += v[i]; \
    return sum[0]; \
  }
PEAK(4, )
#ifdef X86_VARIANTS
PEAK(8, __attribute__((target("avx2,fma"))))
PEAK(16, __attribute__((target("avx512f"))))
#endif
#endif

/* `rounds` times CHAINS multiply-adds of so many lanes, which the processor must have; the number of them, or 0 where
 * the library has none of this width. */
EXPORT int64_t scan_peak_fma(int64_t lanes, int64_t rounds) {
  volatile float result = 0.0f;  /* wanted, so that the compiler keeps the work */
#ifdef VECTORS
  if (lanes == 4) return result = peak_4(rounds), CHAINS * rounds;
#endif
#ifdef X86_VARIANTS
  if (lanes == 8) return result = peak_8(rounds), CHAINS * rounds;
  if (lanes == 16) return result = peak_16(rounds), CHAINS * rounds;
#endif
  (void)result;
  return 0;
}
