// The maths alone, value by value: what tests compare with double precision.

template <int ACTIVATION>
static inline vf activation_or_slope(vf z, bool slope) {
  const vf value = ncps_activation<ACTIVATION>(z);
  if (!slope) return value;
  return ncps_activation_slope<ACTIVATION>(ncps_slope_from_value<ACTIVATION>() ? value : z);
}

static inline vf maths_of(int function, vf z, bool slope) {
  switch (function) {
    case NCPS_LECUN_TANH:
      return activation_or_slope<NCPS_LECUN_TANH>(z, slope);
    case NCPS_TANH:
      return activation_or_slope<NCPS_TANH>(z, slope);
    case NCPS_RELU:
      return activation_or_slope<NCPS_RELU>(z, slope);
    case NCPS_GELU:
      return activation_or_slope<NCPS_GELU>(z, slope);
    case NCPS_SILU:
      return activation_or_slope<NCPS_SILU>(z, slope);
    case NCPS_SIGMOID:
      return activation_or_slope<NCPS_SIGMOID>(z, slope);
    case MATHS_EXP2:
      return ncps_exp2(z);
    case MATHS_LOGISTIC:
      return ncps_logistic(z);
    default:
      return ncps_erf(z);
  }
}

static void run_maths(int function, bool slope, const float* z, long n, float* out) {
  for (long i = 0; i < n; i += W)
    store_partial(out + i, maths_of(function, load_partial(z + i, n - i), slope), n - i);
}
