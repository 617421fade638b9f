from typing import Literal, TypeAlias

Path: TypeAlias = str | bytes

def mount(source: Path | None, target: Path, type: Path | None, flags: int, data: Path | None) -> int: ...
def umount2(target: Path, flags: int) -> int: ...
def pivot_root(new_root: Path, put_old: Path) -> int: ...
def open_tree(dfd: int, path: Path, flags: int) -> int: ...
def move_mount(from_dfd: int, from_path: Path, to_dfd: int, to_path: Path, flags: int) -> int: ...
def mount_setattr(dfd: int, path: Path, flags: int, attr_set: int, attr_clr: int, propagation: int, userns_fd: int) -> int: ...
def fsopen(type: str, flags: int) -> int: ...
def fsconfig(fd: int, command: int, key: str | None, value: Path | None, aux: int) -> int: ...
def fsmount(fd: int, flags: int, attr_flags: int) -> int: ...
def fspick(dfd: int, path: Path, flags: int) -> int: ...
def unshare(flags: int) -> int: ...
def setns(fd: int, flags: int) -> int: ...
def clone3(flags: int, cgroup: int) -> tuple[int, int] | Literal[0]: ...
def prctl(option: int, arg2: int = ..., arg3: int = ..., arg4: int = ..., arg5: int = ...) -> int: ...
def capset(effective: int, permitted: int, inheritable: int) -> int: ...
def setfsid(uid: int, gid: int) -> None: ...
def setfsuid(uid: int) -> int: ...
def sethostname(name: str) -> int: ...
def setdomainname(name: str) -> int: ...
def openat2(dfd: int, path: Path, flags: int, mode: int, resolve: int) -> int: ...
def seccomp(operation: int, flags: int, program: bytes) -> int: ...
def seccomp_recv(fd: int, buffer: bytearray | memoryview) -> int: ...
def seccomp_send(fd: int, id: int, value: int, error: int, flags: int) -> int: ...
def seccomp_id_valid(fd: int, id: int) -> bool: ...
def seccomp_addfd(fd: int, id: int, flags: int, source: int, newfd_flags: int) -> int: ...
def seccomp_set_flags(fd: int, flags: int) -> int: ...
def process_vm_readv(pid: int, address: int, size: int) -> bytes: ...
def process_vm_writev(pid: int, address: int, data: bytes) -> int: ...
def statx_cached(fd: int) -> tuple[int, int]: ...
def kcmp(pid: int, other: int, type: int, first: int, second: int) -> int: ...
def keyctl(operation: int, name: str | int, arg: int = ...) -> int: ...
def personality(persona: int) -> int: ...
def prlimit(pid: int, resource: int, soft: int, hard: int) -> int: ...
def pidfd_send_signal(pidfd: int, sig: int) -> int: ...
def pidfd_getfd(pidfd: int, fd: int) -> int: ...
def close_range(first: int, last: int, flags: int) -> int: ...
def ioprio_set(which: int, who: int, ioprio: int) -> int: ...
def sched_setattr(pid: int, attr: bytes) -> int: ...
def bpf_cgroup_device(cgroup: int, program: bytes, flags: int) -> int: ...
def fanotify_init(flags: int, event_f_flags: int) -> int: ...
def fanotify_mark(fd: int, flags: int, mask: int, dfd: int, path: Path | None) -> int: ...
def mmap_copy(start: int, end: int, fd: int, offset: int) -> None: ...
def madvise_same(start: int, end: int, fd: int, offset: int, pagemap: int) -> int: ...

