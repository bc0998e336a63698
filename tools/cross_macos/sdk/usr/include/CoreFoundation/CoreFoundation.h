// Stub: the part of CoreFoundation that metal-cpp's headers name.
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef double CFTimeInterval;
typedef double CGFloat;
typedef long CFIndex;
typedef signed long CFComparisonResult;
typedef unsigned long CFTypeID;
typedef unsigned long CFOptionFlags;
typedef unsigned long CFHashCode;
typedef const void* CFTypeRef;
typedef const struct __CFAllocator* CFAllocatorRef;
typedef const struct __CFString* CFStringRef;

#define CF_ENUM_AVAILABLE(...)
#define CF_EXPORT extern
