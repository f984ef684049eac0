"""The frontend's process: settings, listeners, health, metrics and drain.

Environment: AX_SERVING (contract.ServingOptions), and for other places than a pod's: AX_STORE, AX_TRITON_PORTS,
AX_FRONTEND_PORTS (`http,metrics`), AX_HOST, AX_DRAIN_GRACE (seconds during which a stopping pod still takes
requests while the gateway forgets it) and AX_DRAIN_SECONDS (how long streams may then go on).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from jinja2 import TemplateSyntaxError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from ax_engines.contract import (
    CHAT_TEMPLATE,
    FRONTEND_PORT,
    MANIFEST,
    METRICS_PORT,
    SERVING_ENV,
    STORE_MOUNT,
    Manifest,
    ServingOptions,
)
from ax_engines.openai.content import wants_parts
from ax_engines.openai.errors import ApiError, of_status
from ax_engines.openai.handlers import Handlers, json_response
from ax_engines.openai.metrics import Metrics
from ax_engines.openai.model import ServedModel
from ax_engines.openai.template import ChatTemplate
from ax_engines.openai.tools import PARSERS
from ax_engines.openai.upstream import LOADING, Upstream
from ax_engines.triton.repository import Ports

log = logging.getLogger("ax_engines.openai")
MAX_BODY = 10 * 1024**2
MAX_BODY_WITH_IMAGES = 32 * 1024**2
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the frontend listens and how it leaves."""

    model: ServedModel
    triton: Ports
    host: str = "0.0.0.0"  # noqa: S104  a pod's address; only the gateway may reach it
    http_port: int = FRONTEND_PORT
    metrics_port: int = METRICS_PORT
    drain_grace: float = 5.0
    drain_seconds: float = 600.0


class Frontend:
    """The running server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._max_body = MAX_BODY_WITH_IMAGES if settings.model.sees else MAX_BODY
        self._metrics = Metrics()
        self._upstream = Upstream(f"127.0.0.1:{settings.triton.grpc}")
        self._session: ClientSession | None = None
        self._draining = False
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain and return."""
        settings = self._settings
        self._session = ClientSession(timeout=ClientTimeout(total=5))
        api, metrics = self._runner(self._api()), self._runner(self._metrics_app())
        await api.setup()
        await metrics.setup()
        site = web.TCPSite(api, settings.host, settings.http_port, backlog=1024, reuse_address=True)
        await site.start()
        await web.TCPSite(metrics, settings.host, settings.metrics_port, reuse_address=True).start()
        log.info("Started frontend: model=%s port=%d", settings.model.options.model, settings.http_port)
        try:
            await stop.wait()
            self._draining = True
            self._metrics.draining.set(1)
            log.info("Began to drain: open=%d", self._open)
            await asyncio.sleep(settings.drain_grace)
            await site.stop()
            try:
                await asyncio.wait_for(self._idle.wait(), settings.drain_seconds)
            except TimeoutError:
                log.warning("Cut off requests that outlasted the drain: open=%d", self._open)
        finally:
            await api.cleanup()
            await metrics.cleanup()
            await self._upstream.close()
            await self._session.close()
        log.info("Stopped frontend")

    def _runner(self, app: web.Application) -> web.AppRunner:
        return web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)

    def _api(self) -> web.Application:
        handlers = Handlers(self._settings.model, self._upstream, self._metrics)
        app = web.Application(client_max_size=self._max_body, middlewares=[self._errors])
        app.router.add_post("/v1/chat/completions", self._counted("chat", handlers.chat))
        app.router.add_post("/v1/completions", self._counted("completions", handlers.completion))
        app.router.add_post("/tokenize", self._counted("tokenize", handlers.tokenize))
        app.router.add_get("/v1/models", handlers.models)
        app.router.add_get("/v1/models/{name:.+}", handlers.one_model)
        app.router.add_get("/openapi.json", handlers.document)
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._is_ready)
        return app

    def _metrics_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._show_metrics)
        return app

    def _counted(self, endpoint: str, handler: Handler) -> Handler:
        """Count requests by status, and know when the last one has ended."""

        async def counted(request: web.Request) -> web.StreamResponse:
            status = 499  # what remains when the client leaves
            self._open += 1
            self._idle.clear()
            self._metrics.open.set(self._open)
            try:
                if not self._upstream.ready:
                    raise ApiError.of_engine(LOADING)
                response = await handler(request)
                status = response.status
                return response
            except ApiError as error:
                status = error.status
                raise
            except web.HTTPException as error:
                status = error.status
                raise
            except Exception:
                status = 500
                raise
            finally:
                self._open -= 1
                self._metrics.open.set(self._open)
                self._metrics.requests.labels(endpoint, str(status)).inc()
                if not self._open:
                    self._idle.set()

        return counted

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give every error the OpenAI API's shape."""
        try:
            return await handler(request)
        except ApiError as error:
            failure = error
        except web.HTTPRequestEntityTooLarge:
            failure = ApiError(413, f"The body is larger than {self._max_body} bytes.", code="body_too_large")
        except web.HTTPNotFound:
            failure = ApiError(404, f"There is no {request.method} {request.path}.", code="unknown_url")
        except web.HTTPMethodNotAllowed as error:
            allow = ", ".join(sorted(error.allowed_methods))
            message = f"{request.path} does not know {request.method}; use {allow}."
            failure = ApiError(405, message, code="method_not_allowed", allow=allow)
        except web.HTTPException as error:
            failure = of_status(error.status)
        except UnicodeEncodeError:
            failure = ApiError(400, "The body holds half of a surrogate pair.", code="invalid_json")
        except Exception:
            log.exception("Request failed: path=%s", request.path)
            failure = ApiError(500, "The frontend failed; see its log.", code="internal_error")
        return web.Response(
            body=failure.body(),
            status=failure.status,
            headers=dict(failure.headers()),
            content_type="application/json",
        )

    async def _live(self, _: web.Request) -> web.Response:
        return json_response({"status": "live"})

    async def _is_ready(self, _: web.Request) -> web.Response:
        state = "draining" if self._draining else "ready" if self._upstream.ready else "loading"
        return json_response({"status": state}, 200 if state == "ready" else 503)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        assert self._session is not None  # noqa: S101  set before the listener is
        pages = [generate_latest(self._metrics.registry)]
        try:
            async with self._session.get(f"http://127.0.0.1:{self._settings.triton.metrics}/metrics") as page:
                pages.append(await page.read())
        except (ClientError, TimeoutError):
            log.debug("Triton's metrics were not reachable")
        return web.Response(body=b"".join(pages), headers={"Content-Type": CONTENT_TYPE_LATEST})


