"""Asks a web server a hundred times a second over new connections, and tells who answered and when nobody did.

stentor lab exec client -- python3 - 203.0.113.1 --seconds 10 < examples/bgp-lab/probe.py

Every request is a connection of its own: routers and nodes choose its way anew. A request without an answer after 0.4 s
(--limit) has failed. With --json every request is a line, with CLOCK_MONOTONIC in seconds:
{"start": 1234.5, "ms": 1.2, "by": "pod", "error": ""}
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import sys
import time
from typing import TypedDict


class Result(TypedDict):
    """One request; `by` is empty when it failed."""

    start: float
    ms: float
    by: str
    error: str


async def ask(host: str, port: int, limit_s: float) -> Result:
    """One request over a connection of its own."""
    start, by, error = time.monotonic(), "", ""
    writer = None
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(host, port)
            name = f"[{host}]" if ":" in host else host
            writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            _, _, body = (await reader.read()).partition(b"\r\n\r\n")
            by = str(json.loads(body)["pod"])
    except TimeoutError:
        error = "no answer"
    except OSError as e:
        error = e.strerror or str(e)
    except (ValueError, KeyError):
        error = "answer cut off"
    finally:
        if writer is not None:
            writer.transport.abort()
    return {"start": start, "ms": (time.monotonic() - start) * 1000, "by": by, "error": error}


async def probe(options: argparse.Namespace, interval_s: float) -> list[Result]:
    """Requests at fixed times, however long answers take."""
    results: list[Result] = []
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        results.append(await ask(options.host, options.port, options.limit))
        if options.json:
            print(json.dumps(results[-1]), flush=True)

    began = time.monotonic()
    for number in range(int(options.seconds / interval_s)):
        await asyncio.sleep(max(0.0, began + number * interval_s - time.monotonic()))
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return sorted(results, key=lambda each: each["start"])


def summary(results: list[Result], interval_s: float) -> str:
    """Who answered how often, and each spell without answers: from the first request that failed to the last."""
    by = collections.Counter(each["by"] for each in results if each["by"])
    lines = [f"{len(results)} requests, {sum(by.values())} answered"]
    lines += [f"  {count:6} by {name}" for name, count in sorted(by.items())]
    for spell in spells(results):
        began_s, lasted_ms = spell[0]["start"] - results[0]["start"], (spell[-1]["start"] - spell[0]["start"]) * 1000
        errors = ", ".join(sorted({each["error"] for each in spell}))
        lines.append(
            f"  {len(spell):6} failed after {began_s:.1f} s within {lasted_ms + interval_s * 1000:.0f} ms: {errors}"
        )
    return "\n".join(lines)


def spells(results: list[Result]) -> list[list[Result]]:
    """Failed requests; what is more than a second apart has another cause."""
    found: list[list[Result]] = []
    for each in results:
        if each["error"]:
            if not found or each["start"] - found[-1][-1]["start"] > 1:
                found.append([])
            found[-1].append(each)
    return found


def main() -> int:
    """0 when every request was answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", help="address of the server")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--interval-ms", type=float, default=10.0)
    parser.add_argument("--limit", type=float, default=0.4, help="seconds until a request has failed")
    parser.add_argument("--json", action="store_true", help="a line for every request instead of a summary")
    options = parser.parse_args()
    interval_s = options.interval_ms / 1000
    results = asyncio.run(probe(options, interval_s))
    if not options.json:
        print(summary(results, interval_s))
    return 1 if any(each["error"] for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
