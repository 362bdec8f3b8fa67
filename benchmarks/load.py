"""The load: single payments by wrk, batches by a plain client; what it found and what it cost.

wrk keeps its connections busy and waits for each answer before it sends the next request on the
same one. Where an answer took twice the usual interval or more it adds the waits that requests sent
meanwhile would have had, so that a pause counts for as long as it lasted.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from servers import HERE, Failed, Server, children_s

NO_WRK = (
    "wrk, which makes the load, is not there. Install it with `apt install wrk` (Debian, Ubuntu) "
    "or `brew install wrk` (macOS)."
)
MIME = {"ndjson": "application/x-ndjson", "json": "application/json"}


@dataclass(frozen=True)
class Singles:
    """What wrk found. Times in ms, processor time in µs a request, None where nothing tells.

    What was still on its way at the end counts nowhere.

    Attributes
    ----------
    answered, not_2xx, lost :
        Requests answered well, answered otherwise, and not at all (connection broken, timeout).
    rate : answered well a second.
    first, next : numbers of the first payment, and of the one after the last that may be sent.
    """

    answered: int
    not_2xx: int
    lost: int
    rate: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    generator_us: float | None
    server_us: float | None
    first: int
    next: int


def wrk() -> str:
    """Where wrk is.

    Raises
    ------
    Failed
        It is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise Failed(NO_WRK)
    return found


def singles(
    server: Server, token: str, payments: Path, prefix: str, first: int, connections: int,
    seconds: float,
) -> Singles:  # fmt: skip
    """Let wrk post payments of the file `payments`, from number `first` on, for some seconds."""
    command = [
        *(wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
        *("-s", str(HERE / "payments.lua"), server.url, "--", str(payments), prefix, str(first)),
    ]
    ours, theirs = children_s(), server.cpu_s()
    done = subprocess.run(
        command, env={**os.environ, "AEGIS_TOKEN": token}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    ours, after = children_s() - ours, server.cpu_s()
    if done.returncode:
        raise Failed(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    served = None if theirs is None or after is None else after - theirs
    return summary(done.stdout, first, ours, served)


def summary(said: str, first: int, generator_s: float, server_s: float | None) -> Singles:
    """The last line of wrk's output, which `payments.lua` writes, in our units.

    >>> found = summary('{"requests":110,"duration_us":2000000,"p50_us":1500,"p90_us":2000,'
    ...     '"p99_us":9000,"max_us":9900,"not_2xx":10,"socket_errors":1,"timeouts":2,"next":150}',
    ...     30, 0.011, None)
    >>> found.answered, found.lost, found.rate, found.p50_ms, round(found.generator_us)
    (100, 3, 50.0, 1.5, 100)
    """
    try:
        told = json.loads(said.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"wrk said nothing that can be read: {said[-500:]!r}") from None
    n = told["requests"]
    answered = n - told["not_2xx"]
    return Singles(
        answered=answered,
        not_2xx=told["not_2xx"],
        lost=told["socket_errors"] + told["timeouts"],
        rate=answered / (told["duration_us"] / 1e6),
        **{f"{p}_ms": told[f"{p}_us"] / 1e3 if n else None for p in ("p50", "p90", "p99", "max")},
        generator_us=generator_s / n * 1e6 if n else None,
        server_us=server_s / n * 1e6 if n and server_s is not None else None,
        first=first,
        next=told["next"],
    )


@dataclass(frozen=True)
class Batches:
    """What the batch client found; times in ms, processor time in µs a row.

    Attributes
    ----------
    answered, refused : rows with a verdict, and without.
    put_off : answers of 429 or 503, after which the same batch was sent again.
    rate : rows with a verdict a second.
    """

    answered: int
    refused: int
    put_off: int
    rate: float
    p50_ms: float
    max_ms: float
    generator_us: float
    server_us: float | None


def batches(
    server: Server, token: str, bodies: list[bytes], rows: int, kind: str, connections: int = 2
) -> Batches:
    """Post batches of `rows` rows each, on so many connections; until the last one is answered.

    Raises
    ------
    Failed
        A batch was refused as a whole.
    """
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for body in bodies:
        waiting.put(body)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": MIME[kind]}
    took: list[float] = []
    verdicts: list[int] = []
    put_off: list[int] = []
    problems: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        try:
            while not problems:
                body = waiting.get_nowait()
                began, status = time.perf_counter(), 429
                while status in (429, 503):
                    connection.request("POST", "/v1/transactions:batch", body, headers)
                    response = connection.getresponse()
                    said, status = response.read(), response.status
                    if status in (429, 503):
                        put_off.append(status)
                        if time.perf_counter() - began > 60:
                            break
                        time.sleep(0.02)
                took.append(time.perf_counter() - began)
                if status != 200:
                    problems.append(f"a batch was answered {status}: {said[:300]!r}")
                verdicts.append(said.count(b'"decision"'))
        except queue.Empty:
            return
        except (OSError, http.client.HTTPException) as e:
            problems.append(f"a batch was not answered: {e!r}")
        finally:
            connection.close()

    clients = [threading.Thread(target=client, daemon=True) for _ in range(connections)]
    ours, theirs, began = time.process_time(), server.cpu_s(), time.perf_counter()
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    seconds = time.perf_counter() - began
    ours, after = time.process_time() - ours, server.cpu_s()
    if problems:
        raise Failed(f"{server.name}: {problems[0]}")
    answered, sent = sum(verdicts), rows * len(bodies)
    return Batches(
        answered=answered,
        refused=sent - answered,
        put_off=len(put_off),
        rate=answered / seconds,
        p50_ms=float(np.median(took)) * 1e3,
        max_ms=max(took) * 1e3,
        generator_us=ours / sent * 1e6,
        server_us=None if theirs is None or after is None else (after - theirs) / sent * 1e6,
    )
