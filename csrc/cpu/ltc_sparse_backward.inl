// The backward twin of ltc_sparse.inl: synapses in runs of equal source, so that dL/dv_i stays in a
// register; each synapse's four gradients accumulate per lane in the task's slab, which lives in
// L2, and are summed over lanes once, at the end. A slab entry is therefore touched once for
// several evaluations of its synapse: several steps of the sensory synapses, which nothing waits
// for, and several unfolds of the recurrent ones, whose gates are kept until then.

constexpr int SENSORY_STEPS = LTC_ROWS;  // as in ltc_dense.inl: registers
constexpr int KEPT_UNFOLDS =
    3;  // half the default number: more gates would drive the slab out of L2

// The four gradients of one synapse, per lane.
struct SynapseSums {
  vf s2, m2, w, we;
  explicit SynapseSums(const float* p)
      : s2(load(p)), m2(load(p + W)), w(load(p + 2 * W)), we(load(p + 3 * W)) {}
  void write(float* p) const {
    store(p, s2), store(p + W, m2), store(p + 2 * W, w), store(p + 3 * W, we);
  }
  void add(vf dz, vf v, vf gate, vf n, vf d) {
    s2 += dz * v, m2 += dz, w += gate * d, we += gate * n;
  }
};

// dL/dv of one source; keeps the gates of its synapses.
static inline vf backward_run(const SynapseRuns& runs, long source, vf v, const float* dn,
                              const float* dd, float* gates) {
  vf sum = vf{};
  for (int e = runs.begin[source]; e < runs.begin[source + 1]; ++e) {
    const ListedSynapse& s = runs.synapses[e];
    const vf gate = ltc_gate(v, s.s2, s.m2);
    store(gates + e * W, gate);
    sum +=
        ltc_gate_backward(gate, s.w, s.we, load(dn + s.target * W), load(dd + s.target * W)) * s.s2;
  }
  return sum * MINUS_LN2;
}

// The gradients of all synapses over N unfolds; v, dn, dd: [N][row], gates: [N][count][W].
template <int N = KEPT_UNFOLDS>
static void add_gradients(long unfolds, const SynapseRuns& runs, const float* v, const float* dn,
                          const float* dd, long row, const float* gates, float* slab) {
  if constexpr (N > 1)
    if (unfolds < N) return add_gradients<N - 1>(unfolds, runs, v, dn, dd, row, gates, slab);
  for (long i = 0; i < runs.neurons; ++i) {
    vf vs[N];
    for (int u = 0; u < N; ++u) vs[u] = load(v + u * row + i * W);
    for (int e = runs.begin[i]; e < runs.begin[i + 1]; ++e) {
      const ListedSynapse& s = runs.synapses[e];
      SynapseSums sums(slab + e * 4 * W);
      for (int u = 0; u < N; ++u) {
        const long at = u * row + s.target * W;
        const vf gate = load(gates + (u * runs.count + e) * W), n = load(dn + at),
                 d = load(dd + at);
        sums.add(ltc_gate_backward(gate, s.w, s.we, n, d), vs[u], gate, n, d);
      }
      sums.write(slab + e * 4 * W);
    }
  }
}

// The sensory synapses of N steps; x, dx: [N][runs.neurons][W], dn, dd: [N][row].
template <int N = SENSORY_STEPS>
static void backward_inputs(long steps, const SynapseRuns& runs, const float* x, const float* dn,
                            const float* dd, long row, float* dx, float* slab) {
  if constexpr (N > 1)
    if (steps < N) return backward_inputs<N - 1>(steps, runs, x, dn, dd, row, dx, slab);
  for (long i = 0; i < runs.neurons; ++i) {
    vf xs[N], sum[N];
    for (int t = 0; t < N; ++t) xs[t] = load(x + (t * runs.neurons + i) * W), sum[t] = vf{};
    for (int e = runs.begin[i]; e < runs.begin[i + 1]; ++e) {
      const ListedSynapse& s = runs.synapses[e];
      SynapseSums sums(slab + e * 4 * W);
      for (int t = 0; t < N; ++t) {
        const long at = t * row + s.target * W;
        const vf gate = ltc_gate(xs[t], s.s2, s.m2), n = load(dn + at), d = load(dd + at);
        const vf dz = ltc_gate_backward(gate, s.w, s.we, n, d);
        sums.add(dz, xs[t], gate, n, d);
        sum[t] += dz * s.s2;
      }
      sums.write(slab + e * 4 * W);
    }
    for (int t = 0; t < N; ++t) store(dx + (t * runs.neurons + i) * W, sum[t] * MINUS_LN2);
  }
}

// [recurrent][4][W], [sensory][4][W], [dcm dleak_num dleak_den][H][W]
static long ltc_list_slab_floats(const LtcProblem& p) {
  return (4 * (p.recurrent_count + p.sensory_count) + 3 * p.H) * W;
}

