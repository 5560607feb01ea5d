"""What the agent's system tests share: sockets in pods and machines, a capture, raw CNI calls."""
