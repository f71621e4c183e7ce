"""`outlast demo`: a guest, its backup, a power cut and a client, told as it happens.

`main` reads the command line and makes sure that it can run and that it cleans up, `guests` says
what is booted, `acts` is the story in its order, `screen` prints it, `evidence` judges what was
seen, `report` writes report.json and the summary. Hosts, VMMs and traffic are those of the
two-host tests (`cases`).

A verdict needs all of it: every answer of every flow right on its one connection, every
acknowledged journal line on the disk that the guest goes on with, that disk's file system clean,
and no frame of the guest from the dead host after the first one from the other.
"""
