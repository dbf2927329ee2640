# Targets that carry flags: `dfmt_flags` (how code is generated; passed on to all that link the engine) and
# `dfmt_warnings` (what our own C must keep to; generated and foreign code is spared).
find_package(Threads REQUIRED)

add_library(dfmt_warnings INTERFACE)
target_compile_options(dfmt_warnings INTERFACE
  -Wall -Wextra -Wvla -Wpointer-arith -Wcast-qual -Wstrict-prototypes -Wmissing-prototypes
  -Wwrite-strings -Wformat=2 -Wundef)
if(DISKFMT_WERROR)
  target_compile_options(dfmt_warnings INTERFACE -Werror)
endif()

add_library(dfmt_flags INTERFACE)
target_compile_options(dfmt_flags INTERFACE -fno-strict-overflow)
if(DISKFMT_SANITIZE)
  # Recovering would let a run with reports end with 0.
  target_compile_options(dfmt_flags INTERFACE
    -fsanitize=${DISKFMT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g)
  target_link_options(dfmt_flags INTERFACE -fsanitize=${DISKFMT_SANITIZE})
else()
  target_compile_options(dfmt_flags INTERFACE -fstack-protector-strong)
  if(NOT DISKFMT_COVERAGE AND NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
    # Distributions predefine lower levels; undefine first.
    target_compile_options(dfmt_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
  endif()
  include(CheckCCompilerFlag)
  check_c_compiler_flag(-fstack-clash-protection DFMT_STACK_CLASH)
  if(DFMT_STACK_CLASH)
    target_compile_options(dfmt_flags INTERFACE -fstack-clash-protection)
  endif()
  target_link_options(dfmt_flags INTERFACE LINKER:-z,relro LINKER:-z,now LINKER:-z,noexecstack)
endif()
if(DISKFMT_COVERAGE)
  target_compile_options(dfmt_flags INTERFACE --coverage -O0 -g)
  target_link_options(dfmt_flags INTERFACE --coverage)
endif()
if(DISKFMT_FUZZ)
  target_compile_options(dfmt_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
