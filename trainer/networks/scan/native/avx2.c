/* 8 channels at once; x86 processors from 2013 on. */
#include "scan.h"
#ifdef X86_VARIANTS
#define LANES 8
#define TARGET "avx2,fma"
#define SINGLE_WIDTH 4
#define FORWARD_WIDTH 4
#define BACKWARD_WIDTH 2
#define FORWARD forward_avx2
#define BACKWARD backward_avx2
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
