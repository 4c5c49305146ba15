"""One model under several configurations of its server; the command is in `__main__`."""
