/* SPDX-License-Identifier: Apache-2.0
 *
 * One function per system call that Python 3.11 does not have, with the
 * kernel's own name and argument order (two at the end make two calls). No
 * policy: a call either returns what the kernel returned or raises
 * OSError(errno, "call: text", path).
 * Constants come from the kernel's headers, so they fit the architecture.
 */
#define _GNU_SOURCE
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/kcmp.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>

/* glibc 2.36 has these in <sys/mount.h>, which collides with <linux/mount.h> */
#define MNT_DETACH 2
#define UMOUNT_NOFOLLOW 8
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1
#endif

static PyObject *fail(const char *call, const char *path)
{
	int saved = errno;
	char text[256];
	snprintf(text, sizeof text, "%s: %s", call, strerror(saved));
	PyObject *error = path ? PyObject_CallFunction(PyExc_OSError, "isN", saved, text, PyUnicode_DecodeFSDefault(path))
			       : PyObject_CallFunction(PyExc_OSError, "is", saved, text);
	if (error) {
		PyErr_SetObject(PyExc_OSError, error);
		Py_DECREF(error);
	}
	return NULL;
}

/* A str, bytes or PathLike as a NUL-free C string; None as NULL. */
static int path_or_null(PyObject *object, void *out)
{
	if (!object) {
		Py_CLEAR(*(PyObject **)out);
		return 1;
	}
	if (object == Py_None) {
		*(PyObject **)out = NULL;
		return Py_CLEANUP_SUPPORTED;
	}
	return PyUnicode_FSConverter(object, out);
}

static const char *text(PyObject *bytes)
{
	return bytes ? PyBytes_AsString(bytes) : NULL;
}

static PyObject *done(long result, const char *call, const char *path)
{
	if (result < 0)
		return fail(call, path);
	return PyLong_FromLong(result);
}

#define ARGS(...)                                                                                                    \
	if (!PyArg_ParseTuple(args, __VA_ARGS__))                                                                    \
	return NULL
#define P path_or_null
#define UNLOCKED(expression)                                                                                         \
	Py_BEGIN_ALLOW_THREADS expression;                                                                           \
	Py_END_ALLOW_THREADS

static PyObject *k_mount(PyObject *self, PyObject *args)
{
	PyObject *source = NULL, *target = NULL, *type = NULL, *data = NULL;
	unsigned long flags;
	long result;
	ARGS("O&O&O&kO&", P, &source, P, &target, P, &type, &flags, P, &data);
	UNLOCKED(result = syscall(SYS_mount, text(source), text(target), text(type), flags, text(data)));
	PyObject *value = done(result, "mount", text(target));
	Py_XDECREF(source), Py_XDECREF(target), Py_XDECREF(type), Py_XDECREF(data);
	return value;
}

static PyObject *k_umount2(PyObject *self, PyObject *args)
{
	PyObject *target = NULL;
	int flags;
	long result;
	ARGS("O&i", P, &target, &flags);
	UNLOCKED(result = syscall(SYS_umount2, text(target), flags));
	PyObject *value = done(result, "umount2", text(target));
	Py_XDECREF(target);
	return value;
}

static PyObject *k_pivot_root(PyObject *self, PyObject *args)
{
	PyObject *new_root = NULL, *put_old = NULL;
	ARGS("O&O&", P, &new_root, P, &put_old);
	PyObject *value = done(syscall(SYS_pivot_root, text(new_root), text(put_old)), "pivot_root", text(new_root));
	Py_XDECREF(new_root), Py_XDECREF(put_old);
	return value;
}

static PyObject *k_open_tree(PyObject *self, PyObject *args)
{
	PyObject *path = NULL;
	int dfd;
	unsigned flags;
	ARGS("iO&I", &dfd, P, &path, &flags);
	PyObject *value = done(syscall(SYS_open_tree, dfd, text(path), flags), "open_tree", text(path));
	Py_XDECREF(path);
	return value;
}

static PyObject *k_move_mount(PyObject *self, PyObject *args)
{
	PyObject *from = NULL, *to = NULL;
	int from_dfd, to_dfd;
	unsigned flags;
	ARGS("iO&iO&I", &from_dfd, P, &from, &to_dfd, P, &to, &flags);
	PyObject *value =
	    done(syscall(SYS_move_mount, from_dfd, text(from), to_dfd, text(to), flags), "move_mount", text(to));
	Py_XDECREF(from), Py_XDECREF(to);
	return value;
}

