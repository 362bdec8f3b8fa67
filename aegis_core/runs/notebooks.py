"""Executing a notebook with papermill in a kernel of this Python."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import psutil  # type: ignore[import-untyped]

from aegis_core import errors
from aegis_core.config import Settings
from aegis_core.errors import AegisError, InputError, NotReady, StoreError, StoreVersion
from aegis_core.machine import written_whole
from aegis_core.runs.redaction import Redactor
from aegis_core.store import Store, connect

_TOLD_EVERY_S: Final = 1.0  # an opening of the database costs about 50 ms
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _names(*kinds: type[AegisError]) -> frozenset[str]:
    found = vars(errors).items()
    return frozenset(k for k, v in found if isinstance(v, type) and issubclass(v, kinds))


_EXPECTED: Final = _names(AegisError)
_FINAL: Final = _names(InputError, NotReady, StoreVersion)


class Progress:
    """Tells the ledger, at most once a second, how far a notebook is, and watches its memory.

    Parameters
    ----------
    redactor : Masks secrets in the outputs of each cell, before they are written anywhere.

    Attributes
    ----------
    done : code cells that ended well.
    heading : of the section that is being executed.
    peak_memory_mb : the most memory that the kernel had resident; None before it started.
    """

    def __init__(self, store: Store, run_id: str, redactor: Redactor) -> None:
        self.store = connect(store.path, wait_s=0.2)
        self.run_id, self.redactor = run_id, redactor
        self.n_done = 0
        self.heading: str | None = None
        self.peak_memory_mb: float | None = None
        self._pid: int | None = None
        self._over = threading.Event()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell the ledger for the length of the block."""
        thread = threading.Thread(target=self._tell, daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def started(self, pid: int) -> None:
        """The kernel is a process of this number."""
        self._pid = pid

    def ended(self, cell: dict[str, Any]) -> None:
        """A cell ended; nothing of it is on the disk yet."""
        self._look()
        self.redactor.clean(cell.get("outputs", []))

    def done(self, cell: Mapping[str, Any]) -> None:
        """A cell ended well."""
        injected = "injected-parameters" in cell["metadata"].get("tags", [])
        self.n_done += cell["cell_type"] == "code" and not injected
        if cell["cell_type"] == "markdown":
            lines = cell["source"].splitlines()
            headings = [line.lstrip("# ").strip()[:200] for line in lines if line.startswith("#")]
            self.heading = headings[-1] if headings else self.heading

    def _look(self) -> None:
        if self._pid is not None and (found := _peak_mb(self._pid)) is not None:
            self.peak_memory_mb = max(found, self.peak_memory_mb or 0.0)

    def _tell(self) -> None:
        told: tuple[object, ...] = (0, None, None)
        while not self._over.wait(_TOLD_EVERY_S):
            self._look()
            state = (self.n_done, self.heading, self.peak_memory_mb)
            if state == told:
                continue
            with contextlib.suppress(StoreError), self.store.writing() as session:  # next time
                session.execute(
                    "UPDATE runs SET cells_done = ?, heading = ?, peak_memory_mb = ? "
                    "WHERE run_id = ? AND status = 'running'",
                    [*state, self.run_id],
                )
                told = state


def n_code_cells(notebook: Path) -> int:
    """Number of code cells."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return [cell["cell_type"] for cell in cells].count("code")


def content_hash(notebook: Path) -> str:
    """A short hash of what a notebook says and does: kinds and sources of its cells."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    told = json.dumps([[cell["cell_type"], "".join(cell["source"])] for cell in cells])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def execute(
    notebook: Path,
    executed: Path,
    parameters: Mapping[str, object],
    settings: Settings,
    *,
    watch: Progress,
    deadline: float | None = None,
    bar: str | None = None,
) -> None:
    """Execute a notebook from the top in the folder of `executed`, its copy with outputs.

    Parameters
    ----------
    watch : Told of the kernel and of each cell. What it changes in a cell that ended is what the
        executed notebook holds: nothing is written while a cell runs.
    deadline : On the monotonic clock, in seconds; None: no limit.
    bar : Name of a progress bar on the standard error; None: no bar.

    Raises
    ------
    Exception : Whatever papermill raises when a cell does, the kernel dies or time runs out;
        `explain` tells it.
    """
    import papermill

    with _kernel_log(executed.parent) as log:
        papermill.execute_notebook(
            _braced(notebook),
            _braced(executed),
            parameters=parameters,
            engine_name=_engine(),
            cwd=str(executed.parent),
            progress_bar={"desc": bar, "unit": "cell"} if bar else False,
            watch=watch,
            start_options={"env": _environment(settings), "stderr": log},
            deadline=deadline,
        )


class Failure(NamedTuple):
    """Where a run failed, why as one sentence, and whether a further attempt would fail as well."""

    where: str
    error: str
    final: bool = False


