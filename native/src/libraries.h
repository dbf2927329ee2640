/* libraries.h - the codec libraries that this build found: each HAVE_ is 0 or 1. */
#ifndef DFMT_LIBRARIES_H
#define DFMT_LIBRARIES_H

/* The build defines those that it found as 1. */
#ifndef HAVE_LIBDEFLATE
#define HAVE_LIBDEFLATE 0
#endif
#ifndef HAVE_ISAL
#define HAVE_ISAL 0
#endif
#ifndef HAVE_ZLIB
#define HAVE_ZLIB 0
#endif
#ifndef HAVE_ZSTD
#define HAVE_ZSTD 0
#endif

#if HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif
#if HAVE_ISAL
#include <isa-l.h>
#endif
#if HAVE_ZLIB
#include <zlib.h>
#endif
#if HAVE_ZSTD
#include <zstd.h>
#endif

#define HAVE_INFLATE (HAVE_LIBDEFLATE || HAVE_ZLIB)
#define FULL_WINDOW 15

#endif
