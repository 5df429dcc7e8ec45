"""Begins a cluster as a copy of a running one."""
