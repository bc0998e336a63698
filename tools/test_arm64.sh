#!/usr/bin/env bash
# Runs the C++ tests of the kernels and the thread pool as arm64 code under QEMU on another CPU: the
# NEON kernels, compiled by GCC and, where clang is installed, by clang (the compiler of macOS).
# Installs nothing: says what is missing.
#
# Usage: tools/test_arm64.sh [COMPILER...]    gcc, clang; default: gcc, and clang if it is there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

triple=aarch64-linux-gnu
sysroot=/usr/$triple # where Debian's cross libraries lie

fail() {
  echo "test_arm64: $*" >&2
  exit 1
}

first_of() { # the first of these commands that exists
  for name in "$@"; do
    if command -v "$name"; then return; fi
  done
  return 1
}

qemu=$(first_of qemu-aarch64-static qemu-aarch64) || fail "no QEMU: install qemu-user-static"
first_of $triple-g++ >/dev/null || fail "no libraries for arm64: install g++-$triple"
cmake=$(first_of .venv/bin/cmake cmake) || fail "no CMake: install cmake, or run make lint"
clang=$(first_of clang++ clang++-{22,21,20,19,18,17}) || clang=

compilers=("$@")
[ $# -gt 0 ] || compilers=(gcc ${clang:+clang})

for compiler in "${compilers[@]}"; do
  case $compiler in
    gcc) options=("-DCMAKE_CXX_COMPILER=$triple-g++") ;;
    clang)
      [ "$clang" ] || fail "no clang: install clang-19"
      options=("-DCMAKE_CXX_COMPILER=$clang" "-DCMAKE_CXX_COMPILER_TARGET=$triple")
      ;;
    *) fail "unknown compiler $compiler: gcc or clang" ;;
  esac
  build=build/arm64-$compiler
  printf '==> arm64, %s\n' "$compiler"
  "$cmake" -S . -B "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    "${options[@]}" -DCMAKE_BUILD_TYPE=Release -DMLX_NCPS_EXTENSION=OFF -DMLX_NCPS_TESTS=ON
  "$cmake" --build "$build" --parallel "${JOBS:-2}"

  # The name NEON alone proves nothing: fused multiply-adds on four lanes must be in the code.
  fused=$($triple-objdump -d "$build/mlx_ncps_native_tests" |
    grep -cE 'fml[as]\s+v[0-9]+\.4s') || true
  [ "$fused" -gt 100 ] || fail "only $fused vector instructions in the kernels"
  echo "$fused fused multiply-adds on vectors of 4 floats"
  MLX_NCPS_ISA=neon "$qemu" -L "$sysroot" "$build/mlx_ncps_native_tests"
done
