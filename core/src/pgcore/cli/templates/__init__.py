"""What ``pgcore plugin new`` writes: one folder for each kind, ``common`` for all. ``$name`` and such are filled in."""
