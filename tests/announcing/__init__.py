"""Clusters that announce addresses on a link, and a neighbour that keeps asking who has them."""
