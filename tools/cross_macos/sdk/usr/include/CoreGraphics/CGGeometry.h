// Stub: the part of CoreGraphics that metal-cpp's headers name.
#pragma once

#include <CoreFoundation/CoreFoundation.h>

struct CGPoint {
  CGFloat x, y;
};
struct CGSize {
  CGFloat width, height;
};
struct CGRect {
  CGPoint origin;
  CGSize size;
};
