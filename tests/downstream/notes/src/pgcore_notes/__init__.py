"""Notes about a node of a cluster, kept by its agent."""
