/* Steps of a rank: dt (R) of a position, and the step W dt of each channel. Included by kernel.h.
 *
 * Only dt and its gradient are in memory; the steps, D / R times as many, are made where they are used.
 */

INLINE int64_t rank_vectors(const Scan *s) { return (s->rank + LANES - 1) / LANES; }

INLINE int64_t rank_lanes(const Scan *s, int64_t vector) {
  const int64_t left = s->rank - vector * LANES;
  return left < LANES ? left : LANES;
}

/* Lay W of a task's channels out as (blocks, R) vectors, for a direction. */
INLINE void pack(const Scan *s, const Place *p, vf *packed) {
  const float *from = s->W + in_channels(s, p, 0, p->first) * s->rank;
  for (int64_t block = p->first; block < p->last; block++, packed += s->rank)
    for (int64_t i = 0; i < LANES; i++)
      for (int64_t r = 0; r < s->rank; r++) ((float *)(packed + r))[i] = i < lanes_of(s, block) ? *from++ : 0.0f;
}

/* The other way for dW. */
INLINE void unpack(const Scan *s, const Place *p, const vf *packed) {
  float *to = s->dW + in_channels(s, p, p->item, p->first) * s->rank;
  for (int64_t block = p->first; block < p->last; block++, packed += s->rank)
    for (int64_t i = 0; i < lanes_of(s, block); i++)
      for (int64_t r = 0; r < s->rank; r++) *to++ = ((const float *)(packed + r))[i];
}

/* dt (R) of a row. */
INLINE const float *ranks_of(const Scan *s, const Place *p, int64_t row) {
  return s->dt + row * s->dt_row + p->sequence * s->dt_sequence;
}

/* The steps of `width` positions from t on. */
INLINE void widen_some(const Scan *s, const Place *p, const vf *W, Chunk *c, vf bias, int64_t t, const int width) {
  const float *from[MANY];
  vf step[MANY];
  EACH from[i] = ranks_of(s, p, c->row[t + i]), step[i] = bias;
  for (int64_t r = 0; r < s->rank; r++) EACH step[i] += W[r] * from[i][r];
  EACH c->dt[t + i] = step[i];
}

/* The steps of a chunk and a block. */
INLINE void widen(const Scan *s, const Place *p, int64_t block, Chunk *c, vf bias) {
  const vf *W = c->W + (block - p->first) * s->rank;
  int64_t t = 0;
  for (; t + 8 <= c->count; t += 8) widen_some(s, p, W, c, bias, t, 8);
  for (; t < c->count; t++) widen_some(s, p, W, c, bias, t, 1);
}

/* dW of `width` ranks from r on; the gradients of the steps are `stride` apart. */
INLINE void narrow_weight(
    const Scan *s, const Place *p, const Chunk *c, const vf *ddt, int64_t stride, vf *dW, int64_t r, const int width) {
  vf sum[MANY];
  EACH sum[i] = splat(0.0f);
  for (int64_t t = 0; t < c->count; t++) {
    const float *from = ranks_of(s, p, c->row[t]) + r;
    EACH sum[i] += ddt[t * stride] * from[i];
  }
  EACH dW[r + i] += sum[i];
}

/* ddt of vector v of the ranks, one channel after the other: no lanes to add up. */
INLINE void narrow_step(
    const Scan *s, const Place *p, int64_t block, int64_t lanes, const Chunk *c, const vf *ddt, int64_t stride,
    vf *to, int64_t v) {
  enum { width = LANES };
  vf W[LANES];
  const float *rows = s->W + in_channels(s, p, 0, block) * s->rank + v * LANES;
  EACH W[i] = i < lanes ? load(rows + i * s->rank, rank_lanes(s, v)) : splat(0.0f);
  for (int64_t t = 0; t < c->count; t++) {
    const float *channel = (const float *)(ddt + t * stride);
    vf sum[2] = {to[t * rank_vectors(s) + v], splat(0.0f)};
    EACH sum[i % 2] += W[i] * channel[i];
    to[t * rank_vectors(s) + v] = sum[0] + sum[1];
  }
}

/* A block's share of dW and of the ddt of a chunk, of the gradients of its steps. */
INLINE void narrow(
    const Scan *s, const Place *p, int64_t block, int64_t lanes, const Chunk *c, const vf *ddt, int64_t stride,
    Sums *sums) {
  vf *dW = sums->dW + (block - p->first) * s->rank;
  int64_t r = 0;
  for (; r + 8 <= s->rank; r += 8) narrow_weight(s, p, c, ddt, stride, dW, r, 8);
  for (; r + 4 <= s->rank; r += 4) narrow_weight(s, p, c, ddt, stride, dW, r, 4);
  for (; r < s->rank; r++) narrow_weight(s, p, c, ddt, stride, dW, r, 1);
  for (int64_t v = 0; v < rank_vectors(s); v++) narrow_step(s, p, block, lanes, c, ddt, stride, sums->ddt, v);
}
