"""Clusters whose nodes speak BGP with real routers."""
