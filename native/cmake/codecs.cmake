# `dfmt_codecs`: the compression libraries this build has. Each one is optional; a missing one is a capability that
# the program names (`diskfmt --version`), never an error here.
#
#   DISKFMT_WITH_<NAME>=OFF   leave a library out although it is there (tests of the fallbacks)
#   DISKFMT_NATIVE_DEPS=fetch build what pkg-config does not find from pinned sources (see deps/)
find_package(PkgConfig)
add_library(dfmt_codecs INTERFACE)

set(DFMT_CODECS_FOUND "")
set(DFMT_CODECS_MISSING "")
macro(dfmt_codec NAME MODULE MINIMUM)
  option(DISKFMT_WITH_${NAME} "Use ${MODULE}" ON)
  set(DFMT_HAVE_${NAME} 0)
  if(DISKFMT_WITH_${NAME})
    if(PkgConfig_FOUND)
      pkg_check_modules(DFMT_${NAME} QUIET IMPORTED_TARGET "${MODULE}>=${MINIMUM}")
    endif()
    if(DFMT_${NAME}_FOUND)
      set(DFMT_HAVE_${NAME} 1)
      target_link_libraries(dfmt_codecs INTERFACE PkgConfig::DFMT_${NAME})
      list(APPEND DFMT_CODECS_FOUND "${MODULE} ${DFMT_${NAME}_VERSION}")
    else()
      list(APPEND DFMT_CODECS_MISSING ${MODULE})
    endif()
  endif()
endmacro()

dfmt_codec(LIBDEFLATE libdeflate 1.10)
dfmt_codec(ISAL libisal 2.29)
dfmt_codec(ZSTD libzstd 1.4.8)
dfmt_codec(ZLIB zlib 1.2.11)

# Always defined, 0 or 1, so that a misspelt name is caught by -Wundef.
foreach(name IN ITEMS LIBDEFLATE ISAL ZSTD ZLIB)
  target_compile_definitions(dfmt_codecs INTERFACE HAVE_${name}=${DFMT_HAVE_${name}})
endforeach()
message(STATUS "diskfmt: codecs found: ${DFMT_CODECS_FOUND}; missing: ${DFMT_CODECS_MISSING}")
