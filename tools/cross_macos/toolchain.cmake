# CMake toolchain of tools/cross_macos/run: macOS 14 on arm64, from Linux, with zig's clang.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
set(CMAKE_OSX_ARCHITECTURES arm64)
set(CMAKE_OSX_DEPLOYMENT_TARGET 14.0)
set(CMAKE_OSX_SYSROOT ${CMAKE_CURRENT_LIST_DIR}/sdk)
set(CMAKE_FIND_ROOT_PATH ${CMAKE_OSX_SYSROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

set(CMAKE_CXX_COMPILER ${CMAKE_CURRENT_LIST_DIR}/bin/c++)
# Availability: libc++'s headers must not use what came after macOS 14; zig turns that off.
set(CMAKE_CXX_FLAGS_INIT "-isystem ${CMAKE_OSX_SYSROOT}/usr/include \
-U_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS -D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # nothing is linked but the module
set(CMAKE_CXX_ARCHIVE_CREATE "$ENV{ZIG} ar qc <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "$ENV{ZIG} ranlib <TARGET>")
set(CMAKE_INSTALL_NAME_TOOL true)
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)

# What no given library exports stays undefined, and check_module.py judges it: only CPython's
# symbols may.
set(CMAKE_MODULE_LINKER_FLAGS_INIT
  "-Wl,-undefined,dynamic_lookup -F ${CMAKE_OSX_SYSROOT}/System/Library/Frameworks")
set(CMAKE_CXX_STANDARD_LIBRARIES_INIT "$ENV{STUBS}/libc++.tbd $ENV{STUBS}/libobjc.tbd")
