// The LSTM of mixed memory by value (MATHS 4), and its gradient; after "activations.h", whose
// contract for V holds here too.
#pragma once

// iota, gamma, phi and o of (4.2), in the order of z
template <typename V>
struct LstmGates {
  V i, ig, fg, og;
};

template <typename V>
inline LstmGates<V> lstm_gates(V zi, V zig, V zfg, V zog) {
  return {ncps_tanh(zi), ncps_sigmoid(zig), ncps_sigmoid(zfg + 1.0f), ncps_sigmoid(zog)};
}

// c'
template <typename V>
inline V lstm_memory(LstmGates<V> gates, V c) {
  return c * gates.fg + gates.i * gates.ig;
}

// h* from c' and o
template <typename V>
inline V lstm_output(V c_next, V og) {
  return ncps_tanh(c_next) * og;
}

// Of z, and of c
template <typename V>
struct LstmGradient {
  V i, ig, fg, og, c;
};

// dh: of h*; dc_next: of c', without what h* adds.
template <typename V>
inline LstmGradient<V> lstm_backward(LstmGates<V> gates, V c, V c_next, V dh, V dc_next) {
  const V squashed = ncps_tanh(c_next), dog = dh * squashed;
  const V d = dc_next + dh * gates.og * (1.0f - squashed * squashed);
  return {d * gates.ig * (1.0f - gates.i * gates.i), d * gates.i * (gates.ig - gates.ig * gates.ig),
          d * c * (gates.fg - gates.fg * gates.fg), dog * (gates.og - gates.og * gates.og),
          d * gates.fg};
}
