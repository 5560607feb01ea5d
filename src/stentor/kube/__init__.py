"""Client of the Kubernetes API: requests, reflectors, leader election, events. The same code talks to any API server."""
