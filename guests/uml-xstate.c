/*
 * Lets User-mode Linux 6.1 run on CPUs whose extended state is larger than it knows (AMX: 11 KiB). It gives the host
 * the first part of a process's FPU state only; the host refuses a part (EFAULT). Preloaded into linux.uml, this fills
 * in the rest, which no guest uses, from what the process has.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long (*ptrace_fn)(int, pid_t, void *, void *);

long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_fn real;
    static char state[1 << 16];
    va_list args;
    va_start(args, request);
    pid_t pid = va_arg(args, pid_t);
    void *addr = va_arg(args, void *);
    void *data = va_arg(args, void *);
    va_end(args);
    if (!real)
        real = (ptrace_fn)dlsym(RTLD_NEXT, "ptrace");

    long result = real(request, pid, addr, data);
    if (result != -1 || errno != EFAULT || request != PTRACE_SETREGSET || addr != (void *)NT_X86_XSTATE)
        return result;
    struct iovec part = *(struct iovec *)data, whole = { state, sizeof state };
    if (real(PTRACE_GETREGSET, pid, addr, &whole) == -1)
        return -1;
    memcpy(state, part.iov_base, part.iov_len < whole.iov_len ? part.iov_len : whole.iov_len);
    return real(PTRACE_SETREGSET, pid, addr, &whole);
}