static PyObject *k_mount_setattr(PyObject *self, PyObject *args)
{
	PyObject *path = NULL;
	int dfd;
	unsigned flags;
	struct mount_attr attr = {0};
	unsigned long long set, clear, propagation, userns;
	ARGS("iO&IKKKK", &dfd, P, &path, &flags, &set, &clear, &propagation, &userns);
	attr.attr_set = set, attr.attr_clr = clear, attr.propagation = propagation, attr.userns_fd = userns;
	PyObject *value =
	    done(syscall(SYS_mount_setattr, dfd, text(path), flags, &attr, sizeof attr), "mount_setattr", text(path));
	Py_XDECREF(path);
	return value;
}

static PyObject *k_fsopen(PyObject *self, PyObject *args)
{
	const char *type;
	unsigned flags;
	ARGS("sI", &type, &flags);
	return done(syscall(SYS_fsopen, type, flags), "fsopen", type);
}

/* What the file system said about its last failure, or NULL: fsopen(2), "read". */
static const char *fs_log(int fd, char *buffer, size_t size)
{
	int saved = errno;
	ssize_t got = read(fd, buffer, size - 1);
	errno = saved;
	if (got <= 2)
		return NULL;
	buffer[got] = 0;
	return buffer + 2;
}

static PyObject *k_fsconfig(PyObject *self, PyObject *args)
{
	PyObject *value = NULL;
	const char *key;
	int fd, aux;
	unsigned command;
	long result;
	char said[256];
	ARGS("iIzO&i", &fd, &command, &key, P, &value, &aux);
	UNLOCKED(result = syscall(SYS_fsconfig, fd, command, key, text(value), aux));
	PyObject *answer;
	if (result < 0) {
		const char *log = fs_log(fd, said, sizeof said);
		answer = fail("fsconfig", log ? log : value ? text(value) : key);
	} else
		answer = PyLong_FromLong(result);
	Py_XDECREF(value);
	return answer;
}

static PyObject *k_fsmount(PyObject *self, PyObject *args)
{
	int fd;
	unsigned flags, attr;
	long result;
	ARGS("iII", &fd, &flags, &attr);
	UNLOCKED(result = syscall(SYS_fsmount, fd, flags, attr));
	return done(result, "fsmount", NULL);
}

static PyObject *k_fspick(PyObject *self, PyObject *args)
{
	PyObject *path = NULL;
	int dfd;
	unsigned flags;
	ARGS("iO&I", &dfd, P, &path, &flags);
	PyObject *value = done(syscall(SYS_fspick, dfd, text(path), flags), "fspick", text(path));
	Py_XDECREF(path);
	return value;
}

static PyObject *k_unshare(PyObject *self, PyObject *args)
{
	int flags;
	long result;
	ARGS("i", &flags);
	UNLOCKED(result = syscall(SYS_unshare, flags));
	return done(result, "unshare", NULL);
}

static PyObject *k_setns(PyObject *self, PyObject *args)
{
	int fd, flags;
	long result;
	ARGS("ii", &fd, &flags);
	UNLOCKED(result = syscall(SYS_setns, fd, flags));
	return done(result, "setns", NULL);
}

/* clone3(flags, cgroup_fd) like fork(2): 0 in the child, (pid, pidfd) in the parent. */
static PyObject *k_clone3(PyObject *self, PyObject *args)
{
	unsigned long long flags;
	int cgroup, pidfd = -1;
	struct clone_args how = {0};
	ARGS("Ki", &flags, &cgroup);
	how.flags = flags | CLONE_PIDFD;
	how.pidfd = (uint64_t)(uintptr_t)&pidfd;
	how.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD;
	if (cgroup >= 0) {
		how.flags |= CLONE_INTO_CGROUP;
		how.cgroup = cgroup;
	}
	PyOS_BeforeFork();
	long pid = syscall(SYS_clone3, &how, sizeof how);
	if (pid == 0) {
		PyOS_AfterFork_Child();
		return PyLong_FromLong(0);
	}
	int saved = errno;
	PyOS_AfterFork_Parent();
	errno = saved;
	if (pid < 0)
		return fail("clone3", NULL);
	return Py_BuildValue("li", pid, pidfd);
}

