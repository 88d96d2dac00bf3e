/* What Python and the kernels agree on: one selective scan, or K of them over one input (SS2D).
 *
 * Glossary: B batch, L positions, G groups of channels, K directions that share an input and whose outputs are added,
 * D channels of a group, N states of a channel. A sequence is a group and a direction, q = g K + k of Q = G K.
 * A row is a position of a batch item, r = b L + position. Floats unless said, the last axis contiguous.
 * dt may have a rank R, much smaller than D; the steps of the channels are then W dt, and never in memory.
 */
#ifndef SCAN_H
#define SCAN_H

#include <stdint.h>

typedef struct {
  int64_t batch, length, groups, directions, channels, states;
  int64_t rank;                    /* R of dt; 0: dt is that of each channel, and there is no W */
  int64_t slices;                  /* a group's channels are cut into so many; a task is an item, a group and a slice */
  int64_t softplus;                /* 1: the step is softplus(dt + bias), 0: dt + bias */
  int64_t dt_row, dt_sequence;     /* strides in floats */
  int64_t b_row, b_sequence, c_row, c_sequence;
  const int64_t *order;            /* (K, L) the position that a direction visits at each step, a permutation */
  const float *x;                  /* (B, L, G, D) */
  const float *dt;                 /* (B, L, Q, D) by its strides; (B, L, Q, R) where it has a rank */
  const float *W;                  /* (Q, D, R) */
  const float *A;                  /* (Q, N, D) times log2(e) */
  const float *B, *C;              /* (B, L, Q, N) by their strides */
  const float *D, *bias;           /* (Q, D) */
  float *y;                        /* (B, L, G, D) the sum over directions */
  float *starts;                   /* scan_starts() floats, the state in front of each chunk; NULL: not wanted */
  float *last;                     /* (B, Q, N, D) the state behind the last position; NULL: not wanted */
  /* backward only: gradients of y and last (or NULL) come in, all others go out; the strides of ddt are those of dt */
  const float *dy, *dlast;
  float *dx;
  float *ddt;                      /* of a rank: (slices, B, L, Q, R) to be summed over slices */
  float *dW;                       /* (B, Q, D, R) to be summed over B */
  float *dA;                       /* (B, Q, N, D) of A itself, to be summed over B */
  float *dB, *dC;                  /* (slices, B, L, Q, N) to be summed over slices */
  float *dD, *dbias;               /* (B, Q, D) to be summed over B */
} Scan;

typedef int scan_task(const Scan *scan, int64_t task);  /* 0, or 1 where there is no memory */

scan_task forward_avx512, backward_avx512, forward_avx2, backward_avx2;
scan_task forward_base, backward_base, forward_plain, backward_plain;

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define CHUNK 32  /* positions whose states are computed again at once in backward */

#if defined(__GNUC__) || defined(__clang__)
#define VECTORS 1  /* the compiler has them */
#endif

/* MinGW's GCC does not align the stack for wide vectors (its bug 54412). */
#if defined(VECTORS) && defined(__x86_64__) && (defined(__clang__) || !defined(__MINGW32__))
#define X86_VARIANTS 1
#endif

#endif
