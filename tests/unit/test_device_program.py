"""The program for cgroup v2, run by a small BPF machine."""

from __future__ import annotations

import struct
from itertools import product
from random import Random
from typing import Any

from sysbox.oci.resources import DEFAULT_DEVICES, device_program, effective

TYPES = {"b": 1, "c": 2}
BITS = {"m": 1, "r": 2, "w": 4}
MASK = 2**64 - 1


def run(program: bytes, kind: str, major: int, minor: int, bits: int) -> int:
    """Do what the kernel does with a struct bpf_cgroup_dev_ctx; only the instructions of device programs."""
    context = struct.pack("<III", bits << 16 | TYPES[kind], major, minor)
    registers: list[int | None] = [None] * 11
    registers[1] = -1  # the context's address: of use in loads only
    at = 0

    def read(index: int) -> int:
        value = registers[index]
        assert value is not None, f"r{index} is read before it is written"
        return value

    while True:
        code, regs, jump, value = struct.unpack_from("<BBhi", program, at * 8)
        target, source, immediate = regs & 15, regs >> 4, value & MASK
        at += 1
        match code:
            case 0x61:
                assert source == 1
                registers[target] = struct.unpack_from("<I", context, jump)[0]
            case 0xBF:
                registers[target] = read(source)
            case 0xB7:
                registers[target] = immediate
            case 0x57:
                registers[target] = read(target) & immediate
            case 0x77:
                registers[target] = read(target) >> immediate
            case 0x55:
                at += jump if read(target) != immediate else 0
            case 0x15:
                at += jump if read(target) == immediate else 0
            case 0x95:
                return read(0)
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
        assert jump >= 0, "older kernels take no loops"


def wanted(rules: list[dict[str, Any]], kind: str, major: int, minor: int, bits: int) -> int:
    for letter, bit in BITS.items():
        answer = False
        for rule in rules:
            fits = rule.get("type", "a") in ("a", kind)
            fits = fits and rule.get("major", -1) in (-1, major) and rule.get("minor", -1) in (-1, minor)
            answer = rule["allow"] if fits and letter in rule["access"] else answer
        if bits & bit and not answer:
            return 0
    return 1


def check(rules: list[dict[str, Any]], majors: tuple[int, ...], minors: tuple[int, ...]) -> None:
    program = device_program(rules)
    assert len(program) % 8 == 0
    for kind, major, minor, bits in product("bc", majors, minors, range(1, 8)):
        assert run(program, kind, major, minor, bits) == wanted(rules, kind, major, minor, bits), (rules, kind, major, minor, bits)


def reachable(program: bytes) -> bool:
    """Say whether the verifier would find every instruction on some way."""
    seen, todo = set(), [0]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        code, _, jump, _ = struct.unpack_from("<BBhi", program, at * 8)
        todo += [] if code == 0x95 else [at + 1, at + 1 + jump] if code in (0x55, 0x15) else [at + 1]
    return seen == set(range(len(program) // 8))


def test_random_rules() -> None:
    random = Random(11)
    for _ in range(400):
        rules: list[dict[str, Any]] = []
        for _ in range(random.randint(0, 6)):
            rule: dict[str, Any] = {"allow": random.random() < 0.6, "access": "".join(random.sample("rwm", random.randint(1, 3)))}
            for key, values in (("type", "abc"), ("major", (-1, 1, 2**31 - 1)), ("minor", (-1, 0, 5))):
                if random.random() < 0.8:
                    rule[key] = random.choice(values)
            rules.append(rule)
        check(rules, (0, 1, 2**31 - 1), (0, 5, 2**32 - 1))
        assert reachable(device_program(rules))


def test_nothing_is_allowed_without_rules() -> None:
    assert run(device_program([]), "c", 1, 3, 2) == 0


def test_a_rule_for_all_hides_what_was_before() -> None:
    everything = {"allow": True, "access": "rwm"}
    assert device_program([*DEFAULT_DEVICES, everything]) == device_program([everything])


def test_defaults() -> None:
    rules = effective([{"allow": False, "access": "rwm"}, {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"}])
    check(rules, (1, 5, 10, 136), (0, 1, 2, 3, 5, 7, 8, 9, 11, 200, 229))
    program = device_program(rules)
    assert run(program, "c", 10, 229, 7) == 1
    assert run(program, "c", 1, 11, BITS["r"]) == 1
    assert run(program, "c", 1, 11, BITS["w"]) == 0
    assert run(program, "b", 8, 0, BITS["m"]) == 1
    assert run(program, "b", 8, 0, BITS["r"]) == 0


def test_many_rules_stay_within_the_reach_of_jumps() -> None:
    rules = [{"allow": True, "type": "c", "major": 7, "minor": minor, "access": "rw"} for minor in range(6000)]
    program = device_program(rules)
    assert run(program, "c", 7, 0, 6) == 1
    assert run(program, "c", 7, 6000, 6) == 0
