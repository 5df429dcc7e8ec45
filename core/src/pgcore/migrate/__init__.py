"""Moving a cluster from Patroni to pgcore and back: what a check looks at, its rules, and the steps. All of it is pure."""
