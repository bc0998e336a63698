# The target _ext: finds MLX and nanobind in the Python environment, checks that they fit each
# other, builds the module, and writes the facts that mlx_ncps/_loader.py reads before loading it.

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

nanobind_add_module(_ext NB_STATIC FREE_THREADED LTO NOMINSIZE NB_DOMAIN mlx NB_SUPPRESS_WARNINGS
  src/bindings.cpp
  src/interrupt.cpp
  src/step_cell.cpp
  csrc/ltc.cpp
  csrc/cfc.cpp
  csrc/metallib.cpp
  csrc/step_cell.cpp
  csrc/primitive.cpp)
target_link_libraries(_ext PRIVATE mlx_ncps_cpu mlx)
if(MLX_NCPS_SANITIZE AND NOT APPLE)
  # Every request for Python's lock passes src/lock_guard.cpp.
  target_sources(_ext PRIVATE src/lock_guard.cpp)
  target_compile_definitions(_ext PRIVATE MLX_NCPS_LOCK_GUARD=1)
  target_link_options(_ext PRIVATE LINKER:--wrap=PyGILState_Ensure)
endif()

# ---- macOS --------------------------------------------------------------------------------------

set(MLX_NCPS_HAS_METALLIB False) # as Python writes it
set(_origin "$ORIGIN")
if(APPLE)
  set(_origin "@loader_path")
  # The wheel's CMake files name frameworks by absolute paths of MLX's own build machine.
  find_library(METAL_FRAMEWORK Metal REQUIRED)
  find_library(FOUNDATION_FRAMEWORK Foundation REQUIRED)
  find_library(QUARTZCORE_FRAMEWORK QuartzCore REQUIRED)
  find_library(ACCELERATE_FRAMEWORK Accelerate REQUIRED)
  set_target_properties(mlx PROPERTIES INTERFACE_LINK_LIBRARIES
    "${METAL_FRAMEWORK};${FOUNDATION_FRAMEWORK};${QUARTZCORE_FRAMEWORK};${ACCELERATE_FRAMEWORK}")

  # Kernels compiled ahead of time, where Xcode's `metal` compiler exists; without it the same
  # text is compiled at run time by mx.fast.metal_kernel.
  file(GLOB _metal_text CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/metal/*)
  # Run it: Xcode 26 finds a `metal` that only says that the Metal toolchain must be downloaded.
  execute_process(COMMAND xcrun -sdk macosx metal --version
    RESULT_VARIABLE _no_metal OUTPUT_QUIET ERROR_QUIET)
  if(_no_metal EQUAL 0 AND MLX_BUILD_METAL)
    set(MLX_NCPS_HAS_METALLIB True)
    set(_metal_source ${PROJECT_BINARY_DIR}/mlx_ncps_kernels.metal)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" ${PROJECT_SOURCE_DIR}/build_backend/metallib_source.py
        ${_metal_source} COMMAND_ERROR_IS_FATAL ANY)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${_metal_text})
    mlx_build_metallib(TARGET mlx_ncps_metallib TITLE mlx_ncps
      SOURCES ${_metal_source} INCLUDE_DIRS ${MLX_INCLUDE_DIRS}
      OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
    add_dependencies(_ext mlx_ncps_metallib)
    install(FILES ${PROJECT_BINARY_DIR}/mlx_ncps.metallib DESTINATION mlx_ncps)
  endif()
endif()
if(MLX_NCPS_HAS_METALLIB)
  target_compile_definitions(_ext PRIVATE MLX_NCPS_HAS_METALLIB=1)
else()
  target_compile_definitions(_ext PRIVATE MLX_NCPS_HAS_METALLIB=0)
endif()

# ---- Installation: `cmake --install` removes the build tree's own rpath -----------------------

set_target_properties(_ext PROPERTIES
  INSTALL_RPATH "${_origin};${_origin}/../mlx/lib" INSTALL_RPATH_USE_LINK_PATH OFF)
install(TARGETS _ext LIBRARY DESTINATION mlx_ncps)

configure_file(${CMAKE_CURRENT_LIST_DIR}/_build_info.py.in ${PROJECT_BINARY_DIR}/_build_info.py
  @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/_build_info.py DESTINATION mlx_ncps)
