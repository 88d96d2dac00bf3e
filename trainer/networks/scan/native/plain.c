/* One channel at a time, in standard C: for compilers without vector extensions. */
#define LANES 1
#define SINGLE_WIDTH 4
#define FORWARD_WIDTH 4
#define BACKWARD_WIDTH 4
#define FORWARD forward_plain
#define BACKWARD backward_plain
#include "kernel.h"
