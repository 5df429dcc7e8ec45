"""The embedded store of pgcore: the agents themselves form a Raft cluster (pysyncobj)."""
