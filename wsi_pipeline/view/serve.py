"""The page's server -> a socket that a browser can reach."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.view.guard import LOOPBACK, Guard

if TYPE_CHECKING:
    from starlette.applications import Starlette

TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """Where the page is served.

    Attributes
    ----------
    host : str
        Address to listen on. Any but that of the loopback is open to others, who then need the
        token.
    port : int
        0 takes a free one.
    names : tuple of str
        Further names that the machine is known by.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()


def serve(app: Starlette, options: ViewOptions, tell: Callable[[str], None]) -> None:
    """Serve an application until it is interrupted.

    Parameters
    ----------
    app : Starlette
        From :func:`~wsi_pipeline.view.app.make_app`.
    options : ViewOptions
        Where.
    tell : callable
        Is told the address to open, once it can be opened.

    Raises
    ------
    ConfigError
        If the address cannot be listened on.
    """
    with _listen(options) as listening:
        port = listening.getsockname()[1]
        token = None if options.host in LOOPBACK else secrets.token_urlsafe(TOKEN_BYTES)
        hosts = (*LOOPBACK, *options.names, options.host)
        shown = options.names[0] if options.names else _shown(options.host)
        guarded = Guard(app, hosts if token is None else (*hosts, *_own_names()), token)
        tell(f"http://{shown}:{port}/" + ("" if token is None else f"?token={token}"))
        config = uvicorn.Config(
            guarded,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listen(options: ViewOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((options.host, options.port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"{options.host} port {options.port} cannot be listened on ({error}); choose another "
            "--port, or 0 for a free one"
        ) from error
    return listening


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _own_names() -> tuple[str, ...]:
    """Return the names that other machines call this one by."""
    name = socket.gethostname()
    return (name, name.partition(".")[0], socket.getfqdn())