static PyObject *k_prctl(PyObject *self, PyObject *args)
{
	int option;
	unsigned long a = 0, b = 0, c = 0, d = 0;
	ARGS("i|kkkk", &option, &a, &b, &c, &d);
	return done(syscall(SYS_prctl, option, a, b, c, d), "prctl", NULL);
}

static PyObject *k_capset(PyObject *self, PyObject *args)
{
	unsigned long long effective, permitted, inheritable;
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	ARGS("KKK", &effective, &permitted, &inheritable);
	struct __user_cap_data_struct data[2] = {
	    {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
	    {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
	};
	return done(syscall(SYS_capset, &header, data), "capset", NULL);
}

static PyObject *k_setfsid(PyObject *self, PyObject *args)
{
	unsigned uid, gid;
	ARGS("II", &uid, &gid);
	/* neither call reports an error: ask back, as setfsuid(2) advises */
	setfsgid(gid), setfsuid(uid);
	if ((unsigned)setfsuid(-1) != uid || (unsigned)setfsgid(-1) != gid) {
		errno = EPERM;
		return fail("setfsuid", NULL);
	}
	Py_RETURN_NONE;
}

/* The one before: there is no error, as setfsuid(2) says. */
static PyObject *k_setfsuid(PyObject *self, PyObject *args)
{
	unsigned uid;
	ARGS("I", &uid);
	return PyLong_FromUnsignedLong((unsigned)syscall(SYS_setfsuid, uid));
}

static PyObject *k_sethostname(PyObject *self, PyObject *args)
{
	const char *name;
	Py_ssize_t size;
	ARGS("s#", &name, &size);
	return done(syscall(SYS_sethostname, name, size), "sethostname", name);
}

static PyObject *k_setdomainname(PyObject *self, PyObject *args)
{
	const char *name;
	Py_ssize_t size;
	ARGS("s#", &name, &size);
	return done(syscall(SYS_setdomainname, name, size), "setdomainname", name);
}

static PyObject *k_openat2(PyObject *self, PyObject *args)
{
	PyObject *path = NULL;
	int dfd;
	unsigned long long flags, mode, resolve;
	ARGS("iO&KKK", &dfd, P, &path, &flags, &mode, &resolve);
	struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
	long result;
	do
		result = syscall(SYS_openat2, dfd, text(path), &how, sizeof how);
	while (result < 0 && errno == EAGAIN && !(resolve & RESOLVE_CACHED)); /* a rename raced with RESOLVE_IN_ROOT: openat2(2) says try again */
	PyObject *value = done(result, "openat2", text(path));
	Py_XDECREF(path);
	return value;
}

static PyObject *k_seccomp(PyObject *self, PyObject *args)
{
	const char *filter;
	Py_ssize_t size;
	unsigned operation, flags;
	ARGS("IIy#", &operation, &flags, &filter, &size);
	struct sock_fprog program = {.len = size / sizeof(struct sock_filter), .filter = (struct sock_filter *)filter};
	return done(syscall(SYS_seccomp, operation, flags, &program), "seccomp", NULL);
}

/* The next notification of a listener goes straight into a writable buffer, so that it is never anywhere else than there. */
static PyObject *k_seccomp_recv(PyObject *self, PyObject *args)
{
	Py_buffer buffer;
	int fd;
	long result;
	ARGS("iw*", &fd, &buffer);
	if (buffer.len < (Py_ssize_t)sizeof(struct seccomp_notif)) {
		PyBuffer_Release(&buffer);
		errno = EINVAL;
		return fail("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", NULL);
	}
	memset(buffer.buf, 0, sizeof(struct seccomp_notif));
	UNLOCKED(result = ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, buffer.buf));
	int saved = errno;
	PyBuffer_Release(&buffer);
	errno = saved;
	return done(result, "ioctl(SECCOMP_IOCTL_NOTIF_RECV)", NULL);
}

static PyObject *k_seccomp_send(PyObject *self, PyObject *args)
{
	struct seccomp_notif_resp response = {0};
	unsigned long long id;
	long long value;
	int fd, error;
	unsigned flags;
	ARGS("iKLiI", &fd, &id, &value, &error, &flags);
	response.id = id, response.val = value, response.error = -error, response.flags = flags;
	return done(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &response), "ioctl(SECCOMP_IOCTL_NOTIF_SEND)", NULL);
}

