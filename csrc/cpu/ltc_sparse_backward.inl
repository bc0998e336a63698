// The backward twin of ltc_sparse.inl: synapses in runs of equal source, so that dL/dv_i stays in a
// register; each synapse's four gradients accumulate per lane in the task's slab and are summed
// over lanes once, at the end.

static inline vf backward_run(const SynapseRuns& runs, long source, vf v, const float* dn,
                              const float* dd, float* slab) {
  vf sum = vf{};
  for (int e = runs.begin[source]; e < runs.begin[source + 1]; ++e) {
    const ListedSynapse& s = runs.synapses[e];
    const vf gate = ltc_gate(v, s.s2, s.m2), n = load(dn + s.target * W),
             d = load(dd + s.target * W);
    const vf dz = ltc_gate_backward(gate, s.w, s.we, n, d);
    float* grad = slab + e * 4 * W;
    store(grad, load(grad) + dz * v);
    store(grad + W, load(grad + W) + dz);
    store(grad + 2 * W, load(grad + 2 * W) + gate * d);
    store(grad + 3 * W, load(grad + 3 * W) + gate * n);
    sum += dz * s.s2;
  }
  return sum * MINUS_LN2;
}

// [recurrent][4][W], [sensory][4][W], [dcm dleak_num dleak_den][H][W]
static long ltc_list_slab_floats(const LtcProblem& p) {
  return (4 * (p.recurrent_count + p.sensory_count) + 3 * p.H) * W;
}

static void ltc_sparse_backward_rows(const LtcProblem& p, const SynapseRuns& recurrent,
                                     const SynapseRuns& sensory, const Lstm& k, long b, float* sums,
                                     float* totals, const LstmSlab& lstm_sums) {
  const long H = p.H, I = p.I, T = p.T, U = p.U, B = p.B, live = min_of(W, B - b), row = H * W,
             Hp = round_up(H, W);
  float *sensory_sums = sums + 4 * p.recurrent_count * W,
        *neuron_sums = sensory_sums + 4 * p.sensory_count * W;
  Scratch scratch((U + 1 + 5) * row + (2 * I + 2 + (k.p.on ? Hp : 0)) * W +
                  lstm_backward_floats(k, live));
  float *v = scratch.data, *dv = v + (U + 1) * row, *dn = dv + row, *dd = dn + row,
        *step_dn = dd + row, *step_dd = step_dn + row;
  float *x = step_dd + row, *dx = x + I * W, *ts = dx + I * W, *dts = ts + W, *rows = dts + W;
  Carver own{rows + Hp * W};
  const LstmBackwardRows lstm = make_lstm_rows(k, lstm_sums, b, live, own);
  fill(dv, row, 0.0f);
  for (long t = T - 1; t >= 0; --t) {
    gather_rows(p.ts + b * T + t, T, 1, live, ts);
    gather_rows(p.x + (b * T + t) * I, T * I, I, live, x);
    if (p.lstm.on) {
      lstm_recall(k, b, live, t, rows, Hp);
      gather_rows(rows, Hp, H, live, v);
    } else {
      gather_rows(state_before(k, p.v, p.v0, b, t), t > 0 ? T * H : H, H, live, v);
    }
    for (long lane = 0; lane < live; ++lane)
      for (long j = 0; j < H; ++j) dv[j * W + lane] += p.dv[((b + lane) * T + t) * H + j];
    fill(step_dn, 2 * row, 0.0f);
    const vf rate = load(ts) / float(U);
    const float* saved = p.saved + t * U * 2 * H * B + b;
    for (long u = 0; u < U; ++u)
      for (long j = 0; j < H; ++j)
        store(v + (u + 1) * row + j * W,
              ltc_update(
                  load(v + u * row + j * W), load_partial(saved + (u * 2 * H + j) * B, live, 0.0f),
                  load_partial(saved + ((u * 2 + 1) * H + j) * B, live, 0.0f), p.cm[j], rate));
    vf drate = vf{};
    for (long u = U - 1; u >= 0; --u) {
      for (long j = 0; j < H; ++j) {
        const long at = j * W;
        const vf n = load_partial(saved + (u * 2 * H + j) * B, live, 0.0f),
                 d = load_partial(saved + ((u * 2 + 1) * H + j) * B, live, 0.0f);
        const vf next = load(v + (u + 1) * row + at);
        const vf grad = load(dv + at) / ltc_update_denominator(d, splat(p.cm[j]), rate);
        const vf gn = grad * rate, gd = -gn * next;
        store(dn + at, gn), store(dd + at, gd);
        store(step_dn + at, load(step_dn + at) + gn), store(step_dd + at, load(step_dd + at) + gd);
        store(neuron_sums + at, load(neuron_sums + at) + grad * (load(v + u * row + at) - next));
        store(dv + at, grad * p.cm[j]);
        drate += grad * (n - next * d);
      }
      for (long i = 0; i < H; ++i)
        store(dv + i * W, load(dv + i * W) +
                              backward_run(recurrent, i, load(v + u * row + i * W), dn, dd, sums));
    }
    for (long i = 0; i < I; ++i)
      store(dx + i * W, backward_run(sensory, i, load(x + i * W), step_dn, step_dd, sensory_sums));
    add_to(neuron_sums + row, step_dn, row);
    add_to(neuron_sums + 2 * row, step_dd, row);
    scatter_rows(dx, I, live, p.dx + (b * T + t) * I, T * I);
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
  const long blocks = (p.B + W - 1) / W, slabs = min_of(blocks, 16),
             stride = ltc_list_slab_floats(p);
  Scratch slab_memory(2 * stride * (slabs > 0 ? slabs : 1));
  float *totals = slab_memory.data, *sums = totals + stride * slabs;
  const LstmSlabs lstm_slabs(lstm, slabs);
  auto body = [&](long task) {
    fill(totals + task * stride, stride, 0.0f);
    fill(sums + task * stride, stride, 0.0f);
    const LstmSlab lstm_sums = lstm_slabs.cleared(task);
    for (long block = blocks * task / slabs; block < blocks * (task + 1) / slabs; ++block)
      ltc_sparse_backward_rows(p, recurrent, sensory, lstm, block * W, sums + task * stride,
                               totals + task * stride, lstm_sums);
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
