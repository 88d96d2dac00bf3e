/* The scan of channels with one state each, N = 1. Included by kernel.h.
 *
 * What is known of a position serves no other state here, so nothing of it is kept: `width` blocks go through a chunk
 * side by side, and all of a position is computed in one go. The blocks share the row's addresses, B and C, and add up
 * their shares of dB and dC in registers. Only backward, which must know the states first, keeps something of a chunk.
 */

/* What backward keeps of a chunk between its two ways. */
typedef struct {
  ALIGNED vf dt[CHUNK][SINGLE_WIDTH], slope[CHUNK][SINGLE_WIDTH], decay[CHUNK][SINGLE_WIDTH];
  vf before[CHUNK + 1][SINGLE_WIDTH], ddt[CHUNK][SINGLE_WIDTH];
} Trace;

/* Are there SINGLE_WIDTH blocks from `block` on, all of them whole? */
INLINE int are_many(const Scan *s, const Place *p, int64_t block) {
  return block + SINGLE_WIDTH <= p->last && lanes_of(s, block + SINGLE_WIDTH - 1) == LANES;
}

INLINE float of_row(const float *from, const Place *p, int64_t row, int64_t row_stride, int64_t sequence_stride) {
  return from[row * row_stride + p->sequence * sequence_stride];
}

/* Ask for a row of some blocks: rows lie far apart where a direction runs along columns. */
INLINE void fetch(const float *from, const int width) {
  for (int i = 0; i < width; i++) FETCH(from + i * LANES);
}

/* The steps of a row before softplus. */
INLINE void find_single_steps(
    const Scan *s, const Place *p, int64_t block, int64_t lanes, const Chunk *c, int64_t row, const vf *bias, vf *dt,
    const int width) {
  if (!s->rank) {
    EACH dt[i] = load(s->dt + in_steps(s, p, row, block) + i * LANES, lanes) + bias[i];
    return;
  }
  const float *from = ranks_of(s, p, row);
  const vf *W = c->W + (block - p->first) * s->rank;
  EACH dt[i] = bias[i];
  for (int64_t r = 0; r < s->rank; r++) EACH dt[i] += W[i * s->rank + r] * from[r];
}

INLINE void forward_single(
    const Scan *s, const Place *p, int64_t block, int64_t lanes, const Chunk *c, vf *state, const int width) {
  const int64_t channel = in_channels(s, p, 0, block);
  vf h[SINGLE_WIDTH], A[SINGLE_WIDTH], D[SINGLE_WIDTH], bias[SINGLE_WIDTH];
  EACH {
    h[i] = state[i], A[i] = load(s->A + channel + i * LANES, lanes);
    D[i] = load(s->D + channel + i * LANES, lanes), bias[i] = load(s->bias + channel + i * LANES, lanes);
  }
  for (int64_t t = 0; t < c->count; t++) {
    const float B = of_row(s->B, p, c->row[t], s->b_row, s->b_sequence);
    const float C = of_row(s->C, p, c->row[t], s->c_row, s->c_sequence);
    const float *from = s->x + in_rows(s, p, c->row[t], block);
    float *to = s->y + in_rows(s, p, c->row[t], block);
    vf dt[SINGLE_WIDTH], decay[SINGLE_WIDTH], slope[SINGLE_WIDTH];
    find_single_steps(s, p, block, lanes, c, c->row[t], bias, dt, width);
    if (s->softplus) softplus_each(dt, slope, width);
    EACH decay[i] = dt[i] * A[i];
    exp2_each(decay, width);
    EACH {
      const vf x = load(from + i * LANES, lanes);
      h[i] = decay[i] * h[i] + dt[i] * x * B;
      vf y = D[i] * x + h[i] * C;
      if (p->direction) y += load(to + i * LANES, lanes);
      store(to + i * LANES, y, lanes);
    }
  }
  EACH state[i] = h[i];
}

/* As many blocks from `block` on as go at once; returns how many. */
INLINE int64_t forward_singles(const Scan *s, const Place *p, int64_t block, const Chunk *c, vf *state) {
  const int64_t lanes = lanes_of(s, block);
  if (are_many(s, p, block)) return forward_single(s, p, block, LANES, c, state, SINGLE_WIDTH), SINGLE_WIDTH;
  if (lanes == LANES) forward_single(s, p, block, LANES, c, state, 1);
  else forward_single(s, p, block, lanes, c, state, 1);
  return 1;
}

