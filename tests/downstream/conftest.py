"""The toy plugin is a stranger's project: its tests run in an environment of their own, started by test_downstream."""

collect_ignore = ["dcs_file"]
