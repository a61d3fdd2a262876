"""A few read-only pages over HTTP, on loopback unless said otherwise: /metrics, /healthz, /readyz. Standard library; imported only where it is wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from fog_common.errors import ConfigError

PATIENCE_S: Final = 10.0
"""A reader that sends or takes nothing for so long is let go."""
TEXT: Final = "text/plain; charset=utf-8"


class Page(NamedTuple):
    status: int
    body: bytes
    content_type: str = TEXT


class Pages:
    """Serves from the moment it is made. pages: path -> what makes the page, called on a thread of the request."""

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Page]], key: str) -> None:
        """port: 0 takes a free one, see `port`. key: of the configuration, for the ConfigError if the port cannot be had."""

        class Handler(BaseHTTPRequestHandler):
            timeout = PATIENCE_S
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(True)

            def do_HEAD(self) -> None:
                self._answer(False)

            def _answer(self, whole: bool) -> None:
                make = pages.get(self.path.split("?", 1)[0])
                page = Page(404, f"there are {', '.join(pages)}\n".encode()) if make is None else make()
                self.send_response(page.status)
                self.send_header("Content-Type", page.content_type)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                if whole:
                    self.wfile.write(page.body)

            def version_string(self) -> str:
                return "foglearn"

            def log_message(self, format: str, *arguments: Any) -> None:
                """Do not log scrapes."""

        try:
            self._server = _Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{key}: cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}; choose another port") from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="pages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away in the middle of a page is not an error."""
