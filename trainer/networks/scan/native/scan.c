/* The library's face: which variants there are, which of them this processor can run, and how to call one. */
#include <stddef.h>
#include "scan.h"

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

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
#if defined(__GNUC__) && defined(__x86_64__)
  {"sse2", 4, forward_base, backward_base},
#elif defined(__GNUC__) && defined(__aarch64__)
  {"neon", 4, forward_base, backward_base},
#elif defined(__GNUC__)
  {"vector", 4, forward_base, backward_base},
#endif
  {"plain", 1, forward_plain, backward_plain},
};

enum { VARIANTS = sizeof variants / sizeof variants[0] };

/* The size of what Python must hand over: a library of another version has another one. */
EXPORT int64_t scan_size(void) { return (int64_t)sizeof(Scan); }

/* The name of a variant, NULL behind the last. */
EXPORT const char *scan_name(int variant) { return variant < VARIANTS ? variants[variant].name : NULL; }

/* 1 where this processor and its system can run the variant. */
EXPORT int scan_runs(int variant) {
#ifdef X86_VARIANTS
  __builtin_cpu_init();
  if (variant == 0) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  if (variant == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return variant < VARIANTS;
}

/* How many floats `starts` has. */
EXPORT int64_t scan_starts(int variant, const Scan *s) {
  const int64_t lanes = variants[variant].lanes, blocks = (s->channels + lanes - 1) / lanes;
  const int64_t chunks = (s->length + CHUNK - 1) / CHUNK;
  return s->batch * s->groups * s->directions * chunks * blocks * s->states * lanes;
}

/* Tasks 0 .. batch groups slices - 1 may run at the same time. Returns 0, or 1 where there is no memory. */
EXPORT int scan_forward(int variant, const Scan *s, int64_t task) { return variants[variant].forward(s, task); }
EXPORT int scan_backward(int variant, const Scan *s, int64_t task) { return variants[variant].backward(s, task); }
