#include "cli/cli.h"
int cmd_eval(int argc, char **argv) { return 1; }
