/*
 * The floor: what the kernel alone takes to start a sandbox and reap it. One clone with all
 * namespaces, an overlay as root, pivot_root, exec of a static program. No cgroup, no filter, no ids
 * but the caller's, no devices, no messages. No sandbox with these namespaces can start faster.
 *
 *   floor COUNT LOWER EMPTY TARGET   prints the nanoseconds of each start, one a line
 *
 * LOWER holds the program /nothing; EMPTY and TARGET are empty directories.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char **arguments;
static uid_t uid;
static gid_t gid;

static void must(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        _exit(1);
    }
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    must(fd, path);
    must(write(fd, text, strlen(text)), path);
    close(fd);
}

static int child(void *unused)
{
    char text[8192];
    (void)unused;
    if (uid != 0) {
        put("/proc/self/setgroups", "deny");
        snprintf(text, sizeof text, "0 %u 1", uid);
        put("/proc/self/uid_map", text);
        snprintf(text, sizeof text, "0 %u 1", gid);
        put("/proc/self/gid_map", text);
    }
    must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount private");
    snprintf(text, sizeof text, "lowerdir=%s:%s", arguments[3], arguments[2]);
    must(mount("overlay", arguments[4], "overlay", MS_NOSUID | MS_NODEV, text), "mount overlay");
    must(chdir(arguments[4]), "chdir");
    must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    must(umount2(".", MNT_DETACH), "umount2");
    execv("/nothing", (char *[]){"nothing", NULL});
    must(-1, "execv /nothing");
    return 1;
}

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    static char stack[65536] __attribute__((aligned(16)));
    int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;

    if (argc != 5)
        return 2;
    arguments = argv;
    uid = getuid();
    gid = getgid();
    if (uid != 0)
        flags |= CLONE_NEWUSER;
    for (int count = atoi(argv[1]); count > 0; count--) {
        int status;
        long long start = now();
        pid_t pid = clone(child, stack + sizeof stack, flags | CLONE_VFORK | SIGCHLD, NULL);
        must(pid, "clone");
        must(waitpid(pid, &status, 0), "waitpid");
        if (status != 0)
            return 1;
        printf("%lld\n", now() - start);
    }
    return 0;
}
