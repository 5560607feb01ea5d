"""The operator, one leader a cluster: CRDs, pod CIDRs of nodes, identities, garbage collection. Its state is the API's."""