INLINE void backward_single(
    const Scan *s, const Place *p, int64_t block, int64_t lanes, const Chunk *c, Sums *sums, const int width) {
  const int64_t channel = in_channels(s, p, 0, block), at = block - p->first;
  const float *start = start_of(s, p, c->chunk, block);
  Trace trace;
  vf h[SINGLE_WIDTH], A[SINGLE_WIDTH], D[SINGLE_WIDTH], bias[SINGLE_WIDTH];
  EACH {
    h[i] = load(start + i * LANES, LANES), A[i] = load(s->A + channel + i * LANES, lanes);
    D[i] = load(s->D + channel + i * LANES, lanes), bias[i] = load(s->bias + channel + i * LANES, lanes);
  }
  for (int64_t t = 0; t < c->count; t++) {
    const float B = of_row(s->B, p, c->row[t], s->b_row, s->b_sequence);
    const float *from = s->x + in_rows(s, p, c->row[t], block);
    fetch(s->dy + in_rows(s, p, c->row[t], block), width);
    fetch(s->dx + in_rows(s, p, c->row[t], block), width);
    if (!s->rank) fetch(s->ddt + in_steps(s, p, c->row[t], block), width);
    vf dt[SINGLE_WIDTH], slope[SINGLE_WIDTH], decay[SINGLE_WIDTH];
    find_single_steps(s, p, block, lanes, c, c->row[t], bias, dt, width);
    EACH slope[i] = splat(1.0f);
    if (s->softplus) softplus_each(dt, slope, width);
    EACH decay[i] = dt[i] * A[i];
    exp2_each(decay, width);
    EACH {
      trace.dt[t][i] = dt[i], trace.slope[t][i] = slope[i];
      trace.before[t][i] = h[i], trace.decay[t][i] = decay[i];
      h[i] = decay[i] * h[i] + dt[i] * load(from + i * LANES, lanes) * B;
    }
  }
  vf dh[SINGLE_WIDTH], dA[SINGLE_WIDTH], dD[SINGLE_WIDTH], dbias[SINGLE_WIDTH];
  EACH {
    trace.before[c->count][i] = h[i], A[i] *= 0.69314718055994531f;  /* no longer times log2(e) */
    dh[i] = sums->dh[at + i], dA[i] = dD[i] = dbias[i] = splat(0.0f);
  }
  for (int64_t t = c->count - 1; t >= 0; t--) {
    const float B = of_row(s->B, p, c->row[t], s->b_row, s->b_sequence);
    const float C = of_row(s->C, p, c->row[t], s->c_row, s->c_sequence);
    const int64_t row = in_rows(s, p, c->row[t], block), step = in_steps(s, p, c->row[t], block);
    const int64_t ahead = row_at(s, p, (c->chunk - 1) * CHUNK + t);  /* the chunk that comes next */
    fetch(s->x + in_rows(s, p, ahead, block), width);
    if (!s->rank) fetch(s->dt + in_steps(s, p, ahead, block), width);
    vf dB = sums->dB[t], dC = sums->dC[t];
    EACH {
      const vf x = load(s->x + row + i * LANES, lanes), dy = load(s->dy + row + i * LANES, lanes);
      const vf dt = trace.dt[t][i], asked = dh[i] + dy * C, dfed = asked * B;
      dC += dy * trace.before[t + 1][i];
      dB += asked * (dt * x);
      dh[i] = asked * trace.decay[t][i];
      const vf dexponent = dh[i] * trace.before[t][i];
      const vf ddt = (dfed * x + dexponent * A[i]) * trace.slope[t][i];
      vf dx = dfed * dt + D[i] * dy;
      if (p->direction) dx += load(s->dx + row + i * LANES, lanes);
      store(s->dx + row + i * LANES, dx, lanes);
      if (s->rank) trace.ddt[t][i] = ddt;
      else store(s->ddt + step + i * LANES, ddt, lanes);
      dA[i] += dexponent * dt, dD[i] += dy * x, dbias[i] += ddt;
    }
    sums->dB[t] = dB, sums->dC[t] = dC;
  }
  EACH {
    sums->dh[at + i] = dh[i], sums->dA[at + i] += dA[i];
    sums->dD[at + i] += dD[i], sums->dbias[at + i] += dbias[i];
  }
  if (s->rank) EACH narrow(s, p, block + i, lanes, c, trace.ddt[0] + i, SINGLE_WIDTH, sums);
}

INLINE int64_t backward_singles(const Scan *s, const Place *p, int64_t block, const Chunk *c, Sums *sums) {
  const int64_t lanes = lanes_of(s, block);
  if (are_many(s, p, block)) return backward_single(s, p, block, LANES, c, sums, SINGLE_WIDTH), SINGLE_WIDTH;
  if (lanes == LANES) backward_single(s, p, block, LANES, c, sums, 1);
  else backward_single(s, p, block, lanes, c, sums, 1);
  return 1;
}
