/* 16 channels at once; x86 processors from 2017 on, some. */
#include "scan.h"
#ifdef X86_VARIANTS
#define LANES 16
#define TARGET "avx512f,avx512dq"
#define AVX512 1
#define SINGLE_WIDTH 4
#define FORWARD_WIDTH 16
#define BACKWARD_WIDTH 4
#define FORWARD forward_avx512
#define BACKWARD backward_avx512
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
