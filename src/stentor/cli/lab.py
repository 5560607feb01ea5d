"""`stentor lab`: clusters, routers and hosts out of namespaces on this machine.

Imports happen in the commands: `stentor --help` must not pay for the lab.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stentor.cli.output import OUTPUT, emit, emit_rows

if TYPE_CHECKING:
    from stentor.lab.control import LabStatus
    from stentor.lab.place import Place
    from stentor.lab.plan import Plan

_NAME = click.option("--name", default="", help="The lab; default: the only one there is.")


class _Group(click.Group):
    """Turns a lab's errors into one clear line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        from stentor.lab.errors import LabError

        try:
            return super().invoke(ctx)
        except LabError as e:
            raise click.ClickException(str(e)) from e
        except PermissionError as e:
            if os.geteuid() == 0:
                raise
            raise click.ClickException("a lab makes namespaces and loads BPF programs: run it as root") from e


@click.group(cls=_Group)
def lab() -> None:
    """Clusters, routers and hosts out of namespaces on this machine.

    \b
    stentor lab up                       one cluster of two nodes
    export KUBECONFIG=$(stentor lab kubeconfig)
    kubectl get nodes
    stentor lab exec node-1 -- ip addr   look into a machine
    stentor lab down                     remove all of it
    """


@lab.command()
@click.argument("topology", required=False, type=click.Path(path_type=Path))
@click.option("--name", default="", help="The lab's name; default: metadata.name of the topology.")
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help="A Helm value for every cluster; repeatable.")
@click.option("--retain", is_flag=True, help="Keep the lab for inspection when it does not become ready.")
@click.option("--timeout", "timeout_s", default=120.0, show_default=True, help="Seconds to wait until it is ready.")
@click.option("--die-with-fd", "leash", type=int, help="Remove the lab when the other end of this descriptor closes.")
def up(
    topology: Path | None, name: str, settings: Sequence[str], retain: bool, timeout_s: float, leash: int | None
) -> None:
    """Create a lab, start it, and wait until it is ready.

    Without TOPOLOGY: one cluster `default` of nodes node-1 and node-2 on one dual-stack network.
    """
    from stentor.lab import guard
    from stentor.lab.place import Place

    began = time.monotonic()
    plan = _plan(topology, name, settings)
    place = Place(plan.name)
    events = guard.launch(plan, place, leash=leash)
    try:
        problem = _follow(events, began, timeout_s)
    except KeyboardInterrupt:
        place.remove()
        raise click.ClickException("interrupted; everything is removed") from None
    if problem is None:
        click.echo(f"lab {plan.name} is ready ({time.monotonic() - began:.1f} s)")
        if plan.clusters:
            click.echo(f"  export KUBECONFIG={place.kubeconfig}")
        return
    if problem == _NO_WORD:
        problem = f"{problem}; its log ends with: {place.last_words() or 'nothing'}"
    if retain:
        hint = f"it is kept: `stentor lab status --name {plan.name}`, logs below {place.directory}"
    else:
        place.remove()
        hint = "everything is removed; --retain keeps it for inspection"
    raise click.ClickException(f"{problem}\n{hint}")


def _plan(topology: Path | None, name: str, settings: Sequence[str]) -> Plan:
    from stentor.lab import resolution
    from stentor.lab import topology as files
    from stentor.lab.errors import TopologyError

    try:
        parsed = files.load(topology) if topology else files.parse(files.DEFAULT)
        base = topology.parent if topology else None
        return resolution.resolve(parsed, name=name, settings=settings, base=base)
    except TopologyError as e:
        source = f"{topology}: " if topology else ""
        lines = [f"{path}: {problem}" if path else problem for path, problem in e.problems]
        raise click.ClickException("\n       ".join(f"{source}{line}" for line in lines)) from e


_NO_WORD = "the lab has died while it was starting"


def _follow(events: int, began: float, timeout_s: float) -> str | None:
    """Prints progress; None when ready, else what went wrong."""
    from stentor.lab import progress

    last = "nothing has started"
    for event in progress.listen(events, timeout_s):
        match event.kind:
            case progress.Kind.READY:
                return None
            case progress.Kind.FAILED:
                return event.text
        last = event.text
        click.echo(f"  {time.monotonic() - began:5.2f} s  {event.text}")
    if time.monotonic() - began < timeout_s:
        return _NO_WORD
    return f"the lab has not become ready in {timeout_s:g} s; the last step was: {last}"


