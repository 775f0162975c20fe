"""The address of a server goes in; why it cannot be reached comes out, within seconds and one try.

The libraries that talk to the Hub and to W&B try again for a minute and more before they say so.
"""

import os
import socket
import threading
import urllib.request
from functools import cache
from urllib.parse import urlsplit

SECONDS = 5.0
HUB = "https://huggingface.co"


def hub_address() -> str:
    return os.environ.get("HF_ENDPOINT") or HUB


def hub_options() -> dict[str, bool]:
    """For functions that fetch from the Hub: the cache alone, where the Hub cannot be reached."""
    from huggingface_hub import constants

    silent = not constants.is_offline_mode() and unreachable(hub_address())
    return {"local_files_only": True} if silent else {}


@cache
def unreachable(url: str, seconds: float = SECONDS) -> str:
    """Why no connection to a server (or to the environment's proxy before it) could be opened;
    empty where one was. Asked once in a process."""
    host, port = _first_stop(url)
    reasons: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            reasons.append("")
        except (OSError, ValueError) as error:
            reasons.append(getattr(error, "strerror", None) or str(error))

    # A thread, since nothing bounds the time in which a name is looked up.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return reasons[0] if reasons else f"no answer within {seconds:g} s"


def _first_stop(url: str) -> tuple[str, int]:
    """(host, port) that is connected to first."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