static PyObject *k_seccomp_id_valid(PyObject *self, PyObject *args)
{
	unsigned long long id;
	int fd;
	ARGS("iK", &fd, &id);
	uint64_t number = id;
	return PyBool_FromLong(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &number) == 0);
}

static PyObject *k_seccomp_addfd(PyObject *self, PyObject *args)
{
	struct seccomp_notif_addfd add = {0};
	unsigned long long id;
	int fd, source;
	unsigned flags, newfd_flags;
	ARGS("iKIiI", &fd, &id, &flags, &source, &newfd_flags);
	add.id = id, add.flags = flags, add.srcfd = source, add.newfd_flags = newfd_flags;
	return done(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add), "ioctl(SECCOMP_IOCTL_NOTIF_ADDFD)", NULL);
}

static PyObject *k_seccomp_set_flags(PyObject *self, PyObject *args)
{
	unsigned long long flags;
	int fd;
	ARGS("iK", &fd, &flags);
	return done(ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags), "ioctl(SECCOMP_IOCTL_NOTIF_SET_FLAGS)", NULL);
}

/* Up to ``size`` bytes from another process: fewer where its memory ends, for a transfer is whole or not per page. */
static PyObject *k_process_vm_readv(PyObject *self, PyObject *args)
{
	unsigned long address;
	unsigned size;
	int pid;
	char buffer[1 << 13];
	struct iovec local = {buffer, sizeof buffer}, remote[4];
	int pages = 0;
	ARGS("ikI", &pid, &address, &size);
	if (size > sizeof buffer)
		size = sizeof buffer;
	for (unsigned left = size; left && pages < 4; pages++) {
		unsigned part = 4096 - address % 4096;
		if (part > left)
			part = left;
		remote[pages].iov_base = (void *)address, remote[pages].iov_len = part;
		address += part, left -= part;
	}
	long result;
	UNLOCKED(result = syscall(SYS_process_vm_readv, pid, &local, 1, remote, pages, 0));
	if (result < 0)
		return fail("process_vm_readv", NULL);
	return PyBytes_FromStringAndSize(buffer, result);
}

static PyObject *k_process_vm_writev(PyObject *self, PyObject *args)
{
	const char *data;
	Py_ssize_t size;
	unsigned long address;
	int pid;
	ARGS("iky#", &pid, &address, &data, &size);
	struct iovec local = {(void *)data, size}, remote = {(void *)address, size};
	return done(syscall(SYS_process_vm_writev, pid, &local, 1, &remote, 1, 0), "process_vm_writev", NULL);
}

/* (inode, mode) of an open file as the kernel has them cached: no file system is asked, so none can keep us waiting. */
static PyObject *k_statx_cached(PyObject *self, PyObject *args)
{
	struct statx found;
	int fd;
	ARGS("i", &fd);
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &found) < 0)
		return fail("statx", NULL);
	return Py_BuildValue("KI", (unsigned long long)found.stx_ino, (unsigned)found.stx_mode);
}

static PyObject *k_kcmp(PyObject *self, PyObject *args)
{
	unsigned long first, second;
	int pid, other, type;
	ARGS("iiikk", &pid, &other, &type, &first, &second);
	return done(syscall(SYS_kcmp, pid, other, type, first, second), "kcmp", NULL);
}

static PyObject *k_keyctl(PyObject *self, PyObject *args)
{
	int command;
	PyObject *name;
	unsigned long a = 0;
	ARGS("iO|k", &command, &name, &a);
	if (PyLong_Check(name))
		return done(syscall(SYS_keyctl, command, PyLong_AsLong(name), a), "keyctl", NULL);
	PyObject *bytes = PyUnicode_AsUTF8String(name);
	if (!bytes)
		return NULL;
	PyObject *value = done(syscall(SYS_keyctl, command, PyBytes_AsString(bytes), a), "keyctl", NULL);
	Py_DECREF(bytes);
	return value;
}

static PyObject *k_personality(PyObject *self, PyObject *args)
{
	unsigned long persona;
	ARGS("k", &persona);
	return done(syscall(SYS_personality, persona), "personality", NULL);
}

