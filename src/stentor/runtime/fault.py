"""What the system refused, in words for people."""

from __future__ import annotations

import os
import ssl


def describe(error: BaseException) -> str:
    """Why a call failed, in the kernel's words: those of Python, asyncio and aiohttp are empty, or name their objects."""
    origin = getattr(error, "os_error", error)  # of aiohttp.ClientConnectorError
    if isinstance(origin, TimeoutError) and not origin.errno:
        text = "timed out"
    elif isinstance(origin, OSError) and not isinstance(origin, ssl.SSLError) and origin.errno and origin.errno > 0:
        text = os.strerror(origin.errno)
        text = f"{origin.filename}: {text}" if origin.filename else text
    else:
        text = str(origin) or type(origin).__name__
    host = getattr(error, "host", None)
    return f"cannot connect to {host}:{getattr(error, 'port', '')}: {text}" if host else text
