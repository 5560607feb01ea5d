"""``stentor``: one program for every component and every question. Subcommands are imported when they are used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Final, NamedTuple

import click


class Entry(NamedTuple):
    """Where a subcommand lives, and its line in the overview."""

    module: str
    attribute: str
    text: str


COMMANDS: Final[dict[str, dict[str, Entry]]] = {
    "Look at a cluster": {
        "status": Entry("status", "status", "Is networking healthy, and if not, why?"),
        "endpoint": Entry("inspect", "endpoint", "Pods' endpoints of the nodes"),
        "identity": Entry("inspect", "identity", "Security identities and their labels"),
        "node": Entry("inspect", "node", "Nodes, their addresses and pod CIDRs"),
        "service": Entry("service", "service", "Services as nodes balance them"),
        "lb": Entry("lb", "lb", "Pools of addresses for services, and who has which"),
        "ip": Entry("inspect", "ip", "The ipcache: identity and node of every address"),
        "bpf": Entry("inspect", "bpf", "What is in the kernel's maps"),
        "metrics": Entry("inspect", "metrics", "Metrics of an agent"),
        "config": Entry("inspect", "config", "Configuration that an agent runs with"),
        "table": Entry("inspect", "table", "Any table of an agent"),
    },
    "Run components": {
        "agent": Entry("component", "agent", "Networking of one node"),
        "operator": Entry("component", "operator", "Cluster-wide control"),
        "dns": Entry("component", "dns", "Cluster DNS"),
        "apiserver": Entry("component", "apiserver", "A small Kubernetes API server for lab and edge"),
        "bfd": Entry("bfd", "bfd", "Detect neighbours' failures in milliseconds"),
        "bgp": Entry("bgp", "bgp", "Speak BGP, and look at what a speaker does"),
    },
    "Build and generate": {
        "lab": Entry("lab", "lab", "Clusters, routers and hosts out of namespaces"),
        "crd": Entry("generate", "crd", "Print the CustomResourceDefinitions"),
        "version": Entry("generate", "version", "Version of this program"),
    },
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                entry = section[cmd_name]
                command = getattr(import_module(f"stentor.cli.{entry.module}"), entry.attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.text) for name, entry in section.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--kubeconfig", metavar="FILE", help="How to reach the cluster.  [default: $KUBECONFIG, ~/.kube/config]")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
@click.pass_context
def cli(ctx: click.Context, kubeconfig: str | None, context: str | None) -> None:
    """Cloud-native networking with eBPF, compatible with Cilium.

    \b
    stentor lab up                       a cluster of two nodes on this machine, in seconds
    export KUBECONFIG=$(stentor lab kubeconfig)
    stentor status --wait                is everything up?
    stentor endpoint list                which pods have networking, and with which identity?
    """
    ctx.obj = {"kubeconfig": kubeconfig, "context": context}


def main() -> None:
    """Entry point. A reader that goes away (``| head``) is no error worth a traceback."""
    try:
        cli.main(prog_name="stentor")
    except BrokenPipeError:
        sys.exit(141)


if __name__ == "__main__":
    main()
