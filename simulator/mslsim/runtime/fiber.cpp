// Fibers: each thread of a threadgroup has its own stack and gives way at barriers.
#include <sys/mman.h>

#include <cstring>

#include "state.h"

extern "C" void mslsim_switch(void** from, void* to);
extern "C" void mslsim_trampoline();

namespace mslsim {
namespace {
constexpr u64 kPage = 4096;
}  // namespace

// mslsim_switch saves the callee-saved registers and the stack pointer, and takes up those of the
// other side. A new fiber's stack looks as if it had been switched away from in the trampoline.
#if defined(__x86_64__)
asm(R"(
.text
.globl mslsim_switch
.type mslsim_switch,@function
mslsim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.globl mslsim_trampoline
.type mslsim_trampoline,@function
mslsim_trampoline:
  andq $-16,%rsp
  call mslsim_fiber_main
  ud2
)");
void prepare_fiber(Fiber& fiber) {
  u64* top = reinterpret_cast<u64*>(fiber.stack + kStackBytes);
  *--top = 0;
  *--top = reinterpret_cast<u64>(mslsim_trampoline);
  for (int i = 0; i < 6; i++) *--top = 0;
  fiber.stack_pointer = top;
}
#elif defined(__aarch64__)
// UNTESTED: no aarch64 machine has run this, only QEMU, and no test covers it.
asm(R"(
.text
.globl mslsim_switch
.type mslsim_switch,@function
mslsim_switch:
  sub sp,sp,#176
  stp x19,x20,[sp]
  stp x21,x22,[sp,#16]
  stp x23,x24,[sp,#32]
  stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]
  stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]
  stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x19,x20,[sp]
  ldp x21,x22,[sp,#16]
  ldp x23,x24,[sp,#32]
  ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]
  ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]
  ldp d14,d15,[sp,#144]
  add sp,sp,#176
  ret
.globl mslsim_trampoline
.type mslsim_trampoline,@function
mslsim_trampoline:
  bl mslsim_fiber_main
  brk #0
)");
void prepare_fiber(Fiber& fiber) {
  constexpr u64 kFrame = 176, kReturnAddress = 88;
  char* frame = fiber.stack + kStackBytes - kFrame - 16;
  std::memset(frame, 0, kFrame);
  const u64 start = reinterpret_cast<u64>(mslsim_trampoline);
  std::memcpy(frame + kReturnAddress, &start, sizeof start);
  fiber.stack_pointer = frame;
}
#else
#error "no context switch for this CPU"
#endif

char* new_stack() {
  char* p = static_cast<char*>(mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  mprotect(p, kPage, PROT_NONE);  // a stack overflow is a crash, not a corruption
  return p + kPage;
}

void free_stack(char* stack) { munmap(stack - kPage, kPage + kStackBytes); }

void run_fiber(Fiber& fiber) {
  worker->current = &fiber;
  mslsim_switch(&worker->scheduler, fiber.stack_pointer);
  worker->current = nullptr;
}

void yield_fiber() {
  Fiber* self = worker->current;
  mslsim_switch(&self->stack_pointer, worker->scheduler);
}

void abandon_fiber() {
  dispatch->stop = true;
  worker->current->state = FiberState::kDone;
  yield_fiber();
  __builtin_unreachable();
}

}  // namespace mslsim

extern "C" __attribute__((used)) void mslsim_fiber_main() {
  using namespace mslsim;
  dispatch->launch->entry(reinterpret_cast<u64>(worker->buffer_addresses),
                          reinterpret_cast<u64>(worker->block_addresses),
                          reinterpret_cast<u64>(worker->current->builtins));
  worker->current->state = FiberState::kDone;
  yield_fiber();
  __builtin_unreachable();
}