def load_model(options: ServingOptions, folder: Path) -> ServedModel:
    """Read what the frontend needs of an artifact; raises OSError, ValueError or TemplateSyntaxError."""
    manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
    if options.tool_parser and options.tool_parser not in PARSERS:
        raise ValueError(f"toolParser {options.tool_parser!r} is unknown; use one of {', '.join(PARSERS)}")
    source = options.chat_template
    if source is None and (folder / CHAT_TEMPLATE).exists():
        source = (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    chat = manifest.chat
    template = ChatTemplate(source, chat.bos_token, chat.eos_token) if source is not None else None
    return ServedModel(options, manifest, template, wants_parts(template))


def read_settings(environment: dict[str, str]) -> Settings:
    """Return the settings; raises OSError, ValueError or TemplateSyntaxError with what to change."""
    text = environment.get(SERVING_ENV)
    if not text:
        raise ValueError(f"the environment variable {SERVING_ENV} is missing; the operator sets it")
    options = ServingOptions.from_json(text)
    folder = Path(environment.get("AX_STORE", STORE_MOUNT)) / options.engine
    default = f"{FRONTEND_PORT},{METRICS_PORT}"
    http, metrics = (int(port) for port in environment.get("AX_FRONTEND_PORTS", default).split(","))
    return Settings(
        model=load_model(options, folder),
        triton=Ports.parse(environment.get("AX_TRITON_PORTS", "")),
        host=environment.get("AX_HOST", "0.0.0.0"),  # noqa: S104  as above
        http_port=http,
        metrics_port=metrics,
        drain_grace=float(environment.get("AX_DRAIN_GRACE", "5")),
        drain_seconds=float(environment.get("AX_DRAIN_SECONDS", "600")),
    )


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Frontend(settings).run(stop)


def main(argv: list[str]) -> int:
    """Run the frontend; returns 1, after one sentence on stderr, when it cannot start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if argv:
        print("The frontend takes no arguments; it reads AX_SERVING.", file=sys.stderr)
        return 2
    try:
        settings = read_settings(dict(os.environ))
    except (OSError, ValueError, ValidationError, TemplateSyntaxError) as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    asyncio.run(serve(settings))
    return 0
