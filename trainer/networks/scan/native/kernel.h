/* The selective scan, h = exp(dt A) h + dt B x, y = C h + D x, for one processor family.
 * Included by avx512.c, avx2.c, base.c and plain.c, once each.
 *
 * Gu and Dao, "Mamba", 2023, section 3; Liu et al., "VMamba", 2024, for the directions. Glossary: see scan.h.
 * A block is LANES channels side by side in one vector, a chunk CHUNK positions. What is computed about a chunk and a
 * block stays in the cache: forward keeps the state in front of each chunk and no other, and backward computes those of
 * one chunk again, a few at a time (`width` below), before it walks through it from behind.
 * Every sum over positions is a sum of sums over chunks, which keeps the rounding errors of long sequences small.
 * `lanes` is how many channels of a block there are: it is handed down as a constant where it is all of them, so that
 * the compiler makes two versions of all that is inside.
 */
#include <stdlib.h>
#include "scan.h"
#include "simd.h"

#ifdef VECTORS
#define FETCH(address) __builtin_prefetch(address)
#define ALIGNED __attribute__((aligned(64)))  /* no vector across two lines of the cache */
#else
#define FETCH(address) (void)(address)
#define ALIGNED
#endif

/* Work space for so many vectors, to be freed; NULL where there is none. `aligned` is where its first vector is. */
INLINE void *reserve(int64_t vectors, vf **aligned) {
  void *memory = malloc((size_t)vectors * sizeof(vf) + 64);
  *aligned = (vf *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
  return memory;
}

/* Where a task works. */
typedef struct {
  int64_t item, group, slice, first, last;  /* blocks first .. last - 1 */
  int64_t sequence, direction;
} Place;

/* What is known of a chunk and a block before its states are. */
typedef struct {
  ALIGNED vf x[CHUNK], dt[CHUNK], slope[CHUNK];  /* slope: of dt by what went into softplus */
  vf fed[CHUNK];                                 /* dt x */
  vf y[CHUNK];                                   /* forward */
  vf dy[CHUNK], dfed[CHUNK], dlog[CHUNK];        /* backward; dlog: of dt by the decays alone, times log2(e) */
  vf ddt[CHUNK];
  vf *W;                                         /* (blocks, R), the same for all chunks of a direction */
  int64_t chunk, count, row[CHUNK];
} Chunk;

/* What a task adds up: over all positions, but dB, dC and ddt over the blocks of one chunk, the first two still apart
 * by lanes. V = R / LANES, rounded up. */
typedef struct {
  vf *dh, *dA;     /* (blocks, N) dh: what later positions ask of the state */
  vf *dD, *dbias;  /* (blocks) */
  vf *dW;          /* (blocks, R) */
  vf *dB, *dC;     /* (CHUNK, N) */
  vf *ddt;         /* (CHUNK, V), of a rank */
} Sums;

INLINE Place find_place(const Scan *s, int64_t task) {
  const int64_t blocks = (s->channels + LANES - 1) / LANES;
  Place p = {0};
  p.slice = task % s->slices;
  p.group = task / s->slices % s->groups;
  p.item = task / s->slices / s->groups;
  p.first = blocks * p.slice / s->slices;
  p.last = blocks * (p.slice + 1) / s->slices;
  return p;
}

INLINE void find_sequence(const Scan *s, Place *p, int64_t direction) {
  p->direction = direction;
  p->sequence = p->group * s->directions + direction;
}

/* The row of a direction's position, of the nearest one where there is no such position. */
INLINE int64_t row_at(const Scan *s, const Place *p, int64_t position) {
  position = position < 0 ? 0 : position < s->length ? position : s->length - 1;
  return p->item * s->length + s->order[p->direction * s->length + position];
}

INLINE void find_rows(const Scan *s, const Place *p, int64_t chunk, Chunk *c) {
  const int64_t start = chunk * CHUNK, left = s->length - start;
  c->chunk = chunk, c->count = left < CHUNK ? left : CHUNK;
  for (int64_t t = 0; t < c->count; t++)
    c->row[t] = p->item * s->length + s->order[p->direction * s->length + start + t];
}

INLINE int64_t chunks_of(const Scan *s) { return (s->length + CHUNK - 1) / CHUNK; }

INLINE float *start_of(const Scan *s, const Place *p, int64_t chunk, int64_t block) {
  const int64_t blocks = (s->channels + LANES - 1) / LANES;
  const int64_t sequence = p->item * s->groups * s->directions + p->sequence;
  return s->starts + ((sequence * chunks_of(s) + chunk) * blocks + block) * s->states * LANES;
}

INLINE int64_t lanes_of(const Scan *s, int64_t block) {
  const int64_t left = s->channels - block * LANES;
  return left < LANES ? left : LANES;
}

/* The index of a block in (Q, D) or (B, Q, D), and of its state n in (Q, N, D) or (B, Q, N, D). */
INLINE int64_t in_channels(const Scan *s, const Place *p, int64_t item, int64_t block) {
  return (item * s->groups * s->directions + p->sequence) * s->channels + block * LANES;
}

INLINE int64_t in_states(const Scan *s, const Place *p, int64_t item, int64_t block, int64_t n) {
  return ((item * s->groups * s->directions + p->sequence) * s->states + n) * s->channels + block * LANES;
}

/* The index of a block in (B, L, G, D), and in (B, L, Q, D) by the strides of dt. */
INLINE int64_t in_rows(const Scan *s, const Place *p, int64_t row, int64_t block) {
  return (row * s->groups + p->group) * s->channels + block * LANES;
}

INLINE int64_t in_steps(const Scan *s, const Place *p, int64_t row, int64_t block) {
  return row * s->dt_row + p->sequence * s->dt_sequence + block * LANES;
}

/* Ask for what the next block will need of a row: rows lie far apart where a direction runs along columns. */
INLINE void fetch_ahead(const Scan *s, const Place *p, int64_t row, int64_t block) {
  const int64_t channels = in_rows(s, p, row, block) + LANES, steps = in_steps(s, p, row, block) + LANES;
  FETCH(s->x + channels);
  if (!s->rank) FETCH(s->dt + steps);
  if (s->dy) {
    FETCH(s->dy + channels);
    FETCH(s->dx + channels);
    if (!s->rank) FETCH(s->ddt + steps);
  } else FETCH(s->y + channels);
}

#include "rank.h"

/* The steps of a chunk and a block, before softplus. */
INLINE void find_steps(const Scan *s, const Place *p, int64_t block, int64_t lanes, Chunk *c) {
  const vf bias = load(s->bias + in_channels(s, p, 0, block), lanes);
  if (s->rank) widen(s, p, block, c, bias);
  else
    for (int64_t t = 0; t < c->count; t++) c->dt[t] = load(s->dt + in_steps(s, p, c->row[t], block), lanes) + bias;
}

/* Load x and dt of a chunk and a block; `sloped`: with the slope, which backward alone needs. */
INLINE void prepare(const Scan *s, const Place *p, int64_t block, int64_t lanes, Chunk *c, const int sloped) {
  find_steps(s, p, block, lanes, c);
  for (int64_t t = 0; t < c->count; t++) {
    vf x = load(s->x + in_rows(s, p, c->row[t], block), lanes), dt = c->dt[t], slope = splat(1.0f);
    fetch_ahead(s, p, c->row[t], block);
    if (s->softplus) softplus_each(&dt, &slope, 1);
    c->x[t] = x, c->dt[t] = dt, c->fed[t] = dt * x;
    if (sloped) c->slope[t] = slope;
  }
}

#include "single.h"

/* Forward */

/* `width` states from n on through a chunk; adds their share of y. */
INLINE void advance(
    const Scan *s, const Place *p, int64_t block, int64_t lanes, Chunk *c, vf *state, int64_t n, const int width) {
  ALIGNED vf h[FORWARD_WIDTH], A[FORWARD_WIDTH];
  for (int i = 0; i < width; i++) h[i] = state[n + i], A[i] = load(s->A + in_states(s, p, 0, block, n + i), lanes);
  for (int64_t t = 0; t < c->count; t++) {
    const float *B = s->B + c->row[t] * s->b_row + p->sequence * s->b_sequence + n;
    const float *C = s->C + c->row[t] * s->c_row + p->sequence * s->c_sequence + n;
    const vf dt = c->dt[t], fed = c->fed[t];
    vf even = c->y[t], odd = splat(0.0f);  /* two sums: half as long to wait */
    EACH {
      h[i] = exp2_of(dt * A[i]) * h[i] + fed * B[i];
      if (i % 2) odd += h[i] * C[i]; else even += h[i] * C[i];
    }
    c->y[t] = even + odd;
  }
  for (int i = 0; i < width; i++) state[n + i] = h[i];
}

INLINE void forward_block(const Scan *s, const Place *p, int64_t block, int64_t lanes, Chunk *c, vf *state) {
  const int64_t N = s->states;
  const vf D = load(s->D + in_channels(s, p, 0, block), lanes);
  prepare(s, p, block, lanes, c, 0);
  for (int64_t t = 0; t < c->count; t++) {
    c->y[t] = D * c->x[t];
    if (p->direction) c->y[t] += load(s->y + in_rows(s, p, c->row[t], block), lanes);
  }
  int64_t n = 0;
  for (; n + FORWARD_WIDTH <= N; n += FORWARD_WIDTH) advance(s, p, block, lanes, c, state, n, FORWARD_WIDTH);
  for (; n + 4 <= N; n += 4) advance(s, p, block, lanes, c, state, n, 4);
  for (; n < N; n++) advance(s, p, block, lanes, c, state, n, 1);
  for (int64_t t = 0; t < c->count; t++) store(s->y + in_rows(s, p, c->row[t], block), c->y[t], lanes);
}

/* A block through a chunk, or with one state each several; returns how many. */
INLINE int64_t forward_blocks(const Scan *s, const Place *p, int64_t block, Chunk *c, vf *state) {
  const int64_t lanes = lanes_of(s, block);
  if (s->states == 1) return forward_singles(s, p, block, c, state);
  if (lanes == LANES) forward_block(s, p, block, LANES, c, state);
  else forward_block(s, p, block, lanes, c, state);
  return 1;
}

int FORWARD(const Scan *s, int64_t task) {
  const int64_t N = s->states;
  Place p = find_place(s, task);
  vf *states;
  void *memory = reserve((p.last - p.first) * (N + s->rank), &states);
  if (!memory) return 1;
  Chunk c;
  c.W = states + (p.last - p.first) * N;
  for (int64_t k = 0; k < s->directions; k++) {
    find_sequence(s, &p, k);
    pack(s, &p, c.W);
    memset(states, 0, (size_t)((p.last - p.first) * N) * sizeof(vf));
    for (int64_t chunk = 0; chunk < chunks_of(s); chunk++) {
      find_rows(s, &p, chunk, &c);
      if (s->starts)
        for (int64_t block = p.first; block < p.last; block++)
          memcpy(start_of(s, &p, chunk, block), states + (block - p.first) * N, (size_t)N * sizeof(vf));
      for (int64_t block = p.first; block < p.last;)
        block += forward_blocks(s, &p, block, &c, states + (block - p.first) * N);
    }
    if (s->last)
      for (int64_t block = p.first; block < p.last; block++)
        for (int64_t n = 0; n < N; n++)
          store(s->last + in_states(s, &p, p.item, block, n), states[(block - p.first) * N + n], lanes_of(s, block));
  }
  free(memory);
  return 0;
}

/* Backward */

/* `width` states from n on through a chunk, forth and back. */
INLINE void retrace(
    const Scan *s, const Place *p, int64_t block, int64_t lanes, Chunk *c, Sums *sums, int64_t n, const int width) {
  const int64_t N = s->states, at = (block - p->first) * N + n;
  ALIGNED vf before[CHUNK + 1][BACKWARD_WIDTH], decay[CHUNK][BACKWARD_WIDTH];
  ALIGNED vf h[BACKWARD_WIDTH], A[BACKWARD_WIDTH], dh[BACKWARD_WIDTH], dA[BACKWARD_WIDTH];
  const float *start = start_of(s, p, c->chunk, block) + n * LANES;
  for (int i = 0; i < width; i++) {
    A[i] = load(s->A + in_states(s, p, 0, block, n + i), lanes);
    before[0][i] = h[i] = load(start + i * LANES, LANES);
    dh[i] = sums->dh[at + i], dA[i] = splat(0.0f);
  }
  for (int64_t t = 0; t < c->count; t++) {
    const float *B = s->B + c->row[t] * s->b_row + p->sequence * s->b_sequence + n;
    const vf dt = c->dt[t], fed = c->fed[t];
    EACH {
      decay[t][i] = exp2_of(dt * A[i]);
      before[t + 1][i] = h[i] = decay[t][i] * h[i] + fed * B[i];
    }
  }
  for (int64_t t = c->count - 1; t >= 0; t--) {
    const float *B = s->B + c->row[t] * s->b_row + p->sequence * s->b_sequence + n;
    const float *C = s->C + c->row[t] * s->c_row + p->sequence * s->c_sequence + n;
    const vf dy = c->dy[t], dt = c->dt[t], fed = c->fed[t];
    vf dfed = c->dfed[t], dlog = c->dlog[t];
    vf *dB = sums->dB + t * N + n, *dC = sums->dC + t * N + n;
    EACH {
      const vf asked = dh[i] + dy * C[i];
      dC[i] += dy * h[i];
      dB[i] += asked * fed;
      dfed += asked * B[i];
      dh[i] = asked * decay[t][i];
      h[i] = before[t][i];
      const vf dexponent = dh[i] * h[i];
      dlog += dexponent * A[i];
      dA[i] += dexponent * dt;
    }
    c->dfed[t] = dfed, c->dlog[t] = dlog;
  }
  for (int i = 0; i < width; i++) sums->dh[at + i] = dh[i], sums->dA[at + i] += dA[i];
}

INLINE void backward_block(const Scan *s, const Place *p, int64_t block, int64_t lanes, Chunk *c, Sums *sums) {
  const int64_t N = s->states;
  const vf D = load(s->D + in_channels(s, p, 0, block), lanes);
  prepare(s, p, block, lanes, c, 1);
  for (int64_t t = 0; t < c->count; t++) {
    c->dy[t] = load(s->dy + in_rows(s, p, c->row[t], block), lanes);
    c->dfed[t] = c->dlog[t] = splat(0.0f);
  }
  int64_t n = 0;
  for (; n + BACKWARD_WIDTH <= N; n += BACKWARD_WIDTH) retrace(s, p, block, lanes, c, sums, n, BACKWARD_WIDTH);
  for (; n < N; n++) retrace(s, p, block, lanes, c, sums, n, 1);
  vf dD = splat(0.0f), dbias = splat(0.0f);
  for (int64_t t = 0; t < c->count; t++) {
    float *to = s->dx + in_rows(s, p, c->row[t], block);
    vf dx = c->dfed[t] * c->dt[t] + D * c->dy[t];
    if (p->direction) dx += load(to, lanes);
    store(to, dx, lanes);
    const vf ddt = (c->dfed[t] * c->x[t] + c->dlog[t] * 0.69314718055994531f) * c->slope[t];
    if (!s->rank) store(s->ddt + in_steps(s, p, c->row[t], block), ddt, lanes);
    dD += c->dy[t] * c->x[t], dbias += ddt, c->ddt[t] = ddt;
  }
  sums->dD[block - p->first] += dD, sums->dbias[block - p->first] += dbias;
  if (s->rank) narrow(s, p, block, lanes, c, c->ddt, 1, sums);
}

INLINE void begin_sums(const Scan *s, const Place *p, Sums *sums) {
  for (int64_t block = p->first; block < p->last; block++) {
    const int64_t at = block - p->first;
    for (int64_t n = 0; n < s->states; n++) {
      const int64_t from = in_states(s, p, p->item, block, n);
      sums->dh[at * s->states + n] = s->dlast ? load(s->dlast + from, lanes_of(s, block)) : splat(0.0f);
      sums->dA[at * s->states + n] = splat(0.0f);
    }
    for (int64_t r = 0; r < s->rank; r++) sums->dW[at * s->rank + r] = splat(0.0f);
    sums->dD[at] = sums->dbias[at] = splat(0.0f);
  }
}

INLINE void end_sums(const Scan *s, const Place *p, const Sums *sums) {
  for (int64_t block = p->first; block < p->last; block++) {
    const int64_t at = block - p->first, lanes = lanes_of(s, block);
    for (int64_t n = 0; n < s->states; n++)
      store(s->dA + in_states(s, p, p->item, block, n), sums->dA[at * s->states + n], lanes);
    store(s->dD + in_channels(s, p, p->item, block), sums->dD[at], lanes);
    store(s->dbias + in_channels(s, p, p->item, block), sums->dbias[at], lanes);
  }
  unpack(s, p, sums->dW);
}

/* Write dB, dC and, of a rank, ddt of a chunk: no other chunk has a share of them. */
INLINE void end_chunk(const Scan *s, const Place *p, const Chunk *c, const Sums *sums) {
  const int64_t N = s->states;
  for (int64_t t = 0; t < c->count; t++) {
    const int64_t row = p->slice * s->batch * s->length + c->row[t];
    const int64_t to = row * s->groups * s->directions + p->sequence;
    totals(s->dB + to * N, sums->dB + t * N, N);
    totals(s->dC + to * N, sums->dC + t * N, N);
    for (int64_t v = 0; v < rank_vectors(s); v++)
      store(s->ddt + to * s->rank + v * LANES, sums->ddt[t * rank_vectors(s) + v], rank_lanes(s, v));
  }
}

INLINE int64_t backward_blocks(const Scan *s, const Place *p, int64_t block, Chunk *c, Sums *sums) {
  const int64_t lanes = lanes_of(s, block);
  if (s->states == 1) return backward_singles(s, p, block, c, sums);
  if (lanes == LANES) backward_block(s, p, block, LANES, c, sums);
  else backward_block(s, p, block, lanes, c, sums);
  return 1;
}

int BACKWARD(const Scan *s, int64_t task) {
  const int64_t N = s->states, of_chunk = CHUNK * (2 * N + rank_vectors(s));
  Place p = find_place(s, task);
  const int64_t blocks = p.last - p.first;
  Sums sums;
  void *memory = reserve(of_chunk + blocks * (2 * N + 2 * s->rank + 2), &sums.dB);
  if (!memory) return 1;
  sums.dC = sums.dB + CHUNK * N, sums.ddt = sums.dC + CHUNK * N, sums.dh = sums.dB + of_chunk;
  sums.dA = sums.dh + blocks * N, sums.dW = sums.dA + blocks * N;
  sums.dD = sums.dW + blocks * s->rank, sums.dbias = sums.dD + blocks;
  Chunk c;
  c.W = sums.dbias + blocks;
  for (int64_t k = 0; k < s->directions; k++) {
    find_sequence(s, &p, k);
    pack(s, &p, c.W);
    begin_sums(s, &p, &sums);
    for (int64_t chunk = chunks_of(s) - 1; chunk >= 0; chunk--) {
      find_rows(s, &p, chunk, &c);
      memset(sums.dB, 0, (size_t)of_chunk * sizeof(vf));
      for (int64_t block = p.first; block < p.last;) block += backward_blocks(s, &p, block, &c, &sums);
      end_chunk(s, &p, &c, &sums);
    }
    end_sums(s, &p, &sums);
  }
  free(memory);
  return 0;
}
