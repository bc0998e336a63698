# The target _ext: builds the module, and writes the facts that mlx_ncps/_loader.py reads before
# loading it.

include(${CMAKE_CURRENT_LIST_DIR}/find_mlx.cmake)

nanobind_add_module(_ext NB_STATIC FREE_THREADED LTO NOMINSIZE NB_DOMAIN mlx NB_SUPPRESS_WARNINGS
  src/bindings.cpp
  src/interrupt.cpp
  src/program.cpp
  src/step_cell.cpp
  src/values.cpp
  csrc/ltc.cpp
  csrc/cfc.cpp
  csrc/dropout.cpp
  csrc/any_dtype.cpp
  csrc/fold.cpp
  csrc/guard.cpp
  csrc/pairs.cpp
  csrc/at_once.cpp
  csrc/loose_call.cpp
  csrc/mappable.cpp
  csrc/mapped.cpp
  csrc/metallib.cpp
  csrc/program.cpp
  csrc/program_plan.cpp
  csrc/program_sequence.cpp
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
  # The wheel's CMake files name frameworks by absolute paths of MLX's own build machine; of these
  # Accelerate is MLX's alone (docs/decisions.md says why).
  find_library(METAL_FRAMEWORK Metal REQUIRED)
  find_library(FOUNDATION_FRAMEWORK Foundation REQUIRED)
  find_library(QUARTZCORE_FRAMEWORK QuartzCore REQUIRED)
  set_target_properties(mlx PROPERTIES INTERFACE_LINK_LIBRARIES
    "${METAL_FRAMEWORK};${FOUNDATION_FRAMEWORK};${QUARTZCORE_FRAMEWORK}")

  # Kernels compiled ahead of time, which only the backend "metallib" takes; all others are compiled
  # from the same text at run time by mx.fast.metal_kernel.
  if(MLX_NCPS_METALLIB)
    file(GLOB _metal_text CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/metal/*)
    # Run the compiler, don't only look for it: Xcode 26 has a `metal` that only says that the Metal
    # toolchain must be downloaded.
    execute_process(COMMAND xcrun -sdk macosx metal --version
      RESULT_VARIABLE _no_metal OUTPUT_QUIET ERROR_QUIET)
    if(NOT _no_metal EQUAL 0)
      message(FATAL_ERROR "MLX_NCPS_METALLIB needs Xcode's Metal compiler, which does not run: "
        "install Xcode, and from Xcode 26 on run xcodebuild -downloadComponent MetalToolchain.")
    endif()
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
