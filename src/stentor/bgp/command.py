"""The bgp process: ``stentor bgp run CONFIG.yaml``, or without a file one that is configured over its control socket."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

from stentor.bgp.compile import compile_all
from stentor.bgp.config import Config, load
from stentor.bgp.control import Control
from stentor.bgp.errors import BgpError, ConfigError
from stentor.bgp.speaker import Speaker
from stentor.runtime.fault import describe
from stentor.runtime.log import set_up

SOCKET = "/run/stentor/bgp.sock"
BFD_SOCKET = "/run/stentor/bfd.sock"
STATE_DIR = "/run/stentor"

log = logging.getLogger(__name__)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The process's flags."""
    parser = argparse.ArgumentParser(prog="stentor bgp run", description="Speak BGP.")
    parser.add_argument("config", nargs="?", help="YAML file; without it the control socket configures")
    parser.add_argument("--socket", default=SOCKET, help="control socket (default %(default)s)")
    parser.add_argument("--bfd-socket", default=BFD_SOCKET, help="socket of the BFD process (default %(default)s)")
    parser.add_argument("--no-bfd-launch", action="store_true", help="somebody else keeps the BFD process running")
    parser.add_argument(
        "--state-dir", default=STATE_DIR, help="remembers restarts; lost at reboot (default %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--debug", action="store_true", help="log more")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run until SIGTERM, or SIGQUIT to withdraw everything first; SIGHUP reads the configuration again. The exit status."""
    arguments = parse_arguments(argv)
    set_up(debug=arguments.debug)
    try:
        config = load(arguments.config) if arguments.config else Config()
        if arguments.check:
            compile_all(config)
            return 0
        asyncio.run(_run(arguments, config))
    except (BgpError, OSError) as error:
        source = f"{arguments.config}: " if isinstance(error, ConfigError) and arguments.config else ""
        print(f"stentor bgp: {source}{describe(error)}", file=sys.stderr)
        return 1
    return 0


async def _run(arguments: argparse.Namespace, config: Config) -> None:
    loop = asyncio.get_running_loop()
    gc.set_threshold(100_000, 20, 100)
    state, path = Path(arguments.state_dir), arguments.bfd_socket
    speaker = Speaker(loop, state_dir=state, bfd_path=path, launches_bfd=not arguments.no_bfd_launch)
    control = Control(speaker, Path(arguments.socket))
    ended, for_good = asyncio.Event(), asyncio.Event()

    def retire() -> None:
        for_good.set()
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGQUIT, retire)
    loop.add_signal_handler(signal.SIGHUP, _reload, speaker, arguments.config)
    await control.start()
    speaker.apply(config)
    log.info("speaking BGP", extra={"instances": len(config.instances), "socket": arguments.socket})
    try:
        await ended.wait()
    finally:
        control.close()
        if for_good.is_set():
            await speaker.retire()
        speaker.leave()


def _reload(speaker: Speaker, path: str | None) -> None:
    if path is None:
        return
    try:
        speaker.apply(load(path))
        log.info("configuration read again", extra={"path": path})
    except BgpError as error:
        log.error("configuration not applied", extra={"path": path, "reason": str(error)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
