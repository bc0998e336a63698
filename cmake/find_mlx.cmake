# Finds MLX and nanobind in the Python environment, and checks that they fit each other.

# Not Development.SABIModule: with the stable ABI nanobind gives the module its own type registry,
# which cannot see mlx.core.array.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)

execute_process(COMMAND "${Python_EXECUTABLE}" -m nanobind --cmake_dir
  OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE nanobind_ROOT COMMAND_ERROR_IS_FATAL ANY)
find_package(nanobind CONFIG REQUIRED)

if(NOT MLX_ROOT)
  execute_process(COMMAND "${Python_EXECUTABLE}" -m mlx --cmake-dir
    OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE MLX_ROOT COMMAND_ERROR_IS_FATAL ANY)
endif()
# NO_DEFAULT_PATH: never another MLX that happens to be installed on the system.
find_package(MLX CONFIG REQUIRED
  PATHS "${MLX_ROOT}" "${MLX_ROOT}/share/cmake/MLX" NO_DEFAULT_PATH)
message(STATUS "mlx_ncps: mlx ${MLX_VERSION} (${MLX_ROOT}), nanobind ${nanobind_VERSION}")

cmake_path(GET nanobind_DIR PARENT_PATH _nanobind_package)
execute_process(
  COMMAND "${Python_EXECUTABLE}" ${PROJECT_SOURCE_DIR}/build_backend/check_nanobind_abi.py
    "${MLX_ROOT}" "${_nanobind_package}"
  RESULT_VARIABLE _abi_result OUTPUT_VARIABLE _abi_text ERROR_VARIABLE _abi_text
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT _abi_result EQUAL 0 AND NOT CMAKE_CROSSCOMPILING)
  message(FATAL_ERROR "nanobind ${nanobind_VERSION} does not fit mlx ${MLX_VERSION}: ${_abi_text}. "
    "See NANOBIND_FOR_MLX in build_backend/native_requirements.py.")
endif()
