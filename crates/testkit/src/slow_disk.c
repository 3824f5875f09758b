/* Makes fdatasync(2) and fsync(2) of one program slower, by as many milliseconds as a file says at that moment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void wait_as_told(void) {
    char text[16] = {0};
    const char *path = getenv("PGBATON_SLOW_DISK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    long milliseconds = got > 0 ? atol(text) : 0;
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (milliseconds > 0 && nanosleep(&left, &left) != 0) {
    }
}

typedef int sync_call(int);

int fdatasync(int file) {
    sync_call *real = (sync_call *)dlsym(RTLD_NEXT, "fdatasync");
    wait_as_told();
    return real(file);
}

int fsync(int file) {
    sync_call *real = (sync_call *)dlsym(RTLD_NEXT, "fsync");
    wait_as_told();
    return real(file);
}
