/* coterie chat on a terminal of its own: lines are edited and remembered, an interrupt stops an answer or the
 * reading of a prompt and not the program, and what cannot be answered is told and taken back. */
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL  "tests/golden/noise/hf"
#define BINARY COT_BINARY_DIR "/coterie"

typedef struct terminal {
    pid_t pid;
    int fd;
    char seen[1 << 16];
    size_t n;
} terminal;

/* Starts `coterie chat` without colours or a window size, in which libedit would wrap lines. */
static void start(terminal *t, char *const argv[]) {
    struct winsize size = {.ws_row = 50, .ws_col = 500};
    memset(t, 0, sizeof *t);
    t->pid = forkpty(&t->fd, NULL, NULL, &size);
    if (t->pid < 0) skip(); /* a root without /dev/pts has no terminals */
    if (t->pid == 0) {
        setenv("TERM", "dumb", 1);
        execv(BINARY, argv);
        _exit(99);
    }
}

/* Reads until `word` has been seen after the last call's, or half a minute has gone. */
static void expect(terminal *t, const char *word) {
    for (int tries = 0; tries < 600; tries++) {
        char *at = strstr(t->seen, word);
        if (at) {
            size_t used = (size_t)(at - t->seen) + strlen(word);
            memmove(t->seen, t->seen + used, t->n - used + 1);
            t->n -= used;
            return;
        }
        struct pollfd p = {.fd = t->fd, .events = POLLIN};
        if (poll(&p, 1, 50) <= 0) continue;
        if (t->n > sizeof t->seen / 2) { /* an endless answer: keep its end */
            memmove(t->seen, t->seen + t->n - 64, 64);
            t->n = 64;
        }
        ssize_t n = read(t->fd, t->seen + t->n, sizeof t->seen - t->n - 1);
        if (n <= 0) break;
        for (ssize_t i = 0; i < n; i++)
            if (t->seen[t->n + (size_t)i] == 0) t->seen[t->n + (size_t)i] = '?';
        t->seen[t->n += (size_t)n] = 0;
    }
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
    fail_msg("the terminal never shows \"%s\"; last: %s", word, t->seen);
}

/* Waits until an answer is on its way, however busy the machine: more has come than an echo. */
static void answering(terminal *t) {
    for (int tries = 0; tries < 600 && t->n < 400; tries++) {
        struct pollfd p = {.fd = t->fd, .events = POLLIN};
        if (poll(&p, 1, 50) <= 0) continue;
        ssize_t n = read(t->fd, t->seen + t->n, 512);
        for (ssize_t i = 0; i < n; i++, t->n++) t->seen[t->n] = t->seen[t->n] ? t->seen[t->n] : '?';
        t->seen[t->n] = 0;
    }
    assert_true(t->n >= 400);
}

static void say(terminal *t, const char *s) { assert_int_equal(write(t->fd, s, strlen(s)), strlen(s)); }

/* A key that edits: the prompt shows before the terminal hands over single keys. */
static void press(terminal *t, const char *key) {
    struct termios mode;
    for (int tries = 0; tries < 3000; tries++, usleep(10000))
        if (tcgetattr(t->fd, &mode) == 0 && !(mode.c_lflag & ICANON)) break;
    say(t, key);
}

static void leaves(terminal *t, int code) {
    int status = 0;
    char rest[256];
    for (int tries = 0; tries < 600; tries++) {
        if (waitpid(t->pid, &status, WNOHANG) == t->pid) {
            close(t->fd);
            assert_true(WIFEXITED(status));
            assert_int_equal(WEXITSTATUS(status), code);
            return;
        }
        struct pollfd p = {.fd = t->fd, .events = POLLIN};
        if (poll(&p, 1, 50) > 0 && read(t->fd, rest, sizeof rest) <= 0) usleep(20000);
    }
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
    fail_msg("the program does not leave");
}

static void lines_are_edited_and_remembered(void **state) {
    (void)state;
    terminal t;
    start(&t, (char *const[]){"coterie", "chat", MODEL, "-n", "4", "--temp", "0", NULL});
    expect(&t, "> ");
    press(&t, "/helX\x7fp\n");
    expect(&t, "forget the conversation");
    expect(&t, "> ");
    press(&t, "\x10\n"); /* the line before */
    expect(&t, "forget the conversation");
    expect(&t, "> ");
    say(&t, "/nothing\n");
    expect(&t, "is no command");
    say(&t, "hello\n");
    expect(&t, "tokens, ");
    say(&t, "/clear\n");
    say(&t, "/system be brief\n");
    say(&t, "hello\n");
    expect(&t, "tokens, ");
    expect(&t, "> ");
    press(&t, "\x04"); /* end of input */
    leaves(&t, 0);
}

/* An answer without an end: the end tokens are banned and the context is long. */
static void an_interrupt_stops_the_answer(void **state) {
    (void)state;
    terminal t;
    start(&t, (char *const[]){"coterie", "chat", MODEL, "--temp", "0", "-c", "100000", "--logit-bias",
                              "383=-inf", "--logit-bias", "382=-inf", "--logit-bias", "381=-inf",
                              "--logit-bias", "77=50", NULL});
    expect(&t, "> ");
    say(&t, "hello\n");
    expect(&t, "hello");
    answering(&t);
    kill(t.pid, SIGINT);
    expect(&t, "tokens, ");
    expect(&t, "> ");
    say(&t, "unfinished"); /* at the prompt it drops the line */
    usleep(100000);
    press(&t, "\x03");
    expect(&t, "> ");
    say(&t, "/exit\n");
    leaves(&t, 0);
}

static void what_does_not_fit_is_taken_back(void **state) {
    (void)state;
    terminal t;
    start(&t, (char *const[]){"coterie", "chat", MODEL, "-n", "2", "--temp", "0", "-c", "48", NULL});
    expect(&t, "> ");
    say(&t,
        "a message that is much longer than forty-eight tokens, which nobody will miss, and it is said\n");
    expect(&t, "larger --ctx");
    expect(&t, "/clear");
    expect(&t, "> ");
    say(&t, "hi\n");
    expect(&t, "tokens, ");
    say(&t, "/exit\n");
    leaves(&t, 0);
}

int main(void) {
    if (access(BINARY, X_OK) != 0) return 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_edited_and_remembered),
        cmocka_unit_test(an_interrupt_stops_the_answer),
        cmocka_unit_test(what_does_not_fit_is_taken_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