def explain(e: Exception, timeout_s: float | None) -> Failure:
    """What made a run fail."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import PapermillExecutionError

    if isinstance(e, PapermillExecutionError):
        told = " ".join(_ANSI.sub("", str(e.evalue)).split())
        if e.ename not in _EXPECTED:
            told = f"{e.ename}: {told}"
        return Failure(f" in cell In [{e.exec_count}]", _sentence(told), e.ename in _FINAL)
    if isinstance(e, CellTimeoutError):
        return Failure("", f"It took longer than the {timeout_s:g} s it was given.")
    if isinstance(e, DeadKernelError):
        why = "The Python process died; the machine may be out of memory (see kernel.log)."
        return Failure("", why)
    return Failure("", _sentence(f"{type(e).__name__}: {_ANSI.sub('', str(e)).strip()}"))


def _sentence(text: str) -> str:
    text = text[:500]
    return text if text.endswith((".", "!", "?")) else text + "."


@functools.cache
def _engine() -> str:
    """Name of a papermill engine that uses this Python, counts cells and keeps a deadline.

    What papermill writes is whole at any time: reports are read while they are made.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.iorw import LocalHandler, papermill_io

    class Whole(LocalHandler):  # type: ignore[misc]
        def write(self, buf: str, path: str) -> None:
            with written_whole(Path(path)) as fresh:
                fresh.write_text(buf, "utf-8")

    class Client(PapermillNotebookClient):  # type: ignore[misc]
        start_options: dict[str, object]
        watch: Progress
        sockets: str

        def create_kernel_manager(self) -> Any:
            manager = super().create_kernel_manager()
            # without folders to search, the only kernel is the one of sys.executable
            manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
            # a port that is found free may be taken before the kernel has it; and no other user
            # reaches into this folder
            manager.transport, manager.ip = "ipc", self.sockets
            return manager

        def start_new_kernel(self, **kwargs: Any) -> None:
            super().start_new_kernel(**self.start_options, **kwargs)
            self.watch.started(self.km.provisioner.pid)

    class Engine(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(
            cls,
            nb_man: Any,
            kernel_name: str,
            *,
            watch: Progress,
            start_options: dict[str, object],
            deadline: float | None,
            start_timeout: int,
            **_: object,
        ) -> Any:
            def left_s(_: object) -> float | None:
                return None if deadline is None else max(0.1, deadline - time.monotonic())

            start, complete, save = nb_man.cell_start, nb_man.cell_complete, nb_man.save
            nb_man.autosave_cell_every = 0

            @contextlib.contextmanager
            def kept(cell: Any) -> Iterator[None]:
                """Only code changes what is worth writing the whole notebook again."""
                nb_man.save = save if cell.cell_type == "code" else lambda: None
                try:
                    yield
                finally:
                    nb_man.save = save

            def cell_start(cell: Any, *args: Any, **kwargs: Any) -> None:
                with kept(cell):
                    start(cell, *args, **kwargs)

            def cell_complete(cell: Any, *args: Any, **kwargs: Any) -> None:
                watch.ended(cell)
                with kept(cell):
                    complete(cell, *args, **kwargs)
                # papermill calls this for a failed and for an interrupted cell as well
                if cell.metadata.papermill.status == "completed" and sys.exc_info()[0] is None:
                    watch.done(cell)
                else:  # after a failed cell it leaves the others pending, which never ran
                    cell.metadata.papermill.status = "failed"

            nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
            client = Client(
                nb_man, kernel_name="python3", timeout_func=left_s, startup_timeout=start_timeout
            )
            client.start_options, client.watch = start_options, watch
            with tempfile.TemporaryDirectory(prefix="aegis-") as folder:
                client.sockets = os.path.join(folder, "kernel")
                return client.execute()

    papermill_io.register(os.sep, Whole())
    papermill_engines.register("aegis", Engine)
    return "aegis"


def _environment(settings: Settings) -> dict[str, str]:
    """Variables of the kernel: the caller's, with the settings on top.

    Tables of `aegis.toml` are not among them; whoever needs one reads it there.
    """
    plain, values = (str, int, float, Path), settings.model_dump().items()
    fixed = {f"AEGIS_{k.upper()}": str(v) for k, v in values if isinstance(v, plain)}
    if token := settings.token.get_secret_value():
        fixed["AEGIS_TOKEN"] = token
    # figures as JSON only: the report brings plotly.js once
    return {**os.environ, **fixed, "PLOTLY_RENDERER": "plotly_mimetype"}


@contextlib.contextmanager
def _kernel_log(folder: Path) -> Iterator[IO[bytes]]:
    """What the kernel says outside of its cells, such as the last words of a crash."""
    path = folder / "kernel.log"
    with path.open("wb") as log:
        try:
            yield log
        finally:
            if not path.stat().st_size:
                path.unlink()


def _braced(path: Path) -> str:
    """`path` for papermill, which reads braces in a path as a format.

    >>> _braced(Path("a{b}/c.ipynb"))
    'a{{b}}/c.ipynb'
    """
    return str(path).replace("{", "{{").replace("}", "}}")


def _peak_mb(pid: int) -> float | None:
    """The most memory that a process had resident so far, in MB, or else what it has now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    return None
