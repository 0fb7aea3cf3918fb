#include "cli/cli.h"
int cmd_run(int argc, char **argv) { return 1; }
