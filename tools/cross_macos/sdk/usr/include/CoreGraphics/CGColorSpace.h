// Stub: metal-cpp's headers name the type only.
#pragma once

typedef struct CGColorSpace* CGColorSpaceRef;
