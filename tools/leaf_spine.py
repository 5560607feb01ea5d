"""The demo's leaf-spine part: three nodes announce services by BGP to two routers, and parts of it die under traffic."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from stage import Failed, Stage, section, tell

FOLDER = "examples/bgp-lab"
CLUSTER = "rack"
EVERYWHERE, LOCAL = ("203.0.113.1", "2001:db8:113::1"), ("203.0.113.2", "2001:db8:113::2")
NODES = {"node-1": "172.20.1.11", "node-2": "172.20.1.12", "node-3": "172.20.1.13"}
TORS = ("tor-1", "tor-2")
DEATH_S = 1.8
UNANSWERED_S = 0.6  # after it a request has its answer or has failed: the prober's limit of 0.4 s, on a busy machine


class Fabric:
    """Comes up and begins to speak BGP in the background of the demo's first part."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._up_command = ("stentor", "lab", "up", f"{FOLDER}/topology.yaml", "--name", stage.lab)
        self._up = stage.start(*self._up_command, *stage.leash)
        self._arrived = stage.soon(self._arrive)

    def play(self) -> None:
        with section("A rack of three nodes, two top-of-rack routers (BIRD and FRR), a spine, a client behind it"):
            for command, output in self._arrived.result():
                tell(command, output)
        with section("An outside host reaches services and pods"):
            self._reach()
        with section("A pod that only its own node serves becomes unready"):
            self._unready()
        with section("Agent and BGP speaker of a node are killed: graceful restart"):
            self._restart()
        with section("A top-of-rack router dies"):
            self._die("tor-2", "everything moves to the other router", EVERYWHERE[0], aim_ms=300)
        with section("A node dies"):
            self._die("node-3", "web-local moves to the other nodes", LOCAL[0], aim_ms=1000)

    def close(self) -> None:
        """Takes the lab down, also one that is still coming up."""
        if self._up.poll() is None:
            self._up.terminate()
            self._up.wait(30)
        self.stage.down()

    def _arrive(self) -> list[tuple[tuple[str, ...], str]]:
        """What was done to let the rack speak BGP: commands and their output."""
        output, errors = self._up.communicate(timeout=60)
        if self._up.returncode:
            raise Failed(f"{' '.join(self._up_command)}\n{errors}")
        done: list[tuple[tuple[str, ...], str]] = [(self._up_command, output)]
        stage = self.stage

        def run(*command: str) -> None:
            done.append((command, stage.run(*command)))

        stage.use_lab()
        run("kubectl", "apply", "-f", f"{FOLDER}/web.yaml", "-f", f"{FOLDER}/bgp.yaml")
        stage.kubectl(CLUSTER, "rollout", "status", "daemonset/web", "--timeout=60s")
        stage.until("routers know all ways", self._is_complete, 30)
        run("stentor", "bgp", "peers")
        run(*stage.inside("spine", "ip", "route", "show", EVERYWHERE[0]))
        return done

    def _is_complete(self) -> bool:
        """The spine knows two ways to each service, each router three, each node two ways out."""
        spine = self._ways("spine")
        return (
            all(len(spine.get(address, ())) == len(TORS) for address in (*EVERYWHERE, *LOCAL))
            and all(
                ways.get(address) == set(NODES.values())
                for ways in map(self._ways, TORS)
                for address in (EVERYWHERE[0], LOCAL[0])
            )
            and all(len(self._ways(node).get("192.0.2.0/24", ())) == len(TORS) for node in NODES)
        )

    def _ways(self, machine: str) -> dict[str, set[str]]:
        """Gateways of a machine's routes, by destination."""
        output = self.stage.exec(machine, "sh", "-c", "ip -j route show; ip -j -6 route show")
        routes = [route for line in output.splitlines() if line.startswith("[") for route in json.loads(line)]
        return {
            route["dst"]: {hop["gateway"] for hop in route.get("nexthops", [route]) if "gateway" in hop}
            for route in routes
        }

    def _probe(self, address: str, seconds: float) -> Probe:
        """Starts asking a service from outside."""
        command = ("python3", "-", address, "--seconds", str(seconds), "--json")
        return Probe(self.stage.start(*self.stage.inside("client", *command), script=f"{FOLDER}/probe.py"))

    def _reach(self) -> None:
        stage = self.stage
        before = self._carried()
        pods_answer = stage.soon(self._ask_pod)
        probes = [(address, self._probe(address, 1)) for address in (*EVERYWHERE, LOCAL[0])]
        for address, probe in probes:
            found = probe.results()
            by = Counter(each["by"] for each in found if each["by"])
            told = ", ".join(f"{count} by {name}" for name, count in sorted(by.items()))
            good = sum(by.values()) == len(found) and len(by) == len(NODES)
            stage.record(good, f"client to {address}: {len(found)} connections, answered {told}")
        carried = [after - earlier for earlier, after in zip(before, self._carried(), strict=True)]
        told = ", ".join(f"{name} {count}" for name, count in zip(TORS, carried, strict=True))
        stage.record(min(carried) > 20, f"both routers carried packets of it (ECMP): {told}")
        for address, good in pods_answer.result():
            stage.record(good, f"client to a pod by its own address {address}, over the advertised pod CIDR")
        stage.show("stentor", "bgp", "why", f"{LOCAL[0]}/32", "--node", "node-1")

    def _ask_pod(self) -> list[tuple[str, bool]]:
        """A pod's addresses, and whether it answers the client there."""
        pod = self.stage.json(CLUSTER, "get", "pods", "-l", "app=web")["items"][0]
        found = []
        for address in (each["ip"] for each in pod["status"]["podIPs"]):
            url = f"http://[{address}]:3000/" if ":" in address else f"http://{address}:3000/"
            answer = json.loads(self.stage.exec("client", "curl", "-s", "-g", "--max-time", "3", url))
            found.append((address, answer["pod"] == pod["metadata"]["name"]))
        return found

    def _carried(self) -> list[int]:
        """Packets that came to each router from above."""
        link = ("ip", "-s", "-j", "link", "show", "eth1")
        outputs = [self.stage.soon(self.stage.exec, tor, *link) for tor in TORS]
        return [json.loads(output.result())[0]["stats64"]["rx"]["packets"] for output in outputs]

    def _unready(self) -> None:
        """The route goes when the endpoint is no longer ready: kubectl's watch against the routers' own tables."""
        stage = self.stage
        pod = next(
            each
            for each in stage.json(CLUSTER, "get", "pods", "-l", "app=web")["items"]
            if each["spec"]["nodeName"] == "node-3"
        )["metadata"]["name"]
        ready = 'custom-columns=R:.status.conditions[?(@.type=="Ready")].status'
        with Lines(stage.start("kubectl", "get", "pod", pod, "-w", "--no-headers", "-o", ready)) as watch:
            monitor_routes = ("sh", "-c", "echo ready; exec ip -o -ts -4 monitor route")
            monitors = {tor: Lines(stage.start(*stage.inside(tor, *monitor_routes))) for tor in TORS}
            for monitor in monitors.values():
                monitor.wait_for(lambda line: line.strip() == "ready")
            watch.wait_for(lambda line: line.strip() == "True")
            time.sleep(0.2)  # from `ready` to ip's subscription
            stage.kubectl(CLUSTER, "exec", pod, "--", "touch", "/tmp/unready")
            seen = watch.wait_for(lambda line: line.strip() == "False")
            for tor, monitor in monitors.items():
                with monitor:
                    line = monitor.wait_for(lambda line: LOCAL[0] in line and NODES["node-3"] not in line)
                # kubectl's watch has a delay of its own, and may come last.
                gone_ms = None if seen is None or line is None else max(0.0, (_stamp(line[1]) - seen[0]) * 1000)
                stage.measure(f"pod unready (as kubectl sees it) to the route's end in {tor}", gone_ms, 100)
        stage.show("stentor", "bgp", "why", f"{LOCAL[0]}/32", "--node", "node-3")
        stage.kubectl(CLUSTER, "exec", pod, "--", "rm", "/tmp/unready")
        # Not left to the background: routers that get another way move connections, and may break those just made.
        stage.until("the route is back", lambda: all(NODES["node-3"] in self._ways(t).get(LOCAL[0], ()) for t in TORS))

    def _restart(self) -> None:
        """The client goes on asking until the new speaker has its sessions, and a little longer."""
        probes = {address: self._probe(address, 60) for address in (EVERYWHERE[0], LOCAL[0])}
        self._kill("node-1/bgp", "node-1/agent")
        try:
            self.stage.until("the sessions are back", lambda: self._established("node-1") == len(TORS))
        finally:
            time.sleep(UNANSWERED_S)
            found = {address: probe.stop() for address, probe in probes.items()}
        for address, connections in found.items():
            lost = sum(1 for each in connections if each["error"])
            self.stage.record(lost == 0, f"{address}: {len(connections)} connections, {lost} lost")

    def _established(self, node: str) -> int:
        """Sessions of a node; none while its agent does not answer."""
        try:
            found = json.loads(self.stage.run("stentor", "bgp", "peers", "--node", node, "-o", "json"))
        except Failed:
            return 0
        return sum(1 for each in found if each["sessionState"] == "established")

    def _kill(self, *targets: str) -> None:
        self.stage.run("stentor", "lab", "kill", "--name", self.stage.lab, *targets)

    def _die(self, machine: str, what: str, address: str, *, aim_ms: float) -> None:
        probe = self._probe(address, DEATH_S)
        self._kill(machine)
        found = probe.results()
        failed = [each["start"] for each in found if each["error"]]
        window_ms = (failed[-1] - failed[0]) * 1000 + 10 if failed else 0.0
        self.stage.measure(
            f"{machine} dies, {what}: {len(failed)} of {len(found)} connections lost, within",
            window_ms,
            aim_ms,
        )
        self.stage.record(not any(each["error"] for each in found[-30:]), "all later ones are answered")


