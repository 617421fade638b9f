"""The process of config.json, as seen from inside."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from container.bundle import Bundle, sysbox_only, wait_for


def test_arguments_environment_and_status(bundle: Bundle) -> None:
    bundle.config["process"]["args"] = ["sh", "-c", 'echo "$0|$1|$A|$HOME"; exit 7', "a b", "ä"]
    bundle.config["process"]["env"] += ["A=1", "A=2=3"]
    result = bundle.run()
    assert (result.status, result.out) == (7, "a b|ä|2=3|/\n")


def test_a_signal_is_128_and_its_number(bundle: Bundle) -> None:
    bundle.sh("sh -c 'kill -TERM $$'; echo $?")
    assert bundle.good() == "143\n"


def test_home_is_that_of_the_user(bundle: Bundle) -> None:
    (bundle.rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nme:x:7:7::/home/me:/bin/sh\n")
    bundle.config["process"]["user"] = {"uid": 7, "gid": 7}
    bundle.sh("echo $HOME")
    assert bundle.good() == "/home/me\n"


def test_user_groups_and_umask(bundle: Bundle) -> None:
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 60000], "umask": 0o027}
    bundle.sh("id -u; id -g; id -G; umask")
    assert bundle.good().split("\n")[:4] == ["1000", "1001", "1001 5 60000", "0027"]


def test_the_umask_is_022_otherwise(bundle: Bundle) -> None:
    bundle.sh("umask")
    assert bundle.good() == "0022\n"


def test_a_missing_working_directory_is_made(bundle: Bundle) -> None:
    bundle.config["process"]["cwd"] = "/a/new/place"
    bundle.sh("pwd; stat -c %a /a/new/place")
    assert bundle.good() == "/a/new/place\n755\n"


def test_rlimits(bundle: Bundle) -> None:
    bundle.config["process"]["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    bundle.sh("ulimit -n; ulimit -Hn; ulimit -c")
    assert bundle.good() == "100\n200\n0\n"


def test_no_new_privileges(bundle: Bundle) -> None:
    bundle.config["process"]["noNewPrivileges"] = True
    bundle.sh("grep NoNewPrivs /proc/self/status")
    assert bundle.good().split() == ["NoNewPrivs:", "1"]


def test_a_raised_oom_score(bundle: Bundle) -> None:
    bundle.config["process"]["oomScoreAdj"] = 500
    bundle.sh("cat /proc/self/oom_score_adj")
    assert bundle.good() == "500\n"


def test_personality(bundle: Bundle) -> None:
    bundle.config["linux"]["personality"] = {"domain": "LINUX32"}
    bundle.sh("uname -m")
    if bundle.run().out != "i686\n":  # runc 1.1 does not know it
        assert not os.environ.get("OCI_RUNTIME", "sysbox").endswith("sysbox-runc")


@sysbox_only
def test_root_has_every_capability_of_its_user_namespace(bundle: Bundle) -> None:
    last = int(open("/proc/sys/kernel/cap_last_cap").read())  # noqa: SIM115 - one line
    every = f"{(1 << last + 1) - 1:016x}"
    bundle.sh("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status")
    assert bundle.good().split()[1::2] == [every] * 3
    bundle.sh("sleep 100").start()
    assert bundle.inside("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status").split()[1::2] == [every] * 3


@sysbox_only
def test_another_user_has_none_but_may_get_them(bundle: Bundle) -> None:
    bundle.config["process"]["user"] = {"uid": 1, "gid": 1}
    bundle.sh("grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status; grep CapBnd /proc/self/status")
    values = bundle.good().split()[1::2]
    assert [int(value, 16) for value in values[:3]] == [0, 0, 0]
    assert int(values[3], 16)


@sysbox_only
def test_capabilities_are_honoured_on_request(bundle: Bundle) -> None:
    bundle.config["process"]["env"].append("SYSBOX_HONOR_CAPS=TRUE")
    bundle.sh("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status")
    assert [int(value, 16) for value in bundle.good().split()[1::2]] == [0b100001] * 3


@sysbox_only
def test_it_has_ids_of_its_own(bundle: Bundle) -> None:
    bundle.sh("cat /proc/self/uid_map /proc/self/gid_map")
    uid, gid = (line.split() for line in bundle.good().splitlines())
    assert uid == gid
    assert (uid[0], uid[2], int(uid[1]) >= 65536) == ("0", "65536", True)


def test_a_terminal(bundle: Bundle) -> None:
    bundle.config["process"]["terminal"] = True
    bundle.sh("tty; test -t 0 && test -t 1 && echo terminal; stat -c %t /dev/console")
    bundle.write()
    command = ["script", "-qec", f"stty rows 33 cols 77; {' '.join(command_of(bundle))}", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=bundle.directory, timeout=30)
    assert "/dev/pts/0" in done.stdout
    assert "terminal" in done.stdout


def command_of(bundle: Bundle) -> list[str]:
    from container.bundle import RUNTIME

    return [RUNTIME, "--root", str(bundle.root), "run", bundle.name]


def test_a_console_socket(bundle: Bundle) -> None:
    import socket

    bundle.config["process"]["terminal"] = True
    bundle.config["process"]["consoleSize"] = {"height": 33, "width": 77}
    bundle.sh("stty size; read line; echo got $line")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bundle.directory / "console"))
        listener.listen()
        bundle.create("--console-socket", str(bundle.directory / "console"))
        connection, _ = listener.accept()
        with connection:
            _, [master], _, _ = socket.recv_fds(connection, 4096, 1)
    assert bundle.command("start", bundle.name).status == 0
    os.write(master, b"hello\n")
    said = b""
    while b"got hello" not in said:
        said += os.read(master, 1000)
    assert b"33 77" in said
    os.close(master)


@pytest.mark.parametrize("args", [["no-such-program"], ["/bin/nope"], ["/etc"], ["/etc/text"]])
def test_a_program_that_cannot_be_run(bundle: Bundle, args: list[str]) -> None:
    (bundle.rootfs / "etc/text").write_text("text")
    bundle.config["process"]["args"] = args
    result = bundle.run()
    assert result.status != 0
    words = ("executable file not found", "no such file or directory", "is a directory", "permission denied")
    assert any(word in result.err for word in words), result


def test_preserved_descriptors_and_no_others(bundle: Bundle) -> None:
    read, write = os.pipe()
    extra = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(extra, True)  # noqa: FBT003 - positional only
    bundle.sh("echo preserved >&3; ls /proc/self/fd | wc -l")
    bundle.write()

    def place() -> None:
        os.dup2(write, 3)

    command = [*command_of(bundle)[:-2], "run", "--preserve-fds", "1", bundle.name]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=bundle.directory,
        close_fds=False,
        preexec_fn=place,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5"]  # 0, 1, 2, 3 and that of ls
    assert os.read(read, 100) == b"preserved\n"
    for fd in (read, write, extra):
        os.close(fd)


def test_descriptors_of_a_service_manager(bundle: Bundle) -> None:
    read, write = os.pipe()
    bundle.sh("echo $LISTEN_FDS $LISTEN_PID; echo hello >&3")
    bundle.write()
    done = subprocess.run(
        command_of(bundle),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=bundle.directory,
        close_fds=False,
        preexec_fn=lambda: os.dup2(write, 3),
        env={**os.environ, "LISTEN_FDS": "1"},
        timeout=30,
    )
    assert done.stdout == "1 1\n", done.stderr
    assert os.read(read, 100) == b"hello\n"
    os.close(read)
    os.close(write)


@sysbox_only
def test_descriptors_that_are_not_there_are_refused(bundle: Bundle) -> None:
    result = bundle.run("--preserve-fds", "40")
    assert result.status == 1
    assert "SBX-1001" in result.err


def test_exec_in_all_its_forms(bundle: Bundle) -> None:
    bundle.sh("sleep 100").start()
    assert bundle.exec(
        "-e", "A=5", "--cwd", "/tmp", "-u", "7:8", "-g", "9", "NAME", "sh", "-c", "echo $A; pwd; id -u; id -G"
    ).out.split() == ["5", "/tmp", "7", "8", "9"]
    assert bundle.exec("NAME", "sh", "-c", "exit 3").status == 3
    process: dict[str, Any] = {
        "args": ["sh", "-c", "pwd; echo $B"],
        "cwd": "/etc",
        "env": ["PATH=/bin", "B=b"],
        "user": {"uid": 0, "gid": 0},
    }
    (bundle.directory / "process.json").write_text(json.dumps(process))
    assert bundle.exec("-p", "process.json", "NAME").out == "/etc\nb\n"
    assert bundle.exec("-d", "--pid-file", "pid", "NAME", "sh", "-c", "exec sleep 55 >/dev/null 2>&1").status == 0
    pid = int((bundle.directory / "pid").read_text())
    wait_for(lambda: "sleep\0" in Path(f"/proc/{pid}/cmdline").read_text())
    refused = bundle.exec("NAME", "no-such-program")
    assert refused.status != 0
    assert "executable file not found" in refused.err
    assert bundle.inside("cat /proc/self/cgroup") == bundle.inside("cat /proc/1/cgroup")
    for kind in ("mnt", "net", "ipc", "uts", "pid", "user", "cgroup"):
        assert bundle.inside(f"readlink /proc/self/ns/{kind}") == bundle.inside(f"readlink /proc/1/ns/{kind}")
    assert bundle.inside("ls /proc/self/fd | wc -l").split() == ["4"]
