// What kernels call outside of themselves: the simulator's runtime (../runtime) and the C library.
#pragma once

extern "C" {
void __msl_tg_barrier(uint flags, uint site);
void __msl_simd_barrier(uint flags, uint site);
// Leaves this lane's value, waits for the others, returns the mask of those that came.
uint __msl_simd_put(ulong lo, ulong hi, uint site);
// As __msl_simd_put, of the matrix functions: all 32 lanes must come.
void __msl_matrix_put(ulong lo, ulong hi, uint site);
uint __msl_matrix_layout(void);
void __msl_matrix_unset(void);  // a matrix is read that nobody wrote
ulong __msl_simd_lo(uint lane);
ulong __msl_simd_hi(uint lane);
uint __msl_lane(void);
uint __msl_simd_width(void);
ulong __msl_tg_alloc(uint id, ulong size, uint align);
// kind: 0 a load, 1 a read and a write, 2 a store.
void __msl_atomic(ulong address, uint size, uint kind);
// A transcendental result with the noise that the option `ulp` asks for.
float __msl_ulp(float x, int mode);

#define MSL_PURE __attribute__((const))
float acosf(float) MSL_PURE;
float acoshf(float) MSL_PURE;
float asinf(float) MSL_PURE;
float asinhf(float) MSL_PURE;
float atanf(float) MSL_PURE;
float atanhf(float) MSL_PURE;
float atan2f(float, float) MSL_PURE;
float cosf(float) MSL_PURE;
float coshf(float) MSL_PURE;
float expf(float) MSL_PURE;
float exp2f(float) MSL_PURE;
float exp10f(float) MSL_PURE;
float fmodf(float, float) MSL_PURE;
float logf(float) MSL_PURE;
float log2f(float) MSL_PURE;
float log10f(float) MSL_PURE;
float nextafterf(float, float) MSL_PURE;
float powf(float, float) MSL_PURE;
float sinf(float) MSL_PURE;
float sinhf(float) MSL_PURE;
float tanf(float) MSL_PURE;
float tanhf(float) MSL_PURE;
float ldexpf(float, int) MSL_PURE;
int ilogbf(float) MSL_PURE;
}
