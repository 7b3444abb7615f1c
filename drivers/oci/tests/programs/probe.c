/* Makes system calls, each in a process of its own, and says what came of them: "LABEL errno N" or "LABEL signal N",
 * with errno 0 for success. Arguments are LABEL:NUMBER[:ARG]..., an ARG being a number or "@", a buffer of zeroes.
 * The number "int80" makes the call 20 (getpid) by the way of 32-bit programs. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[16384] __attribute__((aligned(4096)));

static long old_way(void) {
#if defined(__x86_64__)
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    return result < 0 ? -1 : result;
#else
    abort();
#endif
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int index = 1; index < count; index++) {
        char *rest = words[index];
        char *label = strsep(&rest, ":"), *number = strsep(&rest, ":");
        long args[6] = {0};
        for (int arg = 0; rest && arg < 6; arg++) {
            char *text = strsep(&rest, ":");
            args[arg] = *text == '@' ? (long)buffer : (long)strtoull(text, NULL, 0);
        }
        pid_t child = fork();
        if (child < 0) {
            perror("fork");
            return 2;
        }
        if (child == 0) {
            errno = 0;
            long result = strcmp(number, "int80") == 0
                              ? old_way()
                              : syscall(strtol(number, NULL, 0), args[0], args[1], args[2], args[3], args[4], args[5]);
            _exit(result == -1 ? errno : 0);
        }
        int status;
        while (waitpid(child, &status, 0) < 0)
            ;
        if (WIFEXITED(status))
            printf("%s errno %d\n", label, WEXITSTATUS(status));
        else
            printf("%s signal %d\n", label, WTERMSIG(status));
    }
    return 0;
}
