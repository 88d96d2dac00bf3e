/* 4 channels at once, with what every processor of the family has: SSE2, NEON, ... */
#include "scan.h"
#ifdef VECTORS
#define LANES 4
#define SINGLE_WIDTH 4
#define FORWARD_WIDTH 8
#define BACKWARD_WIDTH 4
#define FORWARD forward_base
#define BACKWARD backward_base
#include "kernel.h"
#endif
