#!/usr/bin/python3
"""Runs in the guest: takes scripts from the host, one line of JSON each, and gives back what they did."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

PORT = Path("/dev/virtio-ports/guest")
SCRIPT = Path("/run/guest-script")


def run(script: str, seconds: float) -> dict[str, object]:
    """Run a script with bash; its status (124: it took too long) and what it printed."""
    SCRIPT.write_text(script)
    with subprocess.Popen(
        ["/bin/bash", SCRIPT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            return {"status": 124, "output": out.decode(errors="replace")}
        return {"status": process.returncode, "output": out.decode(errors="replace")}


def main() -> None:
    """Serve until the machine ends."""
    while not PORT.exists():
        time.sleep(0.1)
    with PORT.open("r+b", buffering=0) as port:
        port.write(b'{"ready": true}\n')
        line = b""
        while True:
            data = port.read(65536)
            if not data:
                time.sleep(0.05)
                continue
            line += data
            if line.endswith(b"\n"):
                request = json.loads(line)
                line = b""
                answer = json.dumps(run(request["script"], request["seconds"])).encode() + b"\n"
                while answer:
                    answer = answer[port.write(answer) :]


if __name__ == "__main__":
    main()
