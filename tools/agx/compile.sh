#!/bin/sh
# Inside the root folder: compile.sh FILE.clcpp -> FILE.spv. C++ for OpenCL to SPIR-V as Mesa takes
# it: without the mark of C++, which would leave OpenCL's functions as calls to nowhere; version 1.4,
# which has the functions of SIMD groups; no extensions.
set -e
stem=${1%.clcpp}
clang-21 --target=spir64 -cl-std=CLC++2021 -cl-mad-enable -cl-no-signed-zeros -O2 -fno-slp-vectorize \
  -fno-vectorize -fno-builtin -Wno-everything -Wpass-failed -I/agx -emit-llvm -S "$1" -o "$stem.ll"
sed -i '/^!opencl.cxx.version/d' "$stem.ll"
clang-21 --target=spir64 -x ir -emit-llvm -c "$stem.ll" -o "$stem.bc" -w
llvm-spirv-21 --spirv-max-version=1.4 --spirv-ext=-all "$stem.bc" -o "$stem.spv"
