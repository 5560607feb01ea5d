"""The command line: what it prints, what it refuses, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from stentor.cli.inspect import choose
from stentor.cli.main import COMMANDS, cli
from stentor.cli.output import table
from stentor.cli.relay import AgentError, AgentPod, parse_answer


def invoke(*arguments: str, environment: dict[str, Any] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env={"KUBECONFIG": "", "HOME": "/nonexistent"} | (environment or {}))


@pytest.mark.parametrize("name", [name for section in COMMANDS.values() for name in section])
def test_every_command_of_the_overview_exists(name: str) -> None:
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.name in (name, "run")


def test_help_pays_for_nothing() -> None:
    """Half the time of a start is imports: the overview must need none of the components'."""
    code = (
        "import sys; sys.argv = ['stentor', '--help']\n"
        "from stentor.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'asyncio', 'msgspec', 'pyroute2', 'yaml', 'cryptography', 'prometheus_client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert "Look at a cluster" in done.stdout
    assert done.stderr.strip() == "[]"


def test_crds_as_manifests() -> None:
    done = invoke("crd")
    kinds = [document["spec"]["names"]["kind"] for document in yaml.safe_load_all(done.output)]
    assert {"CiliumNode", "CiliumEndpoint", "CiliumIdentity", "CiliumLoadBalancerIPPool"} <= set(kinds)
    assert len(kinds) == len(set(kinds))
    assert (
        json.loads(invoke("crd", "-o", "json", "cep").output)["items"][0]["spec"]["names"]["kind"] == "CiliumEndpoint"
    )
    done = invoke("crd", "cep", "nothing")
    assert done.exit_code == 1
    assert "no definition named nothing; there are: CiliumBGPAdvertisement, " in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status",), "no kubeconfig: give --kubeconfig FILE or set KUBECONFIG"),
        (("endpoint", "list"), "no kubeconfig"),
        (("status", "--wait"), "no kubeconfig"),
        (("--kubeconfig", "/nonexistent/file", "node", "list"), "/nonexistent/file: No such file"),
        (("status", "--wait", "--wait-duration", "soon"), "'soon' is no duration"),
        (("bpf", "what", "list"), "No such command 'what'"),
        (("endpoint", "list", "-o", "xml"), "'xml' is not one of"),
    ],
)
def test_refusals_say_what_to_do(arguments: tuple[str, ...], words: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code != 0
    assert words in done.output


def test_tables_line_up() -> None:
    assert table(("A", "LONG"), [("x\ny", 1), ("", "é")]).split("\n") == ["A   LONG", "x   1", "y", "    é"]


AGENTS = [AgentPod("n1", "cilium-n1", "Running", True), AgentPod("n2", "cilium-n2", "Running", True)]


def test_agents_by_node() -> None:
    assert [agent.node for agent in choose(AGENTS, ("n2",))] == ["n2"]
    assert len(choose(AGENTS, ())) == 2
    with pytest.raises(AgentError, match="no agent on node n3; there are: n1, n2"):
        choose(AGENTS, ("n3",))
    with pytest.raises(AgentError, match="no agent runs"):
        choose([], ())


def test_answers_of_agents() -> None:
    raw = b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"error":"no x"}'
    assert parse_answer(raw.replace(b"15", b"16")) == (404, {"error": "no x"})
    with pytest.raises(AgentError):
        parse_answer(b"nonsense")