static void ltc_sparse_backward_rows(const LtcProblem& p, const SynapseRuns& recurrent,
                                     const SynapseRuns& sensory, const Lstm& k,
                                     const RowBlock& block, float* sums, float* totals,
                                     const LstmSlab& lstm_sums) {
  const long H = p.H, I = p.I, T = p.T, U = p.U, b = block.b, live = block.live, row = H * W,
             Hp = round_up(H, W);
  float *sensory_sums = sums + 4 * p.recurrent_count * W,
        *neuron_sums = sensory_sums + 4 * p.sensory_count * W;
  Scratch scratch(
      (U + 2 + 2 * KEPT_UNFOLDS + 2 * SENSORY_STEPS) * row + KEPT_UNFOLDS * recurrent.count * W +
      (2 * SENSORY_STEPS * I + 2 + (k.p.on ? Hp : 0)) * W + lstm_backward_floats(k, live));
  // v [U + 1]; dn, dd, gates [KEPT_UNFOLDS]; step_dn, step_dd, x, dx [SENSORY_STEPS]
  float *v = scratch.data, *dv = v + (U + 1) * row, *dn = dv + row, *dd = dn + KEPT_UNFOLDS * row,
        *gates = dd + KEPT_UNFOLDS * row, *step_dn = gates + KEPT_UNFOLDS * recurrent.count * W,
        *step_dd = step_dn + SENSORY_STEPS * row, *x = step_dd + SENSORY_STEPS * row,
        *dx = x + SENSORY_STEPS * I * W, *ts = dx + SENSORY_STEPS * I * W, *dts = ts + W,
        *rows = dts + W;
  Carver own{rows + Hp * W};
  const LstmBackwardRows lstm = make_lstm_rows(k, lstm_sums, b, live, own);
  fill(dv, row, 0.0f);
  const auto starts = [&](long t) {  // a run of steps whose sensory synapses are evaluated together
    return t % SENSORY_STEPS == 0 || (p.lstm.on && t % lstm.chunk == 0);
  };
  for (long t = T - 1, waiting = 0; t >= 0; --t) {
    float *const now_dn = step_dn + waiting * row, *const now_dd = step_dd + waiting * row;
    gather_rows(p.ts + b * T + t, T, 1, live, ts);
    gather_rows(p.x + (b * T + t) * I, T * I, I, live, x + waiting * I * W);
    ++waiting;
    if (p.lstm.on) {
      lstm_recall(k, b, live, t, rows, Hp);
      gather_rows(rows, Hp, H, live, v);
    } else {
      gather_rows(state_before(k, p.v, p.v0, b, t), t > 0 ? T * H : H, H, live, v);
    }
    gather_rows(p.dv + (b * T + t) * H, T * H, H, live, now_dn);
    for (long j = 0; j < H; ++j)  // lanes past the batch stay 0
      store_partial(dv + j * W, load(dv + j * W) + load(now_dn + j * W), live);
    fill(now_dn, row, 0.0f), fill(now_dd, row, 0.0f);
    const vf rate = load(ts) / float(U);
    const float* saved = block.saved + t * U * 2 * H * live;
    for (long at = 0; at < U * H; ++at) {
      const float* n = saved + at * 2 * live;
      store(v + row + at * W, ltc_update(load(v + at * W), load_partial(n, live),
                                         load_partial(n + live, live), p.cm[at % H], rate));
    }
    vf drate = vf{};
    for (long u = U - 1; u >= 0; --u) {
      const long kept = u % KEPT_UNFOLDS;
      float *const u_dn = dn + kept * row, *const u_dd = dd + kept * row;
      for (long j = 0; j < H; ++j) {
        const long at = j * W;
        const float* kept_n = saved + (u * H + j) * 2 * live;
        if (t > 0) __builtin_prefetch(kept_n - U * 2 * H * live);
        if (t > 0) __builtin_prefetch(kept_n - U * 2 * H * live + live);
        const vf n = load_partial(kept_n, live), d = load_partial(kept_n + live, live);
        const vf next = load(v + (u + 1) * row + at);
        const vf grad = load(dv + at) / ltc_update_denominator(d, splat(p.cm[j]), rate);
        const vf gn = grad * rate, gd = -gn * next;
        store(u_dn + at, gn), store(u_dd + at, gd);
        store(now_dn + at, load(now_dn + at) + gn), store(now_dd + at, load(now_dd + at) + gd);
        store(neuron_sums + at, load(neuron_sums + at) + grad * (load(v + u * row + at) - next));
        store(dv + at, grad * p.cm[j]);
        drate += grad * (n - next * d);
      }
      for (long i = 0; i < H; ++i)
        store(dv + i * W,
              load(dv + i * W) + backward_run(recurrent, i, load(v + u * row + i * W), u_dn, u_dd,
                                              gates + kept * recurrent.count * W));
      if (kept == 0)
        add_gradients(min_of(KEPT_UNFOLDS, U - u), recurrent, v + u * row, dn, dd, row, gates,
                      sums);
    }
    add_to(neuron_sums + row, now_dn, row);
    add_to(neuron_sums + 2 * row, now_dd, row);
    if (starts(t)) {
      backward_inputs(waiting, sensory, x, step_dn, step_dd, row, dx, sensory_sums);
      for (long later = 0; waiting > 0; ++later)
        scatter_rows(dx + --waiting * I * W, I, live, p.dx + (b * T + t + later) * I, T * I);
    }
    store(dts, drate / float(U));
    scatter_rows(dts, 1, live, p.dts + b * T + t, T);
    if (p.lstm.on) {
      scatter_rows(dv, H, live, rows, Hp);
      lstm_backward_after_dx(lstm, t, rows, Hp);
      for (long lane = 0; lane < live; ++lane)  // lanes past the batch stay 0
        for (long j = 0; j < H; ++j) dv[j * W + lane] = rows[lane * Hp + j];
    }
    if (t % FLUSH_STEPS == 0) flush(totals, sums, ltc_list_slab_floats(p));
  }
  if (p.lstm.on) lstm_finish(lstm);
  scatter_rows(dv, H, live, p.dv0 + b * H, H);
}

