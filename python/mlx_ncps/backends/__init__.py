"""The implementations of the fused operators: one module each, all with the same names; `dispatch`
picks one.

A backend module has

    NAME = "cpu"
    available() -> (bool, str)          can it run in this process, and if not: why, and the cure
    unsupported(op, **facts) -> str     "" when it can run this call, else why not
    ltc_sequence(inputs, state, ts, params, *, ode_unfolds, epsilon, implicit_param_constraints,
                 synapses, training) -> states  # [B, T, H]; reference alone: ode_solver
    cfc_sequence(inputs, state, ts, params, *, mode, activation, variant,
                 training) -> states  # [B, T, H]
    MIXED_MEMORY = True                 optional: both take memory=[c0, input_weight, bias,
                                        recurrent_weight], run the LSTM of MATHS 4 in front of the
                                        cell in the same call, and return [states, c]

What `ops` guarantees: shapes and dtypes are checked; B, T, H >= 1; `inputs` is float32, float16 or
bfloat16 and the result has its dtype; `state`, `ts` (when an array) and every leaf of `params` are
float32; `ts` is a Python float >= 0, a 0-d array, or an array [B, T].

`op` is one of these functions, or "ltc_mixed_sequence" or "cfc_mixed_sequence" for a call with
memory; a backend without MIXED_MEMORY answers for the cell alone, which `ops` then calls at every
step. `facts` always holds batch, steps, inputs, units (ints), dtype (of the inputs), scalar_ts and
training (bools); for ltc_sequence also ode_unfolds (int) and synapses (SynapseLists or None); for
cfc_sequence mode and activation (str) and backbone (the widths of its layers, a tuple of ints).
"""
