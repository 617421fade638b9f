"""/proc/sys/net: limits that the kernel keeps once for all network namespaces, or that only its first one shows."""

from __future__ import annotations

from sysbox.fs.emulate.row import Row, highest, local, number, one_of, otherwise, own, parse, refuse, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sysbox.fs.emulate.row import Box

INT = 2**31 - 1
_NET = "/proc/sys/net/"
_GC = f"{_NET}ipv4/neigh/default/gc_thresh"
_CT = f"{_NET}netfilter/nf_conntrack_"


def _ping(box: Box) -> str:
    value = box.values.get(f"{box.path}@{box.namespace('net')}")
    if value is not None:
        return value
    low, high = parse(box.native(), 2)
    _, first, _ = box.root()
    return f"{low - first}\t{high - first}\n" if first <= low <= high else "1\t0\n"


def _ping_range(box: Box, text: str) -> None:
    """Keep the range as written; the kernel gets the part of it that there are groups for."""
    low, high = (parse(text, 2) * 2)[:2] if len(parse(text, 2)) == 2 else (-1, -1)
    if low < 0 or high > INT:
        raise refuse(text)
    _, first, size = box.root()
    within = f"{first + min(low, size - 1)}\t{first + min(high, size - 1)}\n" if low <= high else "1\t0\n"

    box.native(within)
    box.path = f"{box.path}@{box.namespace('net')}"
    box.keep(f"{low}\t{high}\n")


def _liberal(box: Box, text: str) -> None:
    """Keep it; the host becomes liberal too, never strict, if the operator allows that."""
    value = number(0, 255)(text)
    if box.may_raise() and value != "0\n" and value != box.host():
        box.host_write(value)
    box.keep(value)


ROWS = table(
    Row(
        f"{_NET}core/default_qdisc",
        0o644,
        otherwise("pfifo_fast\n"),
        local(one_of("fq", "fq_codel", "sfq", "pfifo_fast", "cake", "fq_pie")),
        always=True,
    ),
    Row(f"{_NET}core/somaxconn", 0o644, own, highest(number(0, INT)), native=True),
    Row(f"{_NET}ipv4/ping_group_range", 0o644, _ping, _ping_range, lent=True),
    Row(f"{_NET}ipv4/vs/conntrack", 0o644, own, highest(number(0, 1)), native=True),
    Row(f"{_NET}ipv4/vs/conn_reuse_mode", 0o644, own, local(number(0, 1)), native=True),
    Row(f"{_NET}ipv4/vs/expire_nodest_conn", 0o644, own, local(number(-INT - 1, INT)), native=True),
    Row(f"{_NET}ipv4/vs/expire_quiescent_template", 0o644, own, local(number(-INT - 1, INT)), native=True),
    Row(f"{_GC}1", 0o644, otherwise("128\n"), local(number(0, INT)), always=True),
    Row(f"{_GC}2", 0o644, otherwise("512\n"), local(number(0, INT)), always=True),
    Row(f"{_GC}3", 0o644, otherwise("1024\n"), local(number(0, INT)), always=True),
    Row(f"{_CT}max", 0o644, own, highest(number(0, INT)), native=True),
    Row(f"{_CT}generic_timeout", 0o644, own, highest(number(0, INT)), native=True),
    Row(f"{_CT}tcp_timeout_established", 0o644, own, highest(number(0, INT)), native=True),
    Row(f"{_CT}tcp_timeout_close_wait", 0o644, own, highest(number(0, INT)), native=True),
    Row(f"{_CT}tcp_be_liberal", 0o644, own, _liberal, native=True),
    Row(f"{_NET}unix/max_dgram_qlen", 0o644, own, highest(number(0, INT)), native=True),
)
