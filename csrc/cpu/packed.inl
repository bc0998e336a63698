// Cells whose parameters are packed once and run many times: what a stream of single steps calls. A
// packed cell is never written after it is made, so that several threads may run it.

// The LSTM of a packed cell, on the arrays of a call.
template <typename Problem>
static Lstm lstm_of_call(Lstm k, const Problem& p, const float* h0, const float* h) {
  k.p.c0 = p.lstm.c0, k.p.c = p.lstm.c, k.p.gates = p.lstm.gates;
  k.T = p.T, k.x = p.x, k.h0 = h0, k.h = h;
  return k;
}

// The runs are empty where the problem has no lists.
struct PackedLtc {
  float* memory;
  LtcDense dense;
  SynapseRuns recurrent, sensory;
};

static PackedLtc make_packed_ltc(const LtcProblem& p, Carver& memory) {
  PackedLtc packed{memory.base, make_ltc_dense(p, false, memory), {}, {}};
  if (!p.recurrent_list) return packed;
  packed.recurrent =
      make_runs(p.recurrent, p.recurrent_list, p.recurrent_count, p.H, p.H, false, memory);
  packed.sensory = make_runs(p.sensory, p.sensory_list, p.sensory_count, p.H, p.H, false, memory);
  return packed;
}

static void* new_packed_ltc(const LtcProblem& p) {
  Carver count{nullptr};
  make_packed_ltc(p, count);
  Carver memory{allocate_floats(count.used)};
  return new PackedLtc(make_packed_ltc(p, memory));
}

static void run_packed_ltc(const void* packed, const LtcProblem& call, bool batch_lanes) {
  const auto& ltc = *static_cast<const PackedLtc*>(packed);
  auto p = call;
  p.cm = ltc.dense.cm, p.leak_num = ltc.dense.leak_num, p.leak_den = ltc.dense.leak_den;
  const Lstm lstm = lstm_of_call(ltc.dense.lstm, p, p.v0, p.v);
  if (batch_lanes) return ltc_lists_forward_all(p, ltc.recurrent, ltc.sensory, lstm);
  LtcDense dense = ltc.dense;
  dense.p = p, dense.lstm = lstm;
  ltc_dense_forward_all(dense);
}

static void free_packed_ltc(void* packed) {
  auto* ltc = static_cast<PackedLtc*>(packed);
  free_floats(ltc->memory);
  delete ltc;
}

struct PackedCfc {
  float* memory;
  Cfc k;
};

static void* new_packed_cfc(const CfcProblem& p) {
  Carver count{nullptr};
  make_cfc(p, false, count);
  float* memory = allocate_floats(count.used);
  Carver carver{memory};
  auto* packed = new PackedCfc{memory, make_cfc(p, false, carver)};
  pack_cfc(packed->k);
  return packed;
}

static void run_packed_cfc(const void* packed, const CfcProblem& p) {
  Cfc k = static_cast<const PackedCfc*>(packed)->k;
  k.p = p, k.lstm = lstm_of_call(k.lstm, p, p.h0, p.h);
  cfc_forward_all(k);
}

static void free_packed_cfc(void* packed) {
  auto* cfc = static_cast<PackedCfc*>(packed);
  free_floats(cfc->memory);
  delete cfc;
}
