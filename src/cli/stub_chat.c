#include "cli/cli.h"
int cmd_chat(int argc, char **argv) { return 1; }