@lab.command()
@_NAME
@click.option("--all", "all_labs", is_flag=True, help="Every lab of this machine.")
def down(name: str, all_labs: bool) -> None:
    """Remove a lab and everything it made, whatever state it is in. Nothing to remove is no error."""
    from stentor.lab import place as places

    if all_labs and name:
        raise click.UsageError("--all and --name exclude each other")
    known = places.names()
    if all_labs or not (name or known):
        chosen = known
    else:
        chosen = [name] if name else [places.find().name]
    for each in chosen:
        click.echo(f"lab {each} is removed" if places.Place(each).remove() else f"there is no lab {each}")
    if not chosen:
        click.echo("there is no lab")


@lab.command("list")
@OUTPUT
def list_labs(output: str) -> None:
    """The labs of this machine, dead ones too."""
    from stentor.lab import place as places
    from stentor.lab.errors import LabError

    rows = []
    for name in places.names():
        place = places.Place(name)
        try:
            status = _status(place)
            state, machines = ("Ready" if status.ready else "Starting"), len(status.machines)
        except LabError:
            state, machines = "Dead", 0
        rows.append({"name": name, "state": state, "machines": machines, "directory": str(place.directory)})
    _print(rows, output, ("name", "state", "machines", "directory"))


@lab.command()
@_NAME
@OUTPUT
def status(name: str, output: str) -> None:
    """Machines and components of a lab, and the faults in force. Exit code 0 only if everything runs."""
    import msgspec

    from stentor.lab import place as places

    found = _status(places.find(name))
    running = all(p.state == "Running" for m in found.machines for p in m.processes)
    running = running and all(m.state == "Running" for m in found.machines)
    if output != "table":
        _print(msgspec.to_builtins(found), output, ())
    else:
        words = "not ready" if not found.ready else "ready" if running else "ready, but not everything runs"
        click.echo(f"lab {found.name}: {words}")
        _print(
            list(_status_rows(found)),
            output,
            ("machine", "cluster", "addresses", "state", "component", "pid", "starts"),
        )
    if not (found.ready and running):
        sys.exit(1)


def _status(place: Place) -> LabStatus:
    from stentor.lab import control

    found = control.ask(place, control.Status(), deadline_s=10.0)[0].status
    assert found is not None
    return found


def _status_rows(found: LabStatus) -> Iterable[dict[str, str]]:
    for machine in found.machines:
        state = ", ".join((machine.state, *machine.faults))
        beside = [word for word in (machine.state, *machine.faults) if word != "Running"]
        head = {"machine": machine.name, "cluster": machine.cluster or "-", "addresses": ",".join(machine.addresses)}
        if not machine.processes:
            yield head | {"state": state, "component": "-", "pid": "-", "starts": "-"}
        for process in machine.processes:
            own = ", ".join(dict.fromkeys((process.state, *beside)))
            pid = str(process.pid or "-")
            yield head | {"state": own, "component": process.name, "pid": pid, "starts": str(process.starts)}
            head = dict.fromkeys(head, "")