static PyObject *k_prlimit(PyObject *self, PyObject *args)
{
	int pid, resource;
	unsigned long long soft, hard;
	ARGS("iiKK", &pid, &resource, &soft, &hard);
	struct rlimit limit = {soft, hard};
	return done(syscall(SYS_prlimit64, pid, resource, &limit, NULL), "prlimit", NULL);
}

static PyObject *k_pidfd_send_signal(PyObject *self, PyObject *args)
{
	int pidfd, number;
	ARGS("ii", &pidfd, &number);
	return done(syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0), "pidfd_send_signal", NULL);
}

static PyObject *k_pidfd_getfd(PyObject *self, PyObject *args)
{
	int pidfd, fd;
	ARGS("ii", &pidfd, &fd);
	return done(syscall(SYS_pidfd_getfd, pidfd, fd, 0), "pidfd_getfd", NULL);
}

static PyObject *k_close_range(PyObject *self, PyObject *args)
{
	unsigned first, last, flags;
	ARGS("III", &first, &last, &flags);
	return done(syscall(SYS_close_range, first, last, flags), "close_range", NULL);
}

static PyObject *k_ioprio_set(PyObject *self, PyObject *args)
{
	int which, who, value;
	ARGS("iii", &which, &who, &value);
	return done(syscall(SYS_ioprio_set, which, who, value), "ioprio_set", NULL);
}

static PyObject *k_sched_setattr(PyObject *self, PyObject *args)
{
	const char *attr;
	Py_ssize_t size;
	int pid;
	ARGS("iy#", &pid, &attr, &size);
	return done(syscall(SYS_sched_setattr, pid, attr, 0), "sched_setattr", NULL);
}

/* Load a BPF_PROG_TYPE_CGROUP_DEVICE program and attach it to an open cgroup directory: bpf(2). */
static PyObject *k_bpf_cgroup_device(PyObject *self, PyObject *args)
{
	const char *code;
	Py_ssize_t size;
	int cgroup;
	unsigned flags;
	union bpf_attr attr;
	ARGS("iy#I", &cgroup, &code, &size, &flags);
	memset(&attr, 0, sizeof attr);
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uint64_t)(uintptr_t)code;
	attr.insn_cnt = size / sizeof(struct bpf_insn);
	attr.license = (uint64_t)(uintptr_t) "Apache-2.0";
	int program = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
	if (program < 0)
		return fail("bpf(BPF_PROG_LOAD)", NULL);
	memset(&attr, 0, sizeof attr);
	attr.target_fd = cgroup;
	attr.attach_bpf_fd = program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = flags;
	long result = syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
	int saved = errno;
	close(program);
	errno = saved;
	return done(result, "bpf(BPF_PROG_ATTACH)", NULL);
}

static PyObject *k_fanotify_init(PyObject *self, PyObject *args)
{
	unsigned flags, event_flags;
	ARGS("II", &flags, &event_flags);
	return done(syscall(SYS_fanotify_init, flags, event_flags), "fanotify_init", NULL);
}

static PyObject *k_fanotify_mark(PyObject *self, PyObject *args)
{
	PyObject *path = NULL;
	int fd, dfd;
	unsigned flags;
	unsigned long long mask;
	ARGS("iIKiO&", &fd, &flags, &mask, &dfd, P, &path);
	PyObject *value = done(syscall(SYS_fanotify_mark, fd, flags, mask, dfd, text(path)), "fanotify_mark", text(path));
	Py_XDECREF(path);
	return value;
}

/* Two calls each, between which nothing of Python's may write to memory; so they have names of their own. */

/* What lies from start to end goes into a file and is mapped from there: a page that is written to afterwards is a copy of the file's. */
static PyObject *k_mmap_copy(PyObject *self, PyObject *args)
{
	unsigned long start, end;
	unsigned long long offset;
	int fd;
	ARGS("kkiK", &start, &end, &fd, &offset);
	for (unsigned long at = start; at < end;) {
		ssize_t wrote = pwrite(fd, (void *)at, end - at, offset + (at - start));
		if (wrote <= 0)
			return fail("pwrite", NULL);
		at += wrote;
	}
	void *mapped = mmap((void *)start, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, offset);
	if (mapped == MAP_FAILED)
		return fail("mmap", NULL);
	madvise(mapped, end - start, MADV_POPULATE_READ); /* what only one process has mapped counts as private to it */
	Py_RETURN_NONE;
}

