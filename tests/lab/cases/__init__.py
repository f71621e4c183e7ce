"""Tests that need two hosts: real guests under load, and what can happen to a host.

Each case is a function that gets a `Stage` (two lab hosts, clean) and returns its figures, or
raises `Failed`. The oracles lie outside the program under test: the client's flows check every
answer against all that was sent before (outlast_lab/flows.py), the journal is looked for in the
backup's disk image (outlast_lab/journal_check.py), and every frame of the guest is recorded at
the port of the host that let it out (ports.py).

Times are this machine's, of emulated hosts: they are printed, and judged only where a promise
is so coarse that noise does not reach it. What was acknowledged is judged without tolerance.
"""
