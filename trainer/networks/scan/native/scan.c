/* The library's face: which variants there are, which of them this processor can run, and how to call one. */
#include <stddef.h>
#include "scan.h"

typedef struct {
  const char *name;
  int64_t lanes;
  scan_task *forward, *backward;
} Variant;

static const Variant variants[] = {  /* the fastest first */
#ifdef X86_VARIANTS
  {"avx512", 16, forward_avx512, backward_avx512},
  {"avx2", 8, forward_avx2, backward_avx2},
#endif
#if defined(VECTORS) && defined(__x86_64__)
  {"sse2", 4, forward_base, backward_base},
#elif defined(VECTORS) && defined(__aarch64__)
  {"neon", 4, forward_base, backward_base},
#elif defined(VECTORS)
  {"vector", 4, forward_base, backward_base},
#endif
  {"plain", 1, forward_plain, backward_plain},
};

enum { VARIANTS = sizeof variants / sizeof variants[0] };

/* The size of what Python must hand over: a library of another version has another one. */
EXPORT int64_t scan_size(void) { return (int64_t)sizeof(Scan); }

/* The name of a variant, NULL behind the last. */
EXPORT const char *scan_name(int variant) { return variant < VARIANTS ? variants[variant].name : NULL; }

#ifdef X86_VARIANTS  /* not __builtin_cpu_supports: what it calls is missing from some systems' libraries */
#include <cpuid.h>

/* Does the system save the registers that `mask` stands for? */
static int saves(unsigned mask) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;  /* OSXSAVE: it can be asked */
  __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a & mask) == mask;
}

static int has_avx2(void) {
  unsigned a, b, c, d, ignored;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid_count(7, 0, &a, &b, &ignored, &d)) return 0;
  return (c >> 12 & 1) && (b >> 5 & 1) && saves(0x06);  /* FMA, AVX2 */
}

static int has_avx512(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b >> 16 & 1) && (b >> 17 & 1) && saves(0xe6);  /* AVX512F, AVX512DQ */
}
#endif

/* 1 where this processor and its system can run the variant. */
EXPORT int scan_runs(int variant) {
#ifdef X86_VARIANTS
  if (variant == 0) return has_avx2() && has_avx512();
  if (variant == 1) return has_avx2();
#endif
  return variant < VARIANTS;
}

/* How many floats `starts` has. */
EXPORT int64_t scan_starts(int variant, const Scan *s) {
  const int64_t lanes = variants[variant].lanes, blocks = (s->channels + lanes - 1) / lanes;
  const int64_t chunks = (s->length + CHUNK - 1) / CHUNK;
  return s->batch * s->groups * s->directions * chunks * blocks * s->states * lanes;
}

/* The tasks first .. last - 1. */
static int run_tasks(scan_task *task, const Scan *s, int64_t first, int64_t last) {
  int failed = 0;
  for (int64_t i = first; i < last && !failed; i++) failed = task(s, i);
  return failed;
}

/* Some of the tasks 0 .. batch groups slices - 1, which may run at the same time. Returns 0, or 1 where there is no
 * memory. */
EXPORT int scan_forward(int variant, const Scan *s, int64_t first, int64_t last) {
  return run_tasks(variants[variant].forward, s, first, last);
}

EXPORT int scan_backward(int variant, const Scan *s, int64_t first, int64_t last) {
  return run_tasks(variants[variant].backward, s, first, last);
}
