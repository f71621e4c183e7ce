"""The lab: emulated hosts with real KVM, their network, and a client beside them.

One module per noun: `instance` (names and places), `process` (what was started, and only
that is ended), `network`, `capture`, `hostimage`, `disk`, `emulator`, `agent`, `transfer`,
`lifecycle` (up, down, reaper), `cli`; and the client: `client`, `flows`, `meters`,
`journal_check`.
"""
