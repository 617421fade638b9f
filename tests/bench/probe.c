/* What system calls cost where this runs: probe [floor recv|poll] COUNT WHAT ARGUMENT..., in threes.
 *
 * For each three one line: WHAT ARGUMENT, then nanoseconds, medians of COUNT samples; two for what mounts: of mount(2) and of umount2(2).
 *   read PATH     open, read, close
 *   openat2 PATH  openat2 with all of struct open_how that matters 0, and close
 *   getppid -     a call that does nothing; a sample is the mean of 100
 *   tmpfs DIR     mount -t tmpfs at DIR, umount; so for "proc", and "bind", which mounts DIR on itself
 *   spawn "A B"   fork, exec A with argument B, its output to /dev/null, wait
 *
 * floor: the same when a parent is asked about each of these calls and says "continue": what a seccomp listener costs at least. The
 * parent does recv, process_vm_readv of 64 bytes and send; with "poll" it polls before, as a program must that serves more than one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP /* from Linux 6.6 on */
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#define MOST 10000 /* samples */
#define BATCH 100  /* calls of getppid in a sample */
#define ROW 8      /* mounts on top of one another, as software makes them: an unmount waits, and what comes after that is slow */
#define SPAWNED 8  /* words of a command */

static char text[4096] __attribute__((aligned(64)));

static void die(const char *what)
{
	perror(what);
	_exit(1);
}

static double now(void) /* ns */
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static void open_read_close(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text) < 0)
		die(path);
	close(fd);
}

static void openat2_close(const char *path)
{
	static const unsigned long long how[8] = {O_RDONLY | O_CLOEXEC}; /* struct open_how, and what a listener reads after it */
	int fd = syscall(SYS_openat2, AT_FDCWD, path, how, 24);
	if (fd < 0)
		die(path);
	close(fd);
}

static void getppids(const char *unused)
{
	(void)unused;
	for (int n = 0; n < BATCH; n++)
		syscall(SYS_getppid, text); /* the pointer is for a listener to read from */
}

static void spawn(const char *command)
{
	char line[256], *words[SPAWNED + 1] = {0}, *rest = line;
	snprintf(line, sizeof line, "%s", command);
	for (int n = 0; n < SPAWNED && (words[n] = strsep(&rest, " ")); n++)
		;
	pid_t child = fork();
	if (!child) {
		int null = open("/dev/null", O_RDWR);
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		execvp(words[0], words);
		_exit(127);
	}
	int status;
	if (child < 0 || waitpid(child, &status, 0) < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 127))
		die(command);
}

/* Literals of their own size: a listener may read 64 bytes from here. */
static const char TMPFS[64] = "tmpfs", PROC[64] = "proc", BIND[64] = "none";
static void mount_tmpfs(const char *where)
{
	if (mount("none", where, TMPFS, 0, NULL))
		die("mount tmpfs");
}
static void mount_proc(const char *where)
{
	if (mount("none", where, PROC, 0, NULL))
		die("mount proc");
}
static void mount_bind(const char *where)
{
	if (mount(where, where, BIND, MS_BIND, NULL))
		die("mount bind");
}
static void unmount(const char *where)
{
	if (umount2(where, 0))
		die("umount");
}

static const struct {
	const char *name;
	void (*first)(const char *), (*second)(const char *);
	int calls; /* in a sample */
} OPERATIONS[] = {
	{"read", open_read_close, NULL, 1},   {"openat2", openat2_close, NULL, 1},  {"getppid", getppids, NULL, BATCH},
	{"tmpfs", mount_tmpfs, unmount, 1},   {"proc", mount_proc, unmount, 1},     {"bind", mount_bind, unmount, 1},
	{"spawn", spawn, NULL, 1},
};

