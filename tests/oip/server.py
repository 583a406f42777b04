"""Inference servers of this machine: Triton and KServe, with a model as `cxrnode model export` writes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tests.peers import REPOSITORY, absent, unused_port, wait_until

_MODEL = Path(__file__).with_name("model.py")
_KSERVE_MODEL = Path(__file__).with_name("kserve_model.py")


def _installed() -> Path:
    """The Python of .oip; the test is skipped by name, or fails, without it."""
    python = REPOSITORY / ".oip" / "bin" / "python"
    if not python.exists():
        absent("Triton and KServe are not installed: make tools", "CXRNODE_REQUIRE_PEERS")
    return python


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class KServe:
    """KServe's model server with one model, `tiny`. `stop` and `start` again keep its port."""

    def __init__(self, graph: Path) -> None:
        self.graph = graph
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._python = _installed()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.graph.parent / "kserve.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, _KSERVE_MODEL, str(self.port), "tiny", str(self.graph)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(self.graph.parent)},
                start_new_session=True,
            )
        wait_until(lambda: _ready(self.url), seconds=120, what="KServe", process=self._process)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None


class Triton:
    """The server. `stop` and `start` again keep its port; `pause` makes it say nothing."""

    def __init__(self, repository: Path) -> None:
        python = _installed()
        found = sorted((REPOSITORY / ".oip" / "lib").glob("python3.*/site-packages"))
        self.repository = repository
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._metrics_port = unused_port()
        self._libraries = found[0]
        asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
        self._libpython = subprocess.run(
            [python, "-c", asked], capture_output=True, text=True, check=True
        ).stdout.strip()
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, folder: Path) -> None:
        """Let an exported model run in the Python backend; the rest of its configuration stays as it was written."""
        config = (folder / "config.pbtxt").read_text()
        changed = re.sub(r'platform: "onnxruntime_onnx"', 'backend: "python"', config)
        assert changed != config
        (folder / "config.pbtxt").write_text(changed)
        shutil.copy(_MODEL, folder / "1" / "model.py")

    def start(self) -> None:
        home = self._libraries / "pytriton" / "tritonserver"
        environment = {
            "PATH": f"{REPOSITORY / '.oip' / 'bin'}:/usr/bin:/bin",
            "LD_LIBRARY_PATH": self._libpython,
            "PYTHONPATH": str(self._libraries),
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.repository.parent),  # it keeps a folder there, which is no model
        }
        log = (self.repository.parent / "triton.log").open("ab")
        self._process = subprocess.Popen(
            [
                home / "bin" / "tritonserver",
                f"--model-repository={self.repository}",
                f"--backend-directory={home / 'backends'}",
                f"--http-port={self.port}",
                "--http-address=127.0.0.1",
                "--reuse-http-port=true",  # it starts again where connections of the one before linger
                "--allow-grpc=false",
                f"--metrics-port={self._metrics_port}",
                "--metrics-address=127.0.0.1",
                "--allow-cpu-metrics=false",
                "--allow-gpu-metrics=false",
                "--exit-timeout-secs=3",
                "--model-control-mode=explicit",
                "--load-model=*",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        log.close()
        wait_until(lambda: _ready(self.url), seconds=120, what="Triton", process=self._process)

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill it, with the processes of its Python backend."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def fault(self, model: str, said: str) -> None:
        """What is to be wrong from now on; "" for nothing."""
        (self.repository / model / "1" / "fault").write_text(said)

    def waiting(self, model: str) -> int:
        """How many requests wait for the batch after the one that is read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10) as answer:
            said = answer.read().decode()
        told = re.search(rf'^nv_inference_pending_request_count{{model="{model}",.*}} (\d+)', said, re.MULTILINE)
        assert told is not None, "Triton does not say how many requests wait"
        return int(told[1])

    def batches(self, model: str) -> list[tuple[int, int]]:
        """Of each batch that was read: requests in it, and films."""
        path = self.repository / model / "1" / "batches"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(one.split()[0]), int(one.split()[1])) for one in lines]
