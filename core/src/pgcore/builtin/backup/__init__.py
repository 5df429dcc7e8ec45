"""Replica and bootstrap methods for the tools that keep base backups and an archive of WAL, one file per tool."""
