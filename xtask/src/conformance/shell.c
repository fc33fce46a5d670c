/* The shell of the suite's busybox image. Upstream's is an ash that keeps every variable of its environment; Debian's
   drops those whose names are no identifiers. So bash runs where there is such a name, and busybox's ash elsewhere. */
#include <ctype.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int is_identifier(const char *variable) {
    const char *c = variable;
    if (isdigit((unsigned char)*c)) return 0;
    for (; *c && *c != '='; c++)
        if (!isalnum((unsigned char)*c) && *c != '_') return 0;
    return c != variable;
}

int main(int argc, char **argv) {
    (void)argc;
    const char *shell = "/bin/busybox";
    for (char **variable = environ; *variable; variable++)
        if (!is_identifier(*variable)) shell = "/bin/bash";
    execv(shell, argv);
    return 127;
}