@lab.command()
@_NAME
@click.option("--cluster", default="", help="A file whose current context is this cluster.")
def kubeconfig(name: str, cluster: str) -> None:
    """Print the path of a kubeconfig. Its contexts are the clusters' names."""
    from stentor.lab import place as places
    from stentor.lab.errors import NotThereError

    place = places.find(name)
    path = place.cluster(cluster) / "kubeconfig" if cluster else place.kubeconfig
    if not path.exists():
        clusters = ", ".join(sorted(p.name for p in place.directory.glob("clusters/*"))) or "none"
        raise NotThereError(
            f"lab {place.name} has no cluster{f' {cluster!r}' if cluster else ''} (there are: {clusters})"
        )
    click.echo(path)


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_NAME
@click.argument("machine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def execute(name: str, machine: str, command: Sequence[str]) -> None:
    """Run COMMAND in a machine. It has its network, files, processes and cgroup. The exit code is the command's.

    \b
    stentor lab exec tor1 -- birdc -s /tmp/bird.ctl show protocols
    """
    from stentor.lab import entry
    from stentor.lab import place as places

    argv = list(command[1:] if command[0] == "--" else command)
    if not argv:
        raise click.UsageError("a command is missing: stentor lab exec MACHINE -- COMMAND")
    sys.exit(entry.execute(places.find(name), machine, argv))


def _act(verb: str, name: str, targets: Sequence[str]) -> None:
    from stentor.lab import control
    from stentor.lab import place as places

    place = places.find(name)
    done = {"stop": "stopped", "start": "started", "restart": "restarted", "kill": "killed"}[verb]
    for target in targets:
        reply, _ = control.ask(place, control.Act(verb, target))
        for each in reply.text:
            click.echo(f"{each} {done}")


_TARGETS = click.argument("targets", nargs=-1, required=True, metavar="MACHINE[/COMPONENT]|CLUSTER/COMPONENT...")


@lab.command()
@_NAME
@_TARGETS
def stop(name: str, targets: Sequence[str]) -> None:
    """End a component or a whole machine. It stays down until `start`."""
    _act("stop", name, targets)


@lab.command()
@_NAME
@_TARGETS
def start(name: str, targets: Sequence[str]) -> None:
    """Start what was stopped."""
    _act("start", name, targets)


@lab.command()
@_NAME
@_TARGETS
def restart(name: str, targets: Sequence[str]) -> None:
    """End and start a component or a whole machine. A reboot keeps its disk and nothing else."""
    _act("restart", name, targets)


@lab.command()
@_NAME
@_TARGETS
def kill(name: str, targets: Sequence[str]) -> None:
    """Kill a component or a whole machine.

    A component gets SIGKILL and is started again, as kubelet does. A machine loses its power and stays off.
    """
    _act("kill", name, targets)


@lab.command()
@_NAME
@click.argument("target", metavar="NETWORK[/MACHINE]")
@click.argument("fault", type=click.Choice(["down", "up", "loss", "rate", "clear"]))
@click.argument("amount", required=False)
def link(name: str, target: str, fault: str, amount: str | None) -> None:
    """Make a network, or a machine's wire to it, fail.

    \b
    down, up     take carrier away; `up` returns when traffic can flow again
    loss P       drop P percent of the frames towards the machine
    rate R       limit the frames towards the machine, in bit/s: 10mbit, 1gbit
    clear        all of that is over
    """
    from stentor.lab import control
    from stentor.lab import place as places

    value = _amount(fault, amount)
    control.ask(places.find(name), control.Link(target, fault, value))
    click.echo(f"{target}: {fault}{f' {amount}' if amount else ''}")


_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "bit": 1.0}


def _amount(fault: str, amount: str | None) -> float:
    """The number that the fault needs: percent, or bits a second."""
    if fault not in ("loss", "rate"):
        if amount is not None:
            raise click.UsageError(f"{fault} takes no amount")
        return 0.0
    if amount is None:
        raise click.UsageError(f"{fault} needs an amount: loss 10, rate 10mbit")
    text, factor = amount.lower().removesuffix("%"), 1.0
    if fault == "rate":
        unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
        text, factor = text.removesuffix(unit), _UNITS.get(unit, 1.0)
    try:
        value = float(text) * factor
    except ValueError:
        raise click.UsageError(f"{amount!r} is no amount for {fault}: loss 10, rate 10mbit") from None
    if fault == "loss" and not 0 <= value <= 100:
        raise click.UsageError(f"loss {amount}: from 0 to 100 percent")
    if fault == "rate" and not 8000 <= value <= 1e12:
        raise click.UsageError(f"rate {amount}: from 8kbit to 1000gbit")
    return value


@lab.command()
def schema() -> None:
    """Print the JSON schema of a topology file."""
    from stentor.lab import topology

    click.echo(topology.schema())


@lab.command()
@click.argument("topology", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Choice(["text", "dot"]), default="text", show_default=True)
def graph(topology: Path | None, output: str) -> None:
    """Draw a topology: networks, and the machines on them."""
    from stentor.lab import picture

    plan = _plan(topology, "", ())
    click.echo(picture.dot(plan) if output == "dot" else picture.text(plan), nl=False)


def _print(data: Any, output: str, columns: Sequence[str]) -> None:
    """A document, or of a list of objects a table of these keys."""
    if output == "table":
        emit_rows([column.upper() for column in columns], [[row[column] for column in columns] for row in data], output)
    else:
        emit(data, output)
