"""Tests of the functional core: worlds in, rules out."""
