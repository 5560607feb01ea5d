"""``stentor agent|operator|dns|apiserver``: components take their own flags."""

from __future__ import annotations

import sys
from importlib import import_module

import click

_SETTINGS = {"ignore_unknown_options": True, "help_option_names": []}


def _component(name: str, text: str) -> click.Command:
    @click.command(name, context_settings=_SETTINGS, help=text, short_help=text)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def run(ctx: click.Context, arguments: tuple[str, ...]) -> None:
        given = ctx.obj or {}
        flags = [word for key in ("kubeconfig", "context") if given.get(key) for word in (f"--{key}", given[key])]
        sys.exit(import_module(f"stentor.{name}.command").main([*flags, *arguments]))

    return run


agent = _component("agent", "Networking of one node.")
operator = _component("operator", "Cluster-wide control: CRDs, identities, pod CIDRs.")
dns = _component("dns", "Cluster DNS.")
apiserver = _component("apiserver", "A small Kubernetes API server for lab and edge.")