/* Of what mmap_copy() mapped, give back each copy that is as the file's page again: how many. ``pagemap`` is an open /proc/self/pagemap, of
 * whose bits 63 is "present" and 61 "not a copy": admin-guide/mm/pagemap.rst. */
static PyObject *k_madvise_same(PyObject *self, PyObject *args)
{
	unsigned long start, end, size = sysconf(_SC_PAGESIZE);
	unsigned long long offset;
	uint64_t entries[64];
	int fd, pagemap, given = 0;
	ARGS("kkiKi", &start, &end, &fd, &offset, &pagemap);
	char *file = mmap(NULL, end - start, PROT_READ, MAP_PRIVATE, fd, offset);
	if (file == MAP_FAILED)
		return fail("mmap", NULL);
	for (unsigned long number = 0; number < (end - start) / size; number++) {
		char *ours = (char *)start + number * size, *theirs = file + number * size;
		unsigned each = number % 64;
		if (!each && pread(pagemap, entries, sizeof entries, (start / size + number) * sizeof *entries) <= 0)
			break;
		if (entries[each] >> 61 != 4 || memcmp(ours, theirs, size) || madvise(ours, size, MADV_DONTNEED))
			continue;
		if (memcmp(ours, theirs, size)) /* it has been unmapped, and something else is there now */
			memcpy(ours, theirs, size);
		else
			given++;
	}
	munmap(file, end - start);
	return PyLong_FromLong(given);
}

#define METHOD(name) {#name, k_##name, METH_VARARGS, NULL}
static PyMethodDef methods[] = {
    METHOD(mount), METHOD(umount2), METHOD(pivot_root), METHOD(open_tree), METHOD(move_mount),
    METHOD(mount_setattr), METHOD(fsopen), METHOD(fsconfig), METHOD(fsmount), METHOD(fspick), METHOD(unshare),
    METHOD(setns), METHOD(clone3), METHOD(prctl), METHOD(capset), METHOD(setfsid), METHOD(setfsuid), METHOD(sethostname),
    METHOD(setdomainname), METHOD(openat2), METHOD(seccomp), METHOD(seccomp_recv), METHOD(seccomp_send),
    METHOD(seccomp_id_valid), METHOD(seccomp_addfd), METHOD(seccomp_set_flags), METHOD(process_vm_readv),
    METHOD(process_vm_writev), METHOD(kcmp), METHOD(statx_cached), METHOD(keyctl), METHOD(personality), METHOD(prlimit),
    METHOD(pidfd_send_signal), METHOD(pidfd_getfd), METHOD(close_range), METHOD(ioprio_set), METHOD(sched_setattr),
    METHOD(bpf_cgroup_device), METHOD(fanotify_init), METHOD(fanotify_mark), METHOD(mmap_copy), METHOD(madvise_same), {0},
};

