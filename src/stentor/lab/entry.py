"""`lab exec`: the command itself enters a machine, so that terminal, signals and exit code are its own.

The parent stays outside as the shell's child; only its children are in the lab's PID namespace. Nothing is relayed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

from stentor.lab import control
from stentor.lab.machine import enter
from stentor.lab.place import Place
from stentor.lab.zygote import search_path
from stentor.sys import cgroup
from stentor.sys.namespace import Kind, setns
from stentor.sys.process import die_with_parent, exit_code

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)  # without job control the child gets these from the terminal as well


def execute(place: Place, machine: str, argv: list[str]) -> int:
    """Runs argv in the machine; its exit code, 128 + signal, 127 when there is no such program, 126 if it cannot run."""
    _, fds = control.ask(place, control.Enter(machine))
    group, pid_namespace, *namespaces = fds
    setns(pid_namespace, Kind.PID)
    directory = os.getcwd()
    terminal = _terminal()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(group, namespaces, directory, terminal, argv)

    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    for number in _FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    return exit_code(_wait(child, terminal))


def _terminal() -> int | None:
    """The descriptor of the terminal if this command is in its foreground."""
    with contextlib.suppress(OSError):
        if os.tcgetpgrp(0) == os.getpgrp():
            return 0
    return None


def _wait(child: int, terminal: int | None) -> int:
    """The child's end. When it is stopped (Ctrl-Z) this command stops too, and both go on together, as one job."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # taking the terminal back is done from the background
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if terminal is not None:
            os.tcsetpgrp(terminal, os.getpgrp())
        if not os.WIFSTOPPED(status):
            return status
        os.kill(os.getpid(), signal.SIGSTOP)
        if terminal is not None:
            os.tcsetpgrp(terminal, child)
        os.kill(child, signal.SIGCONT)


def _become(group: int, namespaces: list[int], directory: str, terminal: int | None, argv: list[str]) -> None:
    """The child. Does not return."""
    status = 126
    try:
        die_with_parent()
        if (
            terminal is not None
        ):  # a group of its own: a shell cannot control jobs in one from outside its PID namespace
            os.setpgid(0, 0)
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(terminal, os.getpgrp())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        cgroup.join(group)
        enter(namespaces)
        os.chdir(directory if os.path.isdir(directory) else "/")
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.environ["PATH"] = search_path()
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        print(f"{argv[0]}: no such program in the machine", file=sys.stderr)
        status = 127
    except OSError as e:
        print(f"{argv[0]}: {e.strerror}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)