AT_FDCWD: int
AT_EMPTY_PATH: int
AT_RECURSIVE: int
AT_SYMLINK_NOFOLLOW: int
MS_RDONLY: int
MS_NOSUID: int
MS_NODEV: int
MS_NOEXEC: int
MS_SYNCHRONOUS: int
MS_REMOUNT: int
MS_MANDLOCK: int
MS_DIRSYNC: int
MS_NOSYMFOLLOW: int
MS_NOATIME: int
MS_NODIRATIME: int
MS_BIND: int
MS_MOVE: int
MS_REC: int
MS_SILENT: int
MS_UNBINDABLE: int
MS_PRIVATE: int
MS_SLAVE: int
MS_SHARED: int
MS_RELATIME: int
MS_STRICTATIME: int
MS_LAZYTIME: int
MNT_DETACH: int
UMOUNT_NOFOLLOW: int
OPEN_TREE_CLONE: int
OPEN_TREE_CLOEXEC: int
MOVE_MOUNT_F_EMPTY_PATH: int
MOVE_MOUNT_T_EMPTY_PATH: int
MOVE_MOUNT_T_SYMLINKS: int
MOVE_MOUNT_T_AUTOMOUNTS: int
FSOPEN_CLOEXEC: int
FSMOUNT_CLOEXEC: int
FSPICK_EMPTY_PATH: int
FSPICK_CLOEXEC: int
FSPICK_NO_AUTOMOUNT: int
FSCONFIG_SET_FLAG: int
FSCONFIG_SET_STRING: int
FSCONFIG_SET_FD: int
FSCONFIG_CMD_CREATE: int
FSCONFIG_CMD_RECONFIGURE: int
MOUNT_ATTR_RDONLY: int
MOUNT_ATTR_NOSUID: int
MOUNT_ATTR_NODEV: int
MOUNT_ATTR_NOEXEC: int
MOUNT_ATTR__ATIME: int
MOUNT_ATTR_RELATIME: int
MOUNT_ATTR_NOATIME: int
MOUNT_ATTR_STRICTATIME: int
MOUNT_ATTR_NODIRATIME: int
MOUNT_ATTR_IDMAP: int
MOUNT_ATTR_NOSYMFOLLOW: int
CLONE_NEWUSER: int
CLONE_NEWNS: int
CLONE_NEWPID: int
CLONE_NEWNET: int
CLONE_NEWIPC: int
CLONE_NEWUTS: int
CLONE_NEWCGROUP: int
CLONE_NEWTIME: int
CLONE_PARENT: int
PR_SET_PDEATHSIG: int
PR_SET_DUMPABLE: int
PR_SET_THP_DISABLE: int
PR_SET_KEEPCAPS: int
PR_CAPBSET_DROP: int
PR_SET_SECUREBITS: int
PR_GET_SECUREBITS: int
PR_SET_CHILD_SUBREAPER: int
PR_SET_NO_NEW_PRIVS: int
PR_CAP_AMBIENT: int
PR_CAP_AMBIENT_RAISE: int
PR_CAP_AMBIENT_CLEAR_ALL: int
PR_SET_NAME: int
SECBIT_NO_SETUID_FIXUP: int
SECBIT_KEEP_CAPS: int
CAP_LAST_CAP: int
RESOLVE_IN_ROOT: int
RESOLVE_NO_MAGICLINKS: int
RESOLVE_NO_SYMLINKS: int
RESOLVE_BENEATH: int
RESOLVE_NO_XDEV: int
RESOLVE_CACHED: int
SECCOMP_SET_MODE_FILTER: int
SECCOMP_FILTER_FLAG_TSYNC: int
SECCOMP_FILTER_FLAG_LOG: int
SECCOMP_FILTER_FLAG_SPEC_ALLOW: int
SECCOMP_FILTER_FLAG_NEW_LISTENER: int
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: int
SECCOMP_USER_NOTIF_FLAG_CONTINUE: int
SECCOMP_ADDFD_FLAG_SEND: int
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: int
KCMP_FILE: int
KEYCTL_JOIN_SESSION_KEYRING: int
KEYCTL_SETPERM: int
CLOSE_RANGE_CLOEXEC: int
BPF_F_ALLOW_MULTI: int
FAN_CLOEXEC: int
FAN_NONBLOCK: int
FAN_CLASS_NOTIF: int
FAN_REPORT_FID: int
FAN_MARK_ADD: int
FAN_MARK_REMOVE: int
FAN_MARK_FILESYSTEM: int
FAN_MODIFY: int
FAN_ATTRIB: int
FAN_CLOSE_WRITE: int
FAN_CREATE: int
FAN_DELETE: int
FAN_MOVED_FROM: int
FAN_MOVED_TO: int
FAN_ONDIR: int
FAN_OPEN: int
