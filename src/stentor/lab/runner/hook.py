"""Actions inside or towards a container: commands of probes and lifecycle hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from stentor.api.pod import Action, Container
from stentor.lab.runner import probe, spawn
from stentor.lab.runner.container import Container as Run
from stentor.lab.runner.context import Context
from stentor.lab.runner.errors import SpawnTimeout, StartFailure
from stentor.lab.runner.probe import Outcome

_OUTPUT_LIMIT: Final = 10_000


async def run_command(context: Context, run: Run, command: Sequence[str], timeout_s: float) -> Outcome:
    """Runs `command` in the container; good when it ends with 0 in time."""
    try:
        options, fds = run.exec_options()
        argv = [str(context.machine.podrun), "exec", *options, "--", *command]
        done = await spawn.run(argv, run.record.env, fds=fds, timeout_s=timeout_s)
    except StartFailure as e:
        return Outcome(False, e.message)
    except SpawnTimeout:
        return Outcome(False, f'command "{" ".join(command)}" timed out')
    except OSError as e:
        return Outcome(False, str(e))
    text = (done.output + done.errors)[:_OUTPUT_LIMIT].decode("utf-8", "replace").strip()
    return Outcome(done.code == 0, text or f"command exited with status {done.code}")


async def run_hook(
    context: Context, container: Container, run: Run, action: Action, host: str, timeout_s: float
) -> Outcome:
    """A postStart or preStop hook, at most `timeout_s` long."""
    try:
        async with asyncio.timeout(timeout_s):
            if action.exec is not None:
                return await run_command(context, run, action.exec.command, timeout_s)
            if action.http_get is not None:
                port = probe.port_number(action.http_get.port, container)
                return await probe.ask_http(context.probes, action.http_get, host, port)
            if action.tcp_socket is not None:
                port = probe.port_number(action.tcp_socket.port, container)
                return await probe.ask_tcp(action.tcp_socket.host or host, port)
            if action.sleep is not None:
                await asyncio.sleep(action.sleep.seconds)
            return Outcome(True)
    except TimeoutError:
        return Outcome(False, f"not finished within {timeout_s:g} s")
    except ValueError as e:
        return Outcome(False, str(e))
