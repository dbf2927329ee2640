# `dfmt_codecs`: the compression libraries this build has. Each one is optional; a missing one is a capability that
# the program names (`diskfmt --version`), never an error here.
#
#   DISKFMT_WITH_<NAME>=OFF   leave a library out although it is there (tests of the fallbacks)
#   DISKFMT_NATIVE_DEPS=fetch build what pkg-config does not find from pinned sources (deps/), as static libraries;
#                     fetch-all: do not even ask pkg-config
find_package(PkgConfig)
add_library(dfmt_codecs INTERFACE)

set(DFMT_FOUND "")
set(DFMT_MISSING "")
macro(dfmt_codec NAME MODULE MINIMUM)
  option(DISKFMT_WITH_${NAME} "Use ${MODULE}" ON)
  set(DFMT_HAVE_${NAME} 0)
  if(DISKFMT_WITH_${NAME})
    if(PkgConfig_FOUND AND NOT DISKFMT_NATIVE_DEPS STREQUAL "fetch-all")
      pkg_check_modules(DFMT_${NAME} QUIET IMPORTED_TARGET "${MODULE}>=${MINIMUM}")
    endif()
    if(DFMT_${NAME}_FOUND)
      set(DFMT_HAVE_${NAME} 1)
      target_link_libraries(dfmt_codecs INTERFACE PkgConfig::DFMT_${NAME})
      list(APPEND DFMT_FOUND "${MODULE} ${DFMT_${NAME}_VERSION}")
    else()
      list(APPEND DFMT_MISSING ${MODULE})
    endif()
  endif()
endmacro()

dfmt_codec(LIBDEFLATE libdeflate 1.10)
dfmt_codec(ISAL libisal 2.29)
dfmt_codec(ZSTD libzstd 1.4.8)
dfmt_codec(ZLIB zlib 1.2.11)
# The headers of zlib come along with those of Python; pkg-config does not.
if(zlib IN_LIST DFMT_MISSING AND NOT DISKFMT_NATIVE_DEPS STREQUAL "fetch-all")
  find_package(ZLIB 1.2.11 QUIET)
  if(ZLIB_FOUND)
    set(DFMT_HAVE_ZLIB 1)
    target_link_libraries(dfmt_codecs INTERFACE ZLIB::ZLIB)
    list(APPEND DFMT_FOUND "zlib ${ZLIB_VERSION_STRING}")
    list(REMOVE_ITEM DFMT_MISSING zlib)
  endif()
endif()

# ---- the fallback: pinned sources ------------------------------------------------------------------------------------
set(DFMT_FETCH ${DFMT_MISSING})
list(REMOVE_ITEM DFMT_FETCH zlib) # libdeflate and ISA-L do all that zlib would
if(DFMT_FETCH AND DISKFMT_NATIVE_DEPS MATCHES "^fetch")
  set(DFMT_DEPS "${PROJECT_SOURCE_DIR}/../build/_deps" CACHE PATH "Cache of fetched sources and their static libraries")
  string(REPLACE ";" "-" DFMT_DEPS_KEY "${CMAKE_SYSTEM_PROCESSOR};${CMAKE_C_COMPILER_ID};${DFMT_FETCH}")
  set(DFMT_DEPS_BUILD "${DFMT_DEPS}/${DFMT_DEPS_KEY}")
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter)
  file(MAKE_DIRECTORY "${DFMT_DEPS}")
  file(LOCK "${DFMT_DEPS}/lock" GUARD FILE TIMEOUT 900) # several builds may come here at once
  message(STATUS "diskfmt: building ${DFMT_FETCH} from pinned sources (once)")
  execute_process(COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/deps/fetch.py" "${DFMT_DEPS}" ${DFMT_FETCH}
                  COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND "${CMAKE_COMMAND}" -S "${PROJECT_SOURCE_DIR}/deps" -B "${DFMT_DEPS_BUILD}"
                  -G "${CMAKE_GENERATOR}" "-DCMAKE_MAKE_PROGRAM=${CMAKE_MAKE_PROGRAM}"
                  "-DCMAKE_C_COMPILER=${CMAKE_C_COMPILER}" "-DCMAKE_BUILD_TYPE=Release" "-DDEPS_DIR=${DFMT_DEPS}"
                  "-DDEPS_NAMES=${DFMT_FETCH}"
                  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND "${CMAKE_COMMAND}" --build "${DFMT_DEPS_BUILD}" OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

  set(DFMT_FETCHED_libdeflate LIBDEFLATE deflate "${DFMT_DEPS}/libdeflate")
  set(DFMT_FETCHED_libisal ISAL isal "${DFMT_DEPS_BUILD}/include")
  set(DFMT_FETCHED_libzstd ZSTD zstd "${DFMT_DEPS}/libzstd")
  foreach(module IN LISTS DFMT_FETCH)
    list(GET DFMT_FETCHED_${module} 0 name)
    list(GET DFMT_FETCHED_${module} 1 library)
    list(GET DFMT_FETCHED_${module} 2 include)
    set(DFMT_HAVE_${name} 1)
    add_library(dfmt_fetched_${library} STATIC IMPORTED)
    set_target_properties(dfmt_fetched_${library} PROPERTIES
      IMPORTED_LOCATION "${DFMT_DEPS_BUILD}/lib/lib${library}.a" INTERFACE_INCLUDE_DIRECTORIES "${include}")
    target_link_libraries(dfmt_codecs INTERFACE dfmt_fetched_${library})
    list(APPEND DFMT_FOUND "${module} (pinned)")
    list(REMOVE_ITEM DFMT_MISSING ${module})
  endforeach()
endif()

# Always defined, 0 or 1, so that a misspelt name is caught by -Wundef.
foreach(name IN ITEMS LIBDEFLATE ISAL ZSTD ZLIB)
  target_compile_definitions(dfmt_codecs INTERFACE HAVE_${name}=${DFMT_HAVE_${name}})
endforeach()
list(JOIN DFMT_FOUND ", " DFMT_FOUND)
list(JOIN DFMT_MISSING ", " DFMT_MISSING)
message(STATUS "diskfmt: codecs: ${DFMT_FOUND}; missing: ${DFMT_MISSING}")