static int ascending(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static double median(double *samples, int count)
{
	qsort(samples, count, sizeof *samples, ascending);
	return samples[count / 2];
}

static void measure(int count, const char *what, const char *argument)
{
	static double first[MOST], second[MOST];
	size_t which = 0;
	int mounted = 0;
	while (which < sizeof OPERATIONS / sizeof *OPERATIONS && strcmp(OPERATIONS[which].name, what))
		which++;
	if (which == sizeof OPERATIONS / sizeof *OPERATIONS || count < 1 || count > MOST) {
		fprintf(stderr, "probe: %d %s: no such operation or count\n", count, what);
		_exit(2);
	}
	for (int n = 0; n < count; n++) {
		double begin = now();
		OPERATIONS[which].first(argument);
		first[n] = (now() - begin) / OPERATIONS[which].calls;
		if (!OPERATIONS[which].second || (++mounted < ROW && n + 1 < count))
			continue;
		for (; mounted; mounted--) {
			begin = now();
			OPERATIONS[which].second(argument);
			second[n + 1 - mounted] = now() - begin;
		}
	}
	printf("%s %s\t%.1f", what, argument, median(first, count));
	if (OPERATIONS[which].second)
		printf("\t%.1f", median(second, count));
	printf("\n");
}

static void measure_all(int argc, char **argv)
{
	for (int at = 0; at + 2 < argc; at += 3)
		measure(atoi(argv[at]), argv[at + 1], argv[at + 2]);
	fflush(stdout);
}

/* Have all that is measured asked about; returns the listener. */
static int listen_to_calls(void)
{
	static const int NUMBERS[] = {SYS_getppid, SYS_mount, SYS_umount2, SYS_openat2};
	enum { MANY = sizeof NUMBERS / sizeof *NUMBERS };
	struct sock_filter filter[MANY + 3] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	for (int n = 0; n < MANY; n++)
		filter[n + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NUMBERS[n], MANY - n, 0);
	filter[MANY + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	filter[MANY + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	struct sock_fprog program = {MANY + 3, filter};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("no_new_privs");
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* Answer "continue" until somebody asks about getppid of no pointer. */
static void answer(int listener, pid_t child, int polls)
{
	unsigned char copy[64];
	struct pollfd ready = {listener, POLLIN, 0};
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP); /* an older kernel is slower */
	for (int last = 0; !last;) {
		struct seccomp_notif call = {0};
		if (polls && poll(&ready, 1, -1) < 0)
			die("poll");
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
			die("recv");
		int at = call.data.nr == SYS_mount || call.data.nr == SYS_openat2 ? 2 : 0;
		struct iovec here = {copy, sizeof copy}, there = {(void *)call.data.args[at], sizeof copy};
		last = call.data.nr == SYS_getppid && !call.data.args[0];
		if (!last && process_vm_readv(child, &here, 1, &there, 1, 0) < 0)
			die("process_vm_readv");
		struct seccomp_notif_resp response = {call.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE};
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response))
			die("send");
	}
}

static int with_listener(int polls, int argc, char **argv)
{
	int told[2], listener = -1, status = 1;
	if (pipe2(told, O_CLOEXEC))
		die("pipe");
	pid_t child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		listener = listen_to_calls();
		if (listener < 0 || write(told[1], &listener, sizeof listener) < 0)
			die("seccomp");
		measure_all(argc, argv);
		syscall(SYS_getppid, NULL);
		_exit(0);
	}
	close(told[1]);
	int process = syscall(SYS_pidfd_open, child, 0);
	if (read(told[0], &listener, sizeof listener) != sizeof listener)
		die("the child");
	int ours = syscall(SYS_pidfd_getfd, process, listener, 0);
	if (ours < 0)
		die("pidfd_getfd");
	answer(ours, child, polls);
	waitpid(child, &status, 0);
	return status != 0;
}

int main(int argc, char **argv)
{
	if (argc < 3 || strcmp(argv[1], "floor")) {
		measure_all(argc - 1, argv + 1);
		return 0;
	}
	return with_listener(!strcmp(argv[2], "poll"), argc - 3, argv + 3);
}
