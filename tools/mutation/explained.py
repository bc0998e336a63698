"""Survivors that are no bugs: (file, line before, line after) -> why no test can or should see it.

Add an entry only after reading the line. Delete an entry whose lines no longer exist.
"""

EXPLAINED: dict[tuple[str, str, str], str] = {
    (
        "csrc/cpu/cfc.inl",
        "for (long n = 0; n < k.stride[s]; ++n) k.bias[s][n] = bias_of(k, s, n);",
        "for (long n = 0; n < k.width[s]; ++n) k.bias[s][n] = bias_of(k, s, n);",
    ): (
        "equivalent: the biases past the width are added to padding columns, which no GEMM reads "
        "(the heads have none: their width is whole panels)"
    ),
    (
        "csrc/cpu/ltc_dense_backward.inl",
        "const long lanes = transposed ? sources : targets, "
        "others = transposed ? targets : sources;",
        "const long lanes = transposed ? sources : targets, others = (sources);",
    ): "equivalent: only the square recurrent matrix is transposed",
    (
        "csrc/cpu/memory.inl",
        "float* p = base ? base + used : nullptr;",
        "float* p = (base + used);",
    ): "equivalent: the walk that counts (base is null) never reads its pointers",
    (
        "metal/ltc_dense_forward.metal",
        "m2[q] = on ? float(synapse_m2[at]) : 0.0f;",
        "m2[q] = (float(synapse_m2[at]));",
    ): "equivalent: where `on` is false, w and we are 0 and `at` is 0",
    (
        "metal/ltc_lists_sensory_backward.metal",
        "if (slice >= slices || first >= rows) return;",
        "if (slice >= slices && first >= rows) return;",
    ): (
        "speed only: the grid has no surplus slices, and surplus rows are clamped where they are "
        "read and not written"
    ),
    (
        "metal/ltc_synapse_backward.metal",
        "const float dz = ltc_gate_backward(gate, w, we, dn, dd);",
        "const float dz = ltc_gate_backward(gate, w, dn, we, dd);",
    ): "equivalent: the function multiplies the two",
    (
        "metal/ltc_dense_backward.metal",
        "const float dz = ltc_gate_backward(gate, w[q], we[q], dn_j, dd_j);",
        "const float dz = ltc_gate_backward(gate, w[q], dn_j, we[q], dd_j);",
    ): "equivalent: the function multiplies the two",
    (
        "csrc/cpu/ltc_stages.inl",
        "const long each = stages_of(p) > 1 ? floats : 0;",
        "const long each = stages_of(p) >= 1 ? floats : 0;",
    ): "memory only: taken, and read by no solver of one stage",
    (
        "csrc/cpu/ltc_stages.inl",
        "const long each = stages_of(p) > 1 ? floats : 0;",
        "const long each = stages_of(p) > 1 ? floats : 1;",
    ): "memory only: taken, and read by no solver of one stage",
    (
        "csrc/cpu/dropout.inl",
        "const long q = at + i * W, lower = end - q, upper = min_of(lower, p.n - half - q);",
        "const long q = at + i * W, lower = end - q, upper = min_of(lower, p.n - q - half);",
    ): "equivalent: differences of integers",
    (
        "csrc/cpu/program.inl",
        "const long fit = PROGRAM_FLOATS / (copies * k.row_floats + 1), "
        "most = min_of(fit, PROGRAM_ROWS);",
        "const long fit = PROGRAM_FLOATS / (copies + 1), most = min_of(fit, PROGRAM_ROWS);",
    ): "speed only: rows of a block, at most 16",
    (
        "csrc/cpu/dropout.inl",
        "if (upper > 0) store_partial(p.out + half + q, factor(y[i]), upper);",
        "if (upper >= 0) store_partial(p.out + half + q, factor(y[i]), upper);",
    ): "equivalent: of no lanes none is stored",
    (
        "csrc/cpu/ltc_stages.inl",
        "const long each = stages_of(p) > 1 ? floats : 0;",
        "const long each = stages_of(p) > 2 ? floats : 0;",
    ): "equivalent: no solver has two stages",
    (
        "csrc/cpu/ltc_dense.inl",
        "for (long lane = 0; lane < W; ++lane)",
        "for (long lane = 0; lane <= W; ++lane)",
    ): (
        "equivalent: the float past the lanes is the first one of what is written next: the "
        "next part, the next block, at the end cm"
    ),
    (
        "csrc/cpu/packed.inl",
        "if (kernel == LtcKernel::LISTS) return ltc_lists_forward_all(p, ltc.recurrent, "
        "ltc.sensory, lstm);",
        "if (false) return ltc_lists_forward_all(p, ltc.recurrent, ltc.sensory, lstm);",
    ): "speed only: the dense kernel gives the same states of the same cell",
    (
        "csrc/cpu/program.inl",
        "parallel_chains(threads, (p.B + rows - 1) / rows, (p.T + steps - 1) / steps, body);",
        "parallel_chains(threads, (p.B + rows - 1) / rows, (p.T + steps + 1) / steps, body);",
    ): "equivalent: a link past the last step has no steps",
    (
        "csrc/cpu/program_slopes.inl",
        "if (!WHOLE && !out.lane) *to += horizontal_sum(sum);",
        "if (!WHOLE || !out.lane) *to += horizontal_sum(sum);",
    ): "equivalent: the sum is 0 where its lanes were added one by one",
    (
        "csrc/cpu/program_slopes.inl",
        "const Place to = g.of(k, i.in[0], 0), from = g.of(k, i.out, 0);",
        "const Place to = g.of(k, i.in[0], 1), from = g.of(k, i.out, 0);",
    ): "equivalent: the size decides about the lane, which moves and sums do not read",
    (
        "csrc/cpu/program_backward.inl",
        "blocks = (p.B + rows - 1) / rows, tasks = min_of(blocks, MAX_SLABS);",
        "blocks = (p.B + rows) / rows, tasks = min_of(blocks, MAX_SLABS);",
    ): "equivalent: at most a block without rows more",
    (
        "csrc/cpu/cfc_backward.inl",
        "const long rows = even_rows(p.B, p.B < 128 ? CFC_ROWS / 2 : CFC_ROWS,",
        "const long rows = even_rows(p.B, (CFC_ROWS),",
    ): "speed only: rows per task",
    (
        "csrc/cpu/memory.inl",
        "} arrays[3];",
        "} arrays[4];",
    ): "speed only: a fourth array of no floats, of which nothing is prefetched",
}
