/* Place of the convert command until it is written. */
#include "cli/cli.h"
int cmd_convert(int argc, char **argv) { return 1; }
