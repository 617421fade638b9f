"""create, start, kill, delete and the rest, one at a time and all at once; after each failure nothing is left (see conftest.py)."""

import contextlib
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from container.bundle import OURS, RUNTIME, Bundle, leftovers, made, sysbox_only, wait_for


def test_a_life(bundle: Bundle) -> None:
    bundle.config["annotations"] = {"org.example": "1"}
    bundle.sh("echo started; sleep 100").create("--pid-file", "pid")
    state = bundle.state()
    assert (state["status"], state["bundle"], state["annotations"]) == ("created", str(bundle.directory), {"org.example": "1"})
    assert state["pid"] == int((bundle.directory / "pid").read_text())
    assert bundle.output == ""
    assert bundle.command("start", bundle.name).status == 0
    assert bundle.state()["status"] == "running"
    assert bundle.command("start", bundle.name).status != 0
    wait_for(lambda: bundle.output == "started\n")
    assert bundle.command("delete", bundle.name).status != 0
    listed = json.loads(bundle.command("list", "--format", "json").out)
    assert [(one["id"], one["status"]) for one in listed] == [(bundle.name, "running")]
    assert bundle.command("list", "-q").out == f"{bundle.name}\n"
    assert bundle.command("kill", bundle.name, "KILL").status == 0
    wait_for(lambda: bundle.state()["status"] == "stopped")
    assert bundle.command("kill", bundle.name).status != 0
    assert bundle.command("delete", bundle.name).status == 0
    assert bundle.command("state", bundle.name).status != 0
    assert bundle.command("delete", bundle.name).status != 0
    assert bundle.command("delete", "--force", bundle.name).status == 0


def test_pause_and_resume(bundle: Bundle) -> None:
    bundle.sh("while true; do echo x; sleep 0.01; done").start()
    wait_for(lambda: bundle.output)
    assert bundle.command("pause", bundle.name).status == 0
    assert bundle.state()["status"] == "paused"
    before = bundle.output
    time.sleep(0.1)
    assert bundle.output == before
    assert bundle.exec("NAME", "true").status != 0
    assert bundle.command("resume", bundle.name).status == 0
    wait_for(lambda: bundle.output != before)
    assert bundle.command("pause", bundle.name).status == 0  # delete --force must get rid of a paused one too


def test_signals(bundle: Bundle) -> None:
    bundle.sh("trap 'echo usr1' USR1; trap 'echo term; exit' TERM; echo ready; while true; do sleep 0.01; done").start()
    wait_for(lambda: "ready" in bundle.output)
    for name in ("USR1", "SIGUSR1", "10"):
        before = bundle.output
        assert bundle.command("kill", bundle.name, name).status == 0
        wait_for(lambda before=before: bundle.output != before)
    bundle.command("kill", bundle.name)
    wait_for(lambda: "term" in bundle.output)


def test_kill_all(bundle: Bundle) -> None:
    bundle.sh("sleep 100 & sleep 100 & wait").start()
    wait_for(lambda: len(json.loads(bundle.command("ps", "--format", "json", bundle.name).out)) == 3)
    table = bundle.command("ps", bundle.name).out
    assert table.count("sleep 100") >= 2
    assert bundle.command("kill", "--all", bundle.name, "KILL").status == 0
    wait_for(lambda: bundle.state()["status"] == "stopped")


def test_foreground_passes_signals_on_and_deletes(bundle: Bundle) -> None:
    bundle.sh("trap 'exit 9' TERM; echo ready; while true; do sleep 0.01; done").write()
    command = [RUNTIME, "--root", str(bundle.root), "run", bundle.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=bundle.directory) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 9
    assert not leftovers(bundle)


def test_run_detached(bundle: Bundle) -> None:
    bundle.sh("sleep 100").write()
    command = [RUNTIME, "--root", str(bundle.root), "run", "-d", "--pid-file", "pid", bundle.name]
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=bundle.directory
    )
    assert bundle.state()["pid"] == int((bundle.directory / "pid").read_text())


def test_an_id_that_is_taken(bundle: Bundle) -> None:
    bundle.sh("sleep 100").start()
    again = bundle.run()
    assert again.status != 0
    assert bundle.state()["status"] == "running"


HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@sysbox_only  # root of the container, as whom some hooks run, may not write the trace with runc
def test_hooks_run_in_order_with_the_state(bundle: Bundle) -> None:
    trace = bundle.rootfs / "trace"
    trace.write_text("")
    trace.chmod(0o666)
    script = bundle.rootfs / "hook.sh"
    script.write_text(
        '#!/bin/sh\nread state\nfor file in "$2" /trace; do test -w "$file" && echo "$1 $X $state" >> "$file" && break; done\n'
    )
    script.chmod(0o755)
    bundle.config["hooks"] = {}
    for kind in HOOKS:
        path = "/hook.sh" if kind == "startContainer" else str(script)
        bundle.config["hooks"][kind] = [{"path": path, "args": ["hook.sh", kind, str(trace)], "env": ["X=1", "PATH=/bin:/usr/bin"]}]
    bundle.sh("true")
    bundle.good()
    lines = [line.split(" ", 2) for line in trace.read_text().splitlines()]
    assert [line[0] for line in lines] == list(HOOKS)
    for kind, value, text in lines:
        state = json.loads(text)
        assert (value, state["id"]) == ("1", bundle.name), kind
        assert state["ociVersion"]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_fails_ends_it(bundle: Bundle, kind: str) -> None:
    bundle.config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", "echo because; exit 4"]}]}
    result = bundle.run()
    assert result.status != 0
    if OURS:
        assert f"{kind} hook /bin/sh failed: exit status 4: because" in result.err
        assert not leftovers(bundle)


@sysbox_only
def test_a_hook_that_hangs_is_killed(bundle: Bundle) -> None:
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}
    result = bundle.run()
    assert "timeout of 1 s" in result.err
    assert not leftovers(bundle)


@sysbox_only
@pytest.mark.parametrize("kind", ["poststart", "poststop"])
def test_late_hooks_may_fail(bundle: Bundle, kind: str) -> None:
    bundle.config["hooks"] = {kind: [{"path": "/bin/false"}]}
    assert bundle.run().status == 0
    assert f"{kind} hook /bin/false failed" in bundle.log.read_text()


FAILURES: list[tuple[str, Any]] = [
    ("mounts", {"destination": "/mnt", "source": "/no/such", "options": ["bind"]}),
    ("mounts", {"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["nonsense=1"]}),
    ("mounts", {"destination": "/etc/passwd/x", "type": "tmpfs", "source": "x"}),
    ("mounts", {"destination": "/mnt", "type": "nosuchfs", "source": "x"}),
    ("devices", {"path": "/dev/null/x", "type": "c", "major": 1, "minor": 3}),
    ("sysctl", {"net.ipv4.no_such": "1"}),
    ("cwd", "/etc/passwd"),
    ("limit", {"memory": {"limit": 1 << 40, "swap": 5}}),
    ("limit", {"cpu": {"cpus": "4000"}}),
    ("rlimit", {"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}),
]


@sysbox_only
@pytest.mark.parametrize(("where", "value"), FAILURES)
def test_a_failure_is_told_and_leaves_nothing(bundle: Bundle, where: str, value: Any) -> None:
    (bundle.rootfs / "etc/passwd").write_text("")
    if where == "mounts":
        bundle.config["mounts"].append(value)
    elif where == "cwd":
        bundle.config["process"]["cwd"] = value
    elif where == "rlimit":
        bundle.config["process"]["rlimits"] = [value]
    elif where == "limit":
        bundle.config["linux"]["resources"].update(value)
    else:
        bundle.config["linux"][where] = [value] if where == "devices" else value
    result = bundle.run()
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert "SBX-" in result.err
    assert "EOF" not in result.err
    logged = [json.loads(line) for line in bundle.log.read_text().splitlines()]
    assert logged[-1]["msg"] == result.err.strip()
    assert not leftovers(bundle)


@sysbox_only
def test_a_creation_killed_at_any_moment_can_be_deleted(bundle: Bundle) -> None:
    bundle.sh("sleep 100").write()
    with (bundle.directory / "output").open("w") as output:
        for delay in range(4, 40, 3):
            command = [RUNTIME, "--root", str(bundle.root), "create", bundle.name]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=bundle.directory) as creating:
                time.sleep(delay / 1000)
                creating.kill()
            bundle.delete()
            wait_for(lambda: not leftovers(bundle), 5)


@sysbox_only
def test_init_killed_while_it_is_made_is_told(bundle: Bundle) -> None:
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", 'read state; pid=${state##*pid\\": }; kill -9 ${pid%%[,\\}]*}']}]
    }
    result = bundle.run()
    assert result.status == 1
    assert "init (pid" in result.err
    assert "signal 9" in result.err
    assert not leftovers(bundle)


def test_two_deletes_and_an_exec_at_once(bundle: Bundle) -> None:
    bundle.sh("sleep 100").start()
    with ThreadPoolExecutor(4) as pool:
        deletes = [pool.submit(bundle.command, "delete", "--force", bundle.name) for _ in range(3)]
        running = pool.submit(bundle.exec, "NAME", "true")
        statuses = [one.result().status for one in deletes]
        running.result()
    assert 0 in statuses
    if OURS:
        assert statuses == [0, 0, 0]


