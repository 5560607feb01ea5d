"""The lab: clusters, routers and hosts out of namespaces, with real agents, a real datapath and a real API server.

topology.py → resolution.py → plan.py        what is wanted, checked before anything is made
guard.py → daemon.py → zygote.py             the process tree: one guard outside, all else in one PID namespace
machine.py, segment.py, fault.py             namespaces, wires, and what can be done to them
component.py, supervisor.py, readiness.py    what runs in the machines, kept running, until ready
control.py, relay.py, place.py               how commands and kubectl reach a lab, and where its files are
"""
