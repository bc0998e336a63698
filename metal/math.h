// The maths that activations.h, ltc.h and cfc.h are written in, for V = float: Metal, and CUDA
// (where cuda.h comes first). Every GPU kernel's text starts with this file.
#pragma once

#if defined(__METAL_VERSION__)
inline float ncps_exp2(float z) { return metal::exp2(z); }
// 1 / (1 + 2^z). fast::divide is called explicitly: MLX compiles custom kernels in safe maths,
// whose divide costs five times as much. A denominator of infinity gives 0.
inline float ncps_logistic(float z) { return metal::fast::divide(1.0f, ncps_exp2(z) + 1.0f); }
inline float ncps_tanh(float z) { return metal::precise::tanh(z); }
inline float ncps_abs(float z) { return metal::fabs(z); }
#else
inline float ncps_exp2(float z) { return exp2f(z); }
inline float ncps_logistic(float z) { return __fdividef(1.0f, exp2f(z) + 1.0f); }
inline float ncps_tanh(float z) { return tanhf(z); }
inline float ncps_abs(float z) { return fabsf(z); }
#endif

inline float ncps_select(bool c, float a, float b) { return c ? a : b; }

// x P(x^2) / Q(x^2), minimax on [-3.9, 3.9]: relative error 9e-8 before rounding; as in csrc/cpu.
inline float ncps_erf(float x) {
  x = x > 3.9f ? 3.9f : x;
  x = x < -3.9f ? -3.9f : x;
  const float z = x * x;
  float p = 2.213192346971482e-4f;
  p = p * z + 3.208199515938759e-3f;
  p = p * z + 5.028616636991501e-2f;
  p = p * z + 1.809913069009781e-1f;
  p = p * z + 1.1283791065216064f;
  float q = -1.163085556754595e-7f;
  q = q * z + 2.3035732738208026e-5f;
  q = q * z + 9.641307406127453e-4f;
  q = q * z + 1.3657552190124989e-2f;
  q = q * z + 1.0914410650730133e-1f;
  q = q * z + 4.937320947647095e-1f;
  q = q * z + 1.0f;
  return x * p / q;
}
