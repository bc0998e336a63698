/* One exported cell on a Cortex-M4F under QEMU: runs the steps of given.h, then counts instructions
 * and stack. Prints, by semihosting, one hexadecimal word a line: outputs and state of each step,
 * then the words of `report`.
 *
 * Instructions are counted by SysTick: under `-icount shift=0` an instruction takes 1 ns of QEMU's
 * time, and SysTick runs at 25 MHz, one tick for 40 instructions. QEMU models no pipeline: these are
 * instructions, not cycles.
 */
#include <stdint.h>

#include "cell.h"
#include "given.h"

extern unsigned char stack_top[];

static void write0(const char *text) {
  register int operation __asm__("r0") = 4; /* SYS_WRITE0 */
  register const char *argument __asm__("r1") = text;
  __asm__ volatile("bkpt 0xab" : "+r"(operation) : "r"(argument) : "memory");
}

static void leave(void) {
  register int operation __asm__("r0") = 0x18; /* SYS_EXIT */
  register int argument __asm__("r1") = 0x20026;
  __asm__ volatile("bkpt 0xab" : "+r"(operation) : "r"(argument) : "memory");
}

static void print(uint32_t word) {
  char text[10];
  int n;
  for (n = 0; n < 8; ++n) text[n] = "0123456789abcdef"[(word >> (28 - 4 * n)) & 15];
  text[8] = '\n';
  text[9] = 0;
  write0(text);
}

static void print_floats(const float *from, int count) {
  int n;
  for (n = 0; n < count; ++n) {
    union {
      float number;
      uint32_t word;
    } both;
    both.number = from[n];
    print(both.word);
  }
}

#define SYSTICK ((volatile uint32_t *)0xE000E010)

static void start_clock(void) {
  SYSTICK[1] = 0xFFFFFF; /* counts down from here */
  SYSTICK[2] = 0;
  SYSTICK[0] = 5; /* the processor's clock, no interrupt */
  while (SYSTICK[2] == 0) {
  }
}

static uint32_t ticks(void) { return 0xFFFFFF - SYSTICK[2]; }

static float state[CELL_STATE], outputs[CELL_OUTPUTS];

/* Not inlined, so that a step has a frame of its own. */
__attribute__((noinline)) void step(const float *inputs, float ts) {
  cell_step(inputs, state, ts, outputs);
}

static uint32_t instructions_of_steps(int repeats) {
  uint32_t before;
  int r, t;
  start_clock();
  before = ticks();
  for (r = 0; r < repeats; ++r) {
    for (t = 0; t < STEPS; ++t) step(given_inputs[t], given_ts[t]);
  }
  return ticks() - before;
}

static uint32_t instructions_of_loop(void) {
  uint32_t before, count = 1000000;
  start_clock();
  before = ticks();
  __asm__ volatile("1: subs %0, %0, #1\n bne 1b" : "+r"(count) : : "cc");
  return ticks() - before;
}

#define PAINT 0xA5A5A5A5u
#define PAINTED 4096

/* Bytes of stack below this function that a step has written. */
__attribute__((noinline)) static uint32_t stack_of_step(void) {
  volatile uint32_t *top, *at;
  __asm__ volatile("mov %0, sp" : "=r"(top));
  for (at = top - PAINTED; at < top - 16; ++at) *at = PAINT;
  step(given_inputs[0], given_ts[0]);
  for (at = top - PAINTED; at < top && *at == PAINT; ++at) {
  }
  return (uint32_t)((top - at) * 4);
}

void reset(void) {
  int t, n;
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* the FPU on */
  __asm__ volatile("dsb\n isb");
  for (n = 0; n < CELL_STATE; ++n) state[n] = given_state[n];
  for (t = 0; t < STEPS; ++t) {
    step(given_inputs[t], given_ts[t]);
    print_floats(outputs, CELL_OUTPUTS);
    print_floats(state, CELL_STATE);
  }
  print(stack_of_step());
  print(instructions_of_loop());
  print(instructions_of_steps(REPEATS));
  leave();
}

__attribute__((section(".vectors"), used)) void *const vectors[2] = {stack_top, (void *)reset};
