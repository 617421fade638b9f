"""The words of /dev/fuse: opcodes, and structures as linux/fuse.h has them (a unit test compares the two by compiling C)."""

from __future__ import annotations

from struct import Struct

KERNEL = (7, 31)  # the oldest protocol spoken: Linux 5.2
MINOR = 36  # the newest one that is known here; fields of later ones are optional

OPCODES = {
    "LOOKUP": 1,
    "FORGET": 2,
    "GETATTR": 3,
    "SETATTR": 4,
    "READLINK": 5,
    "OPEN": 14,
    "READ": 15,
    "WRITE": 16,
    "STATFS": 17,
    "RELEASE": 18,
    "INIT": 26,
    "OPENDIR": 27,
    "READDIR": 28,
    "RELEASEDIR": 29,
    "INTERRUPT": 36,
    "DESTROY": 38,
    "BATCH_FORGET": 42,
    "READDIRPLUS": 44,
}

IN_HEADER = Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
OUT_HEADER = Struct("<IiQ")  # len, error, unique
INIT_IN = Struct("<IIII")  # major, minor, max_readahead, flags: what all versions have
INIT_OUT = Struct("<IIIIHHIIHHI28x")  # major, minor, max_readahead, flags, max_background, congestion, max_write, time_gran, max_pages, ...
ATTR = Struct("<QQQQQQIIIIIIIIII")  # ino, size, blocks, 3 times, 3 nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
ENTRY_OUT = Struct("<QQQQII")  # nodeid, generation, entry_valid, attr_valid, nanoseconds of both; then the attr
ATTR_OUT = Struct("<QII")  # attr_valid, nanoseconds, dummy; then the attr
OPEN_IN = Struct("<II")  # flags, open_flags
OPEN_OUT = Struct("<QII")  # fh, open_flags, padding
READ_IN = Struct("<QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags, padding
WRITE_IN = Struct("<QQIIQII")  # fh, offset, size, write_flags, lock_owner, flags, padding
SETATTR_IN = Struct("<II")  # valid, padding: all that is looked at
INVAL_INODE_OUT = Struct("<Qqq")  # nodeid, offset (below 0: attributes alone), length
STATFS_OUT = Struct("<QQQQQIIII24x")  # blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare
BATCH = Struct("<II")  # count, dummy; then so many of FORGET_ONE
FORGET_ONE = Struct("<QQ")  # nodeid, nlookup
DIRENT = Struct("<QQII")  # ino, off, namelen, type; then the name, padded to 8 bytes

ROOT = 1  # nodeid
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR = 1, 2, 8
FUSE_NOTIFY_INVAL_INODE = 2
FUSE_DO_READDIRPLUS = 1 << 13
FUSE_CACHE_SYMLINKS = 1 << 23
FATTR_OTHER = 0b1_0011_0111  # mode, uid, gid, atime, mtime; with the two _NOW: all that is no change of size
MAX_WRITE = 4096
BUFFER = 8192 + 256  # FUSE_MIN_READ_BUFFER, and more than a write's headers and data
LONG = 1 << 40  # seconds of validity: for ever