class Lines:
    """A running command's lines with the time of their arrival."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.Queue[tuple[float, str]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def wait_for(self, wanted: Callable[[str], bool], limit_s: float = 10) -> tuple[float, str] | None:
        """The next line that is wanted; None when it does not come."""
        end = time.monotonic() + limit_s
        while (left := end - time.monotonic()) > 0:
            try:
                found = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if wanted(found[1]):
                return found
        return None

    def rest(self) -> list[str]:
        """What is left when the command ends."""
        self._reader.join()
        self._process.wait()
        return [self._lines.get()[1] for _ in range(self._lines.qsize())]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put((time.time(), line))


class Probe:
    """Requests of a running prober, once the first one has its result."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines = Lines(process)
        self._first = self._lines.wait_for(lambda _: True)
        if self._first is None:
            process.terminate()
            assert process.stderr is not None
            raise Failed(f"the prober asks nothing\n{process.stderr.read()}")

    def results(self) -> list[dict[str, Any]]:
        """Waits for the end, and returns every request by its time."""
        assert self._first is not None
        found = [json.loads(line) for line in (self._first[1], *self._lines.rest())]
        return sorted(found, key=lambda each: float(each["start"]))

    def stop(self) -> list[dict[str, Any]]:
        """Ends it, and returns the requests that had time for an answer: no failure is left out."""
        before = time.monotonic() - UNANSWERED_S
        self._process.terminate()
        return [each for each in self.results() if each["start"] < before]


def _stamp(line: str) -> float:
    """The time that `ip -ts monitor` wrote in front."""
    return datetime.fromisoformat(line.partition("]")[0].lstrip("[")).timestamp()