@sysbox_only
def test_twenty_at_once_have_twenty_ranges(tmp_path: Path) -> None:
    def started(bundle: Bundle) -> str:
        bundle.sh("sleep 1000").start()
        return bundle.inside("cat /proc/self/uid_map")

    with contextlib.ExitStack() as stack:
        bundles = []
        for number in range(20):
            (tmp_path / str(number)).mkdir()
            bundles.append(stack.enter_context(made(tmp_path / str(number))))
        with ThreadPoolExecutor(20) as pool:
            maps = list(pool.map(started, bundles))
    assert len(set(maps)) == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
@sysbox_only
def test_only_root() -> None:
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", RUNTIME, "state", "x"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "only root" in result.stderr or "Permission denied" in result.stderr


@sysbox_only
def test_the_direct_way_of_the_guide(tmp_path: Path) -> None:
    with made(tmp_path) as bundle:
        (tmp_path / "config.json").unlink(missing_ok=True)
        assert bundle.command("spec").status == 0
        assert bundle.command("spec").status == 1
        result = bundle.command("run", bundle.name, input="echo in $(hostname); exit 5\n", stdin=None)
        assert result.status == 5, result
        assert "in syscont" in result.out


@sysbox_only
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nonsense"], 1001),
        (["state"], 1001),
        (["state", "a/b"], 1006),
        (["state", "missing"], 1004),
        (["kill", "missing", "TURM"], 1001),
        (["checkpoint", "x"], 1009),
        (["restore", "x"], 1009),
        (["create", "--nope", "x"], 1001),
        (["create", "-b", "/no/such", "x"], 1010),
    ],
)
def test_errors_of_the_command_line(bundle: Bundle, words: list[str], code: int) -> None:
    result = bundle.command(*words)
    assert result.status == 1
    assert f"SBX-{code}" in result.err
    assert result.err.count("\n") == 1


@sysbox_only
def test_features_and_version(bundle: Bundle) -> None:
    document = json.loads(bundle.command("features").out)
    assert document["linux"]["mountExtensions"]["idmap"]["enabled"] is True
    assert document["linux"]["cgroup"]["systemd"] is True
    assert bundle.command("--version").out.startswith("sysbox-runc version ")
    assert "create" in bundle.command("help").out
    assert "--pid-file" in bundle.command("create", "--help").out


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2", "1.1.0", "1.2.1", "1.3.0"])
@sysbox_only
def test_versions_of_the_specification(bundle: Bundle, version: str) -> None:
    bundle.config["ociVersion"] = version
    bundle.good()


@sysbox_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_creation_that_is_interrupted_leaves_nothing(bundle: Bundle, number: int) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": [f"/{bundle.name}", "1000"]}]}
    bundle.write()
    # who runs the tests in the background may have SIGINT ignored, and it stays so across execve(2)
    command = ["env", "--default-signal=INT", RUNTIME, "--root", str(bundle.root), "run", bundle.name]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=bundle.directory) as running:
        wait_for(lambda: list(Path("/sys/fs/cgroup").glob(f"*/{bundle.name}")))
        time.sleep(0.1)
        running.send_signal(number)
        assert running.wait(10) == 130
    wait_for(lambda: not leftovers(bundle), 3)


@sysbox_only
def test_no_container_needs_the_manager_while_it_runs(bundle: Bundle, tmp_path: Path) -> None:
    """A killed manager is started again by whoever needs it next, and knows what it knew."""
    bundle.sh("sleep 100").start()
    before = bundle.inside("cat /proc/self/uid_map")
    os.kill(int(Path("/run/sysbox/sysmgr.pid").read_text()), signal.SIGKILL)
    assert bundle.inside("cat /proc/self/uid_map") == before
    assert bundle.state()["status"] == "running"
    (tmp_path / "other").mkdir()
    with made(tmp_path / "other") as other:
        other.sh("cat /proc/self/uid_map")
        assert other.good() != before
    os.kill(int(Path("/run/sysbox/sysmgr.pid").read_text()), signal.SIGKILL)
    bundle.delete()


@sysbox_only
def test_a_hundred_lives_leave_no_descriptor_in_the_manager(bundle: Bundle) -> None:
    def live(count: int) -> int:
        for _ in range(count):
            bundle.good()
        manager = Path("/run/sysbox/sysmgr.pid").read_text().strip()
        return len(list(Path(f"/proc/{manager}/fd").iterdir()))

    bundle.sh("true")
    before = live(5)
    assert live(100) <= before + 2


@sysbox_only
def test_init_killed_at_any_moment_leaves_nothing(bundle: Bundle) -> None:
    bundle.sh("true").write()
    killed = 0
    for delay in range(10, 50):
        command = [RUNTIME, "--root", str(bundle.root), "run", bundle.name]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=bundle.directory) as running:
            time.sleep(delay / 1000)
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
                    killed += 1
            said = running.communicate(timeout=20)[1]
        if running.returncode == 1:
            assert any(word in said for word in ("ended by signal 9", "its init is gone", "has stopped")), said
        wait_for(lambda: not leftovers(bundle), 5)
    assert killed
