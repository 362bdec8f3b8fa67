"""What runs behind the routes: the engine, its batcher, labels of answers, the meters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from aegis_core.errors import AegisError
from aegis_core.review import answers
from aegis_core.serving.batcher import Batcher, Meters, log
from aegis_core.serving.engine import Engine
from aegis_core.serving.lookups import Lookups
from aegis_core.serving.schemas import as_json
from aegis_core.serving.token import Token


class Problem(BaseModel):
    """Why a request was not done."""

    detail: str


ADMITTED: Final = [Depends(HTTPBearer(auto_error=False))]
"""For the description of a route; `api.Door` asks for the token."""
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": Problem} for code in (400, 401, 403, 413, 415, 422, 429, 503)
}
"""What the description of a route says may go wrong."""
NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {404: {"model": Problem}}
_PENDING: Final = f"""
    SELECT count(*) AS n FROM ({answers.STANDING})
    WHERE held_until IS NOT NULL AND review_id NOT IN (SELECT review_id FROM taught)"""


class Opened(APIRoute):
    """A route that tokens of some roles open; of other requests nothing but the head is read.

    `api.Door` says whose token it is. A route that names no roles opens to nobody.
    """

    roles: tuple[str, ...] = ()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, if its token is of one of the roles."""
        token: Token = scope["user"]
        if token.role in self.roles:
            await super().handle(scope, receive, send)
            return
        needed = " or ".join(self.roles) or "of no role"
        told = f"This token is for {token.role}; what you ask for needs one for {needed}."
        await as_json({"detail": told}, 403)(scope, receive, send)


def opened_to(*roles: str) -> type[Opened]:
    """The routes of a router that tokens of these roles open."""
    return type("Opened", (Opened,), {"roles": roles})


class Service:
    """An engine at work for many requests, as long as the application runs."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.store, self.settings = engine, engine.store, engine.settings
        self.meters = Meters()
        self.batcher = Batcher(engine, self.meters)
        self.lookups = Lookups(engine)
        self._held = asyncio.Event()
        self._held.set()  # what an earlier service left

    @contextlib.asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Commit what comes for the length of the block, and save the state at its end."""
        committing = asyncio.create_task(self.batcher.run())
        beside = [asyncio.create_task(work) for work in (self._publishing(), self.batcher.tell())]
        state = self.engine.state
        log("ready", transactions=state.next_seq, model=state.champion.version)
        yield
        for task in beside:
            task.cancel()
        self.batcher.end()
        await committing
        self.lookups.close()
        with contextlib.suppress(OSError, AegisError):
            await asyncio.to_thread(self.engine.save)
        log("ended", transactions=self.engine.state.next_seq)

    async def do(self, work: Callable[[], Any]) -> Any:
        """The result of `work`, done between two groups; an answer counts from the next one on."""
        return await self.batcher.do(lambda: self.engine.do(work))

    async def work(self, work: Callable[..., Any], *args: Any, **given: Any) -> Any:
        """The result of `work`, which reads beside and writes, by its `keep`, as `do` does."""
        loop = asyncio.get_running_loop()

        def keep(write: Callable[[], Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(self.do(write), loop).result()

        return await self.lookups.read(work, self.store, *args, keep=keep, **given)

    def remind(self) -> None:
        """There is an answer that becomes a label when it can no longer be taken back."""
        self._held.set()

    async def _publishing(self) -> None:
        """Make labels of answers in their time, also of those that an earlier service left."""
        while True:
            await self._held.wait()
            self._held.clear()
            while await self._are_held():
                await asyncio.sleep(1.0)

    async def _are_held(self) -> bool:
        """Publish what is due; whether anything is left for later."""
        try:
            if await asyncio.to_thread(answers.due, self.store):
                await self.do(lambda: answers.publish(self.store))
            (pending,) = await asyncio.to_thread(self.store.rows, _PENDING)
        except (AegisError, OSError) as e:
            log("labels_failed", error=str(e))
            return True
        return bool(pending["n"])


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serves = Annotated[Service, Depends(_service)]
"""What a handler that works for the service asks for."""
