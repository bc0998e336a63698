# Finds MLX and nanobind in the Python environment, and checks that they fit each other.

# Not Development.SABIModule: with the stable ABI nanobind gives the module its own type registry,
# which cannot see mlx.core.array.
find_package(Python 3.10 QUIET COMPONENTS Interpreter Development.Module)
if(NOT Python_FOUND)
  message(FATAL_ERROR "The native module needs Python 3.10 or newer with its headers (python3-dev, "
    "python3-devel): ${Python_EXECUTABLE} ${Python_VERSION} does not do.")
endif()

execute_process(COMMAND "${Python_EXECUTABLE}" -m nanobind --cmake_dir
  OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE nanobind_ROOT ERROR_QUIET)
if(NOT nanobind_ROOT)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no nanobind: pip install \"nanobind==VERSION\", "
    "with the VERSION that NANOBIND_FOR_MLX in build_backend/native_requirements.py names.")
endif()
find_package(nanobind CONFIG REQUIRED)

if(NOT MLX_ROOT)
  execute_process(COMMAND "${Python_EXECUTABLE}" -m mlx --cmake-dir
    OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE MLX_ROOT ERROR_QUIET)
endif()
# NO_DEFAULT_PATH: never another MLX that happens to be installed on the system.
find_package(MLX CONFIG QUIET
  PATHS "${MLX_ROOT}" "${MLX_ROOT}/share/cmake/MLX" NO_DEFAULT_PATH)
if(NOT MLX_FOUND)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no MLX to build against: pip install \"mlx[cpu]\" "
    "(on macOS mlx). ${MLX_NOT_FOUND_MESSAGE}")
endif()
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
