// Undefined behaviour: the handlers that -fsanitize=array-bounds,alignment,... calls.
#include <cstring>

#include "state.h"

using namespace mslsim;

namespace {

// How clang's data for every handler begins.
struct Location {
  const char* file;
  u32 line, column;
};

const char* base_name(const Location* at) {
  const char* slash = std::strrchr(at->file ? at->file : "?", '/');
  return slash ? slash + 1 : at->file;
}

void undefined(const Location* at, const char* what) {
  report("ub", 0, 0, "%s:%u\t%s", base_name(at), at->line, what);
}

// clang's data for an overflow: bit 0 of the type's second word tells a signed type.
struct Overflow {
  Location at;
  const unsigned short* type;
};

void overflow(const Overflow* data, const char* operation) {
  const bool is_signed = data->type[1] & 1;
  report(is_signed ? "ub" : "wrap", 0, 0, "%s:%u\t%s integer overflow in %s", base_name(&data->at),
         data->at.line, is_signed ? "signed" : "unsigned", operation);
}

}  // namespace

// After these two, going on would smash the fiber's own stack.
MSLSIM_EXPORT void __ubsan_handle_out_of_bounds(Location* at, u64 index) {
  report("oob", 0, 0, "%s:%u\tarray index %d out of bounds; %s", base_name(at), at->line,
         static_cast<int>(index), thread_name(this_thread()).c_str());
  abandon_fiber();
}
MSLSIM_EXPORT void __ubsan_handle_type_mismatch_v1(Location* at, u64 address) {
  report("ub", 0, 0, "%s:%u\tmisaligned access (address %% 16 = %u); %s", base_name(at), at->line,
         static_cast<u32>(address & 15), thread_name(this_thread()).c_str());
  abandon_fiber();
}

#define HANDLER(name, what) \
  MSLSIM_EXPORT void __ubsan_handle_##name(Location* at) { undefined(at, what); }
HANDLER(divrem_overflow, "integer division by zero or overflow")
HANDLER(float_cast_overflow, "float outside the range of the integer type it is converted to")
HANDLER(shift_out_of_bounds, "shift amount out of range")
HANDLER(load_invalid_value, "load of a value that is not valid for its type")

#define OVERFLOW(name, operation) \
  MSLSIM_EXPORT void __ubsan_handle_##name##_overflow(Overflow* data) { overflow(data, operation); }
OVERFLOW(add, "+")
OVERFLOW(sub, "-")
OVERFLOW(mul, "*")
OVERFLOW(negate, "unary -")