#define C(name) {#name, name}
static const struct {
	const char *name;
	unsigned long long value;
} constants[] = {
    C(AT_FDCWD), C(AT_EMPTY_PATH), C(AT_RECURSIVE), C(AT_SYMLINK_NOFOLLOW),
    C(MS_RDONLY), C(MS_NOSUID), C(MS_NODEV), C(MS_NOEXEC), C(MS_SYNCHRONOUS), C(MS_REMOUNT), C(MS_MANDLOCK),
    C(MS_DIRSYNC), C(MS_NOSYMFOLLOW), C(MS_NOATIME), C(MS_NODIRATIME), C(MS_BIND), C(MS_MOVE), C(MS_REC),
    C(MS_SILENT), C(MS_UNBINDABLE), C(MS_PRIVATE), C(MS_SLAVE), C(MS_SHARED), C(MS_RELATIME), C(MS_STRICTATIME),
    C(MS_LAZYTIME), C(MNT_DETACH), C(UMOUNT_NOFOLLOW),
    C(OPEN_TREE_CLONE), C(OPEN_TREE_CLOEXEC), C(MOVE_MOUNT_F_EMPTY_PATH), C(MOVE_MOUNT_T_EMPTY_PATH),
    C(MOVE_MOUNT_T_SYMLINKS), C(MOVE_MOUNT_T_AUTOMOUNTS),
    C(FSOPEN_CLOEXEC), C(FSMOUNT_CLOEXEC), C(FSPICK_EMPTY_PATH), C(FSPICK_CLOEXEC), C(FSPICK_NO_AUTOMOUNT),
    C(FSCONFIG_SET_FLAG), C(FSCONFIG_SET_STRING), C(FSCONFIG_SET_FD), C(FSCONFIG_CMD_CREATE),
    C(FSCONFIG_CMD_RECONFIGURE),
    C(MOUNT_ATTR_RDONLY), C(MOUNT_ATTR_NOSUID), C(MOUNT_ATTR_NODEV), C(MOUNT_ATTR_NOEXEC), C(MOUNT_ATTR__ATIME),
    C(MOUNT_ATTR_RELATIME), C(MOUNT_ATTR_NOATIME), C(MOUNT_ATTR_STRICTATIME), C(MOUNT_ATTR_NODIRATIME),
    C(MOUNT_ATTR_IDMAP), C(MOUNT_ATTR_NOSYMFOLLOW),
    C(CLONE_NEWUSER), C(CLONE_NEWNS), C(CLONE_NEWPID), C(CLONE_NEWNET), C(CLONE_NEWIPC), C(CLONE_NEWUTS),
    C(CLONE_NEWCGROUP), C(CLONE_NEWTIME), C(CLONE_PARENT),
    C(PR_SET_PDEATHSIG), C(PR_SET_THP_DISABLE), C(PR_SET_DUMPABLE), C(PR_SET_KEEPCAPS), C(PR_CAPBSET_DROP), C(PR_SET_SECUREBITS),
    C(PR_GET_SECUREBITS), C(PR_SET_CHILD_SUBREAPER), C(PR_SET_NO_NEW_PRIVS), C(PR_CAP_AMBIENT),
    C(PR_CAP_AMBIENT_RAISE), C(PR_CAP_AMBIENT_CLEAR_ALL), C(PR_SET_NAME),
    C(SECBIT_NO_SETUID_FIXUP), C(SECBIT_KEEP_CAPS), C(CAP_LAST_CAP),
    C(RESOLVE_IN_ROOT), C(RESOLVE_NO_MAGICLINKS), C(RESOLVE_NO_SYMLINKS), C(RESOLVE_BENEATH), C(RESOLVE_NO_XDEV), C(RESOLVE_CACHED),
    C(SECCOMP_SET_MODE_FILTER), C(SECCOMP_FILTER_FLAG_TSYNC), C(SECCOMP_FILTER_FLAG_LOG),
    C(SECCOMP_FILTER_FLAG_SPEC_ALLOW), C(SECCOMP_FILTER_FLAG_NEW_LISTENER),
    C(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
    C(SECCOMP_USER_NOTIF_FLAG_CONTINUE), C(SECCOMP_ADDFD_FLAG_SEND), C(SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), C(KCMP_FILE),
    C(KEYCTL_JOIN_SESSION_KEYRING), C(KEYCTL_SETPERM), C(CLOSE_RANGE_CLOEXEC),
    C(BPF_F_ALLOW_MULTI),
    C(FAN_CLOEXEC), C(FAN_NONBLOCK), C(FAN_CLASS_NOTIF), C(FAN_REPORT_FID), C(FAN_MARK_ADD), C(FAN_MARK_REMOVE),
    C(FAN_MARK_FILESYSTEM), C(FAN_MODIFY), C(FAN_ATTRIB), C(FAN_CLOSE_WRITE), C(FAN_CREATE), C(FAN_DELETE),
    C(FAN_MOVED_FROM), C(FAN_MOVED_TO), C(FAN_ONDIR), C(FAN_OPEN),
};

static int populate(PyObject *module)
{
	for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
		PyObject *value = constants[i].value > INT64_MAX ? PyLong_FromLongLong((long long)constants[i].value)
								 : PyLong_FromUnsignedLongLong(constants[i].value);
		if (!value || PyModule_AddObjectRef(module, constants[i].name, value) < 0)
			return -1;
		Py_DECREF(value);
	}
	return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, populate}, {0}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "sysbox.linux._kernel", "System calls under the kernel's own names.", 0, methods, slots,
};

PyMODINIT_FUNC PyInit__kernel(void)
{
	return PyModuleDef_Init(&definition);
}
