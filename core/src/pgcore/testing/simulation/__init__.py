"""A deterministic world in which real agents live: virtual time, a simulated store, servers and network, and faults from a seed.

``pgcore simulate`` runs it; docs/simulation.md says what it can show and how to add to it.
"""