// Sums lanes and tasks in a fixed order into the dense gradient matrices, which are zero where
// there is no synapse.
static void unpack_runs(const SynapseRuns& runs, long units, long sources, const float* slabs,
                        long stride, long count, const SynapseGradients& out) {
  float* const parts[4] = {out.s2, out.m2, out.w, out.we};
  for (int part = 0; part < 4; ++part) fill(parts[part], sources * units, 0.0f);
  for (long e = 0; e < runs.count; ++e)
    for (int part = 0; part < 4; ++part) {
      float sum = 0.0f;
      for (long s = 0; s < count; ++s)
        sum += horizontal_sum(load(slabs + s * stride + (e * 4 + part) * W));
      parts[part][runs.synapses[e].source * units + runs.synapses[e].target] =
          part < 2 ? sum * MINUS_LN2 : sum;
    }
}

static void ltc_sparse_backward(const LtcProblem& p) {
  Carver memory{nullptr};
  make_runs(p.recurrent, p.recurrent_list, p.recurrent_count, p.H, p.H, true, memory);
  make_runs(p.sensory, p.sensory_list, p.sensory_count, p.H, p.I, true, memory);
  make_lstm(p, p.v0, p.v, true, memory);
  Scratch scratch(memory.used);
  memory = Carver{scratch.data};
  const SynapseRuns recurrent =
      make_runs(p.recurrent, p.recurrent_list, p.recurrent_count, p.H, p.H, true, memory);
  const SynapseRuns sensory =
      make_runs(p.sensory, p.sensory_list, p.sensory_count, p.H, p.I, true, memory);
  const Lstm lstm = make_lstm(p, p.v0, p.v, true, memory);
  const long blocks = row_blocks(p, p.B), slabs = min_of(blocks, MAX_SLABS),
             stride = ltc_list_slab_floats(p);
  Scratch slab_memory(2 * stride * (slabs > 0 ? slabs : 1));
  float *totals = slab_memory.data, *sums = totals + stride * slabs;
  const LstmSlabs lstm_slabs(lstm, slabs);
  auto body = [&](long task) {
    fill(totals + task * stride, stride, 0.0f);
    fill(sums + task * stride, stride, 0.0f);
    const LstmSlab lstm_sums = lstm_slabs.cleared(task);
    for (long block = blocks * task / slabs; block < blocks * (task + 1) / slabs; ++block)
      ltc_sparse_backward_rows(p, recurrent, sensory, lstm, row_block(p, p.B, block),
                               sums + task * stride, totals + task * stride, lstm_sums);
  };
  parallel(slabs, body);
  lstm_slabs.unpack();
  unpack_runs(recurrent, p.H, p.H, totals, stride, slabs, p.drecurrent);
  unpack_runs(sensory, p.H, p.I, totals + 4 * p.recurrent_count * W, stride, slabs, p.dsensory);
  float* const neurons[3] = {p.dcm, p.dleak_num, p.dleak_den};
  for (int part = 0; part < 3; ++part)
    for (long j = 0; j < p.H; ++j) {
      neurons[part][j] = 0.0f;
      for (long s = 0; s < slabs; ++s)
        neurons[part][j] +=
            horizontal_sum(load(totals + s * stride +
                                (4 * (p.recurrent_count + p.sensory_count) + part * p.H + j) * W));
    }
}

static void ltc_forward(const LtcProblem& p, bool batch_lanes) {
  batch_lanes ? ltc_sparse_forward(p) : ltc_dense_forward(p);
}
static void ltc_backward(const LtcProblem& p, bool batch_lanes) {
  batch_lanes ? ltc_sparse_backward(p) : ltc_dense_backward(p);
}
